"""Many events as tables: nothing is lost, and what looks like a list of events is one."""

import copy
import pickle

import numpy as np
import pytest

from hookline import Events, EventStorage, EventTable, Histogram, Scalar, as_tables
from hookline.checkpoint import decode, encode
from hookline.events.table import EventLog

HISTOGRAM = Histogram(np.ones(1, np.int64), np.arange(2.0), 1, 0.0, 1.0, 0.5, 0.25)


def told(num_iters: int = 20) -> list[Events]:
    """Return events of every kind: some iterations have one more scalar, some have more than scalars."""
    storage, events = EventStorage(start_iter=3), []
    for i in range(num_iters):
        storage.put_scalar("loss", 1 / (i + 1))
        storage.put_scalar("lr", 0.1 * i, smoothing_hint=False)
        if i % 4 == 3:
            storage.put_timings({"plugin_s/a": float(i)})
        if i % 7 == 6:
            storage.put_text("note", f"at {i}")
        if i == 10:
            storage.put_scalar("loss", 5.0, volatile=True)
        events += storage.step()
    return events


def states(events: list[Events]) -> list[dict]:
    return [event.to_state() for event in events]


def test_a_log_gives_back_the_events_it_was_given():
    events = told()
    log = EventLog.of(events)
    assert states(log) == states(events)
    assert (len(log), log[3].iteration, log[-1].iteration) == (20, 6, 22)
    assert [event.iteration for event in log[4:6]] == [7, 8]
    assert (log.first_iteration(), log.last_iteration()) == (3, 22)


def test_events_of_one_log_are_the_same_objects_each_time():
    log = EventLog.of(told())
    other = EventLog(log.tables)
    assert all(one is two for one, two in zip(log, other, strict=True))
    assert log[0] is next(iter(log))


def test_iterations_with_the_same_scalars_share_a_table():
    tables = as_tables(told(6))
    assert [(table.names, len(table.rows)) for table in tables] == [
        (("loss", "lr"), 3),
        (("loss", "lr", "plugin_s/a"), 1),
        (("loss", "lr"), 2),
    ]
    iteration, _, loss, lr = tables[0].rows[1]
    assert (iteration, loss, lr) == (4, 0.5, 0.1)
    assert tables[1].flags["plugin_s/a"] == (True, True)


def test_scalars_put_otherwise_than_before_begin_a_table():
    events = [Events(i, 0.0, {"a": Scalar(1.0, smoothing_hint=i < 2)}) for i in range(4)]
    assert [(len(table.rows), table.flags["a"]) for table in as_tables(events)] == [
        (2, (True, False)),
        (2, (False, False)),
    ]


@pytest.mark.parametrize(
    "rest",
    [
        {"images": {"x": np.zeros((1, 2, 2), np.uint8)}},
        {"histograms": {"x": HISTOGRAM}},
        {"texts": {"x": "hi"}},
        {"hparams": {"lr": 0.1}},
    ],
    ids=lambda rest: next(iter(rest)),
)
def test_an_iteration_with_more_than_scalars_has_a_table_of_its_own(rest):
    scalars = {"a": Scalar(1.0)}
    full = Events(1, 5.0, scalars, **rest)
    tables = as_tables([Events(0, 4.0, scalars), full, Events(2, 6.0, scalars)])
    assert [table.rest for table in tables] == [None, full, None]
    assert [table.rows for table in tables] == [[(0, 4.0, 1.0)], [(1, 5.0, 1.0)], [(2, 6.0, 1.0)]]


@pytest.mark.parametrize("size", [1, 3, 4, 7, 20, 100])
def test_a_log_is_split_into_logs_of_bounded_size(size):
    log = EventLog.of(told())
    parts = log.split(size)
    assert [len(part) for part in parts] == [min(size, 20 - start) for start in range(0, 20, size)]
    assert [event for part in parts for event in states(part)] == states(log)
    assert sum(part.num_bytes for part in parts) == log.num_bytes


def test_the_size_of_a_log_counts_what_is_large():
    small, large = (Events(0, 0.0, images={"x": np.zeros((1, n, n), np.uint8)}) for n in (1, 100))
    assert EventLog.of([large]).num_bytes - EventLog.of([small]).num_bytes == 9999


def test_tables_of_a_log_are_not_made_again():
    log = EventLog.of(told())
    assert as_tables(log) is log.tables
    assert isinstance(log.tables[0], EventTable)


def test_a_log_is_the_same_after_a_checkpoint():
    storage = EventStorage(start_iter=100)
    storage.put_scalars({"nan": float("nan"), "inf": float("inf"), "tiny": 5e-324, "third": 1 / 3})
    storage.put_image("x", np.full((1, 2, 2), 7, np.uint8))
    log = EventLog.of([*told(), *storage.step()])
    restored = EventLog.from_state(decode(*encode(log.to_state())))
    for one, two in zip(log, restored, strict=True):
        np.testing.assert_equal(two.to_state(), one.to_state())


def test_the_state_of_a_log_grows_by_few_nodes():
    state = EventLog.of(told(400)).to_state()
    assert len(state["tables"]) < 8
    assert sum(len(table["rows"]) for table in state["tables"]) + len(state["rest"]) == 400


# -- events, which a log makes when somebody looks -------------------------------------------------


def test_values_and_flags_are_those_of_the_scalars_however_events_are_made():
    made = Events(1, 2.0, {"a": Scalar(1.5, False, True), "b": Scalar(2.5)})
    (stored,) = told(1)
    assert (made.values, made.flags) == ({"a": 1.5, "b": 2.5}, {"a": (False, True), "b": (True, False)})
    assert stored.values == {"loss": 1.0, "lr": 0.0}
    assert stored.scalars == {"loss": Scalar(1.0), "lr": Scalar(0.0, smoothing_hint=False)}
    assert stored.scalars is stored.scalars


def test_a_misspelt_attribute_of_events_is_an_error():
    with pytest.raises(AttributeError, match="'Events' object has no attribute 'scalar'"):
        _ = told(1)[0].scalar


def test_flags_of_sealed_events_do_not_change_with_later_puts():
    storage = EventStorage()
    storage.put_scalar("a", 1.0)
    (first,) = storage.step()
    storage.put_scalar("a", 1.0, smoothing_hint=False)
    storage.put_scalar("b", 1.0, volatile=True)
    (second,) = storage.step()
    assert first.scalars == {"a": Scalar(1.0)}
    assert second.scalars == {"a": Scalar(1.0, smoothing_hint=False), "b": Scalar(1.0, volatile=True)}


@pytest.mark.parametrize(
    "copy_of", [copy.copy, copy.deepcopy, lambda event: pickle.loads(pickle.dumps(event))]
)
def test_events_can_be_copied_and_sent_to_another_process(copy_of):
    for event in told(8):
        assert copy_of(event).to_state() == event.to_state()
