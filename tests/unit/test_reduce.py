import json
import math

import numpy as np
import pytest

from hookline import Events, EventStorage, Histogram, PeriodReducer, Scalar


def loss(value):
    return Scalar(value)


def exact(value):
    return Scalar(value, smoothing_hint=False)


def points(events):
    return {e.iteration: {name: scalar.value for name, scalar in e.scalars.items()} for e in events}


def stream(num_iters, start_iter=0):
    """A loss and an lr in every iteration, an evaluation every 7."""
    for i in range(start_iter, num_iters):
        scalars = {"loss": loss(float(i)), "lr": exact(i / 10)}
        if i % 7 == 6:
            scalars["eval/loss"] = exact(100.0 + i)
        yield Events(i, 1000.0 + i, scalars=scalars)


def test_smoothed_scalar_becomes_its_mean_at_the_end_of_the_period():
    events = [Events(i, 0.0, {"loss": loss(float(i))}) for i in range(8)]
    assert points(PeriodReducer(4).reduce(events)) == {3: {"loss": 1.5}, 7: {"loss": 5.5}}


def test_smoothed_scalar_put_in_some_iterations_becomes_the_mean_of_those():
    events = [
        Events(0, 0.0, {"time": loss(2.0)}),
        Events(2, 0.0, {"time": loss(4.0)}),
        Events(3, 0.0, {"lr": exact(1)}),
    ]
    assert points(PeriodReducer(4).reduce(events)) == {3: {"lr": 1.0, "time": 3.0}}


def test_scalar_put_in_every_iteration_without_smoothing_becomes_its_last_value():
    events = [Events(i, 0.0, {"lr": exact(float(i))}) for i in range(8)]
    assert points(PeriodReducer(4).reduce(events)) == {3: {"lr": 3.0}, 7: {"lr": 7.0}}


def test_sparse_scalar_keeps_every_value_at_its_own_iteration():
    events = [Events(i, 0.0, {"eval/loss": exact(float(i))}) for i in (0, 1, 2, 5)]
    assert points(PeriodReducer(4).reduce(events) or []) == {i: {"eval/loss": float(i)} for i in (0, 1, 2)}


def test_scalar_that_misses_one_iteration_of_the_period_is_sparse():
    events = [
        Events(i, 0.0, {"a": exact(1.0), **({"b": exact(float(i))} if i != 2 else {})}) for i in range(4)
    ]
    assert points(PeriodReducer(4).reduce(events)) == {0: {"b": 0}, 1: {"b": 1}, 3: {"b": 3, "a": 1}}


def test_events_come_out_in_iteration_order_at_most_one_for_an_iteration():
    iterations = [e.iteration for e in PeriodReducer(10).reduce(list(stream(60)))]
    assert iterations == sorted(set(iterations))
    assert set(iterations) == {9, 19, 29, 39, 49, 59} | {6, 13, 20, 27, 34, 41, 48, 55}


def test_what_is_not_a_scalar_is_unchanged_and_at_its_own_iteration():
    image = np.zeros((1, 2, 2), np.uint8)
    event = Events(1, 5.0, {"loss": loss(1.0)}, images={"x": image}, texts={"t": "hi"}, hparams={"lr": 1})
    (kept,) = PeriodReducer(4).reduce([event, Events(4, 6.0, {"loss": loss(2.0)})])
    assert kept.images["x"] is image
    assert (kept.iteration, kept.time_s, kept.texts, kept.hparams) == (1, 5.0, {"t": "hi"}, {"lr": 1})
    assert kept.scalars == {"loss": loss(1.0)}


def test_period_without_events_at_its_end_is_complete_when_the_next_one_begins():
    reducer = PeriodReducer(4)
    assert reducer.reduce([Events(1, 7.0, {"loss": loss(3.0)})]) == []
    (kept,) = reducer.reduce([Events(9, 0.0, {"loss": loss(8.0)})])
    assert (kept.iteration, kept.time_s, kept.scalars["loss"].value) == (1, 7.0, 3.0)


def test_flush_gives_the_unfinished_period_once():
    reducer = PeriodReducer(10)
    assert list(points(reducer.reduce(list(stream(13))))) == [6, 9]
    assert points(reducer.flush()) == {12: {"loss": 11.0, "lr": 1.2}}
    assert reducer.flush() == []


def test_stream_that_starts_within_a_period_counts_from_there():
    reduced = PeriodReducer(10, start_iter=5).reduce([Events(i, 0.0, {"lr": exact(i)}) for i in range(5, 10)])
    assert points(reduced) == {9: {"lr": 9}}


def test_stream_that_starts_within_a_period_counts_from_there_after_a_cut_too():
    events = [Events(i, 0.0, {"lr": exact(i)}) for i in range(5, 10)]
    before = PeriodReducer(10, start_iter=5)
    before.reduce(events[:2])
    after = PeriodReducer(10, start_iter=7)
    after.load_state_dict(before.state_dict())
    assert points(after.reduce(events[2:])) == {9: {"lr": 9}}


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("images", np.zeros((1, 2, 2), np.uint8)),
        ("histograms", Histogram(np.ones(1, np.int64), np.arange(2.0), 1, 0.0, 1.0, 0.5, 0.25)),
        ("texts", "hi"),
        ("hparams", 1),
    ],
)
def test_iteration_with_nothing_but_one_kind_comes_out(kind, value):
    (kept,) = PeriodReducer(2).reduce([Events(0, 0.0, **{kind: {"x": value}}), Events(1, 0.0)])
    assert (kept.iteration, getattr(kept, kind)) == (0, {"x": value})


def test_stream_goes_on_after_a_flush():
    reducer = PeriodReducer(10)
    reducer.reduce(list(stream(13)))
    reducer.flush()
    assert points(reducer.reduce(list(stream(20, start_iter=13)))) == {
        13: {"eval/loss": 113.0},
        19: {"loss": 16.0, "lr": 1.9},
    }


@pytest.mark.parametrize("cut", range(1, 34))
def test_points_are_the_same_wherever_the_stream_is_cut(cut):
    events = list(stream(33))
    whole = PeriodReducer(10)
    expected = [e.to_state() for e in [*whole.reduce(events), *whole.flush()]]

    before = PeriodReducer(10)
    done = before.reduce(events[:cut])
    after = PeriodReducer(10, start_iter=cut)
    after.load_state_dict(json.loads(json.dumps(before.state_dict())))
    done += [*after.reduce(events[cut:]), *after.flush()]
    assert [e.to_state() for e in done] == expected


@pytest.mark.parametrize("size", [1, 3, 10, 33])
def test_points_do_not_depend_on_how_events_are_delivered(size):
    events = list(stream(33))
    reducer = PeriodReducer(10)
    done = [e for i in range(0, 33, size) for e in reducer.reduce(events[i : i + size])]
    assert points(done) == points(PeriodReducer(10).reduce(events))


def test_images_that_are_held_back_survive_a_cut():
    before = PeriodReducer(4)
    before.reduce([Events(1, 0.0, images={"x": np.full((1, 2, 2), 9, np.uint8)})])
    after = PeriodReducer(4)
    after.load_state_dict(before.state_dict())
    (kept,) = after.flush()
    assert kept.images["x"].tolist() == [[[9, 9], [9, 9]]]


@pytest.mark.parametrize("period", [0, 1])
def test_period_of_0_or_1_keeps_every_value_at_once(period):
    events = list(stream(9))
    reducer = PeriodReducer(period)
    assert points([kept for e in events for kept in reducer.reduce([e])]) == points(events)
    assert reducer.flush() == []


def test_one_nan_makes_the_mean_nan_and_volatile_stays_volatile():
    events = [
        Events(0, 0.0, {"a": loss(math.nan), "t": Scalar(1.0, True, True)}),
        Events(1, 0.0, {"a": loss(1.0)}),
    ]
    (kept,) = PeriodReducer(2).reduce(events)
    assert math.isnan(kept.scalars["a"].value)
    assert kept.scalars["t"] == Scalar(1.0, smoothing_hint=True, volatile=True)


def test_events_given_are_never_changed():
    event = Events(0, 0.0, {"loss": loss(1.0), "lr": exact(2.0)})
    PeriodReducer(1).reduce([event])
    assert event.scalars == {"loss": loss(1.0), "lr": exact(2.0)}


def test_storage_feeds_it():
    reducer = PeriodReducer(5)
    done = []
    with EventStorage() as storage:
        storage.attach(lambda events: done.extend(reducer.reduce(events)) if events else None)
        for i in range(10):
            storage.put_scalar("loss", i)
            storage.step()
    assert points(done) == {4: {"loss": 2.0}, 9: {"loss": 7.0}}
