"""The storage: what is put, what is sealed, what is remembered."""

import asyncio
import contextvars
import json
import math
import sys
import threading

import numpy as np
import pytest
import torch

from hookline import Events, EventStorage, Scalar, get_event_storage
from hookline.errors import RunError


def values(events: list[Events]) -> list[tuple[int, dict[str, float]]]:
    return [
        (each.iteration, {name: scalar.value for name, scalar in each.scalars.items()}) for each in events
    ]


def through_json(state: object) -> object:
    """Return ``state`` as a checkpoint would: JSON for all but arrays."""
    if isinstance(state, dict):
        return {str(key): through_json(value) for key, value in state.items()}
    if isinstance(state, np.ndarray):
        return state.copy()
    return json.loads(json.dumps(state)) if not isinstance(state, list) else [through_json(x) for x in state]


# -- scalars ---------------------------------------------------------------------------------------


def test_step_returns_what_was_put_in_the_iteration_it_seals():
    storage = EventStorage(start_iter=7)
    storage.put_scalar("total_loss", 1.5)
    storage.put_scalars(lr=0.1, smoothing_hint=False)
    (events,) = storage.step()
    assert (events.iteration, storage.iter) == (7, 8)
    assert events.scalars == {"total_loss": Scalar(1.5, True, False), "lr": Scalar(0.1, False, False)}
    assert events.time_s > 1e9


def test_scalars_are_put_by_a_mapping_or_by_name():
    storage = EventStorage()
    storage.put_scalars({"loss/x": 1.0, "scalars": 2.0}, y=3.0)
    storage.put_scalars()
    assert values(storage.step()) == [(0, {"loss/x": 1.0, "scalars": 2.0, "y": 3.0})]


def test_timings_are_told_but_have_no_history():
    storage = EventStorage()
    storage.put_timings({"plugin_s/a": 0.5})
    storage.put_scalar("plugin_s/b", 1.0)
    storage.put_timings({"plugin_s/b": 2.0})
    (events,) = storage.step()
    assert events.scalars == {"plugin_s/b": Scalar(2.0, True, True), "plugin_s/a": Scalar(0.5, True, True)}
    assert list(storage.histories()) == ["plugin_s/b"]
    with pytest.raises(KeyError, match="There are: plugin_s/b"):
        storage.history("plugin_s/a")


def test_an_iteration_without_puts_has_no_events_but_counts():
    storage = EventStorage()
    assert storage.step() == []
    storage.put_scalar("a", 1)
    assert values(storage.step()) == [(1, {"a": 1.0})]
    assert storage.arrived_iter == 2


@pytest.mark.parametrize(
    "value",
    [
        2,
        2.0,
        np.float32(2),
        np.int64(2),
        np.array([2.0]),
        torch.tensor(2),
        torch.tensor([[2.0]], requires_grad=True),
        torch.tensor(2.0, dtype=torch.bfloat16),
    ],
    ids=repr,
)
def test_numbers_of_every_kind_become_floats(value):
    storage = EventStorage()
    storage.put_scalar("a", value)
    (events,) = storage.step()
    assert type(events.scalars["a"].value) is float
    assert events.scalars["a"].value == 2.0


@pytest.mark.parametrize("value", [True, np.bool_(True), torch.tensor(True)], ids=repr)
def test_a_truth_value_is_one(value):
    storage = EventStorage()
    storage.put_scalar("a", value)
    assert values(storage.step()) == [(0, {"a": 1.0})]


def test_a_tensor_changed_after_the_put_does_not_change_the_value():
    storage = EventStorage()
    total = torch.tensor(1.0)
    storage.put_scalar("a", total)
    total.add_(5)
    assert values(storage.step()) == [(0, {"a": 1.0})]


@pytest.mark.parametrize("value", ["1", None, 1j, np.complex64(1), torch.tensor(1j), [1.0], {}], ids=repr)
def test_what_is_no_real_number_is_refused_by_name_and_iteration(value):
    storage = EventStorage(start_iter=3)
    with pytest.raises(TypeError, match=r"^scalar 'eval/a' at iteration 3: expected a real number, got"):
        storage.put_scalar("eval/a", value)
    assert storage.step() == []


@pytest.mark.parametrize("value", [torch.ones(2), np.ones((2, 1)), torch.ones(0)], ids=repr)
def test_several_elements_are_refused_with_their_shape(value):
    with pytest.raises(ValueError, match=r"scalar 'a' at iteration 0: expected one number, got .shape \("):
        EventStorage().put_scalar("a", value)


def test_a_tensor_without_a_value_is_refused():
    with pytest.raises(TypeError, match=r"torch\.float32 on meta"):
        EventStorage().put_scalar("a", torch.ones((), device="meta"))


def test_an_integer_beyond_floats_is_refused():
    with pytest.raises(ValueError, match="within the range of a float"):
        EventStorage().put_scalar("a", 10**400)


@pytest.mark.parametrize("name", ["", None, 3, b"a"])
@pytest.mark.parametrize("put", ["put_scalar", "put_text"])
def test_a_name_is_a_non_empty_string(put, name):
    with pytest.raises(ValueError, match="expected a non-empty string as name"):
        getattr(EventStorage(), put)(name, 1.0)


def test_the_name_iteration_is_taken():
    with pytest.raises(ValueError, match="key of the iteration itself"):
        EventStorage().put_scalar("iteration", 1.0)


def test_one_name_is_of_one_kind():
    storage = EventStorage()
    storage.put_text("a", "x")
    with pytest.raises(ValueError, match="expected a name not used for a text, got 'a'"):
        storage.put_scalar("a", 1.0)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_non_finite_values_are_kept(number):
    storage = EventStorage()
    storage.put_scalar("a", number)
    (events,) = storage.step()
    np.testing.assert_equal(events.scalars["a"].value, number)
    np.testing.assert_equal(storage.history("a").latest(), number)


def test_two_puts_of_one_scalar_in_an_iteration_are_averaged():
    storage = EventStorage()
    for value in (1.0, 2.0, 6.0):
        storage.put_scalar("a", value)
    assert storage.history("a").values() == [(3.0, 0)]
    assert values(storage.step()) == [(0, {"a": 3.0})]
    storage.put_scalar("a", 5.0)
    assert values(storage.step()) == [(1, {"a": 5.0})]
    assert storage.history("a").global_avg() == 4.0


def test_the_last_put_decides_hint_and_volatility():
    storage = EventStorage()
    storage.put_scalar("a", 1.0, True)
    storage.put_scalar("a", 1.0, False, volatile=True)
    (events,) = storage.step()
    assert events.scalars["a"] == Scalar(1.0, False, True)


def test_threads_that_put_at_once_lose_nothing():
    storage = EventStorage()
    barrier = threading.Barrier(4, timeout=10)

    def work() -> None:
        for index in range(300):
            barrier.wait()
            get_event_storage().put_scalar(f"s{index}", 1.0)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with storage:
            contexts = [contextvars.copy_context() for _ in range(4)]
            threads = [
                threading.Thread(target=context.run, args=(work,), daemon=True) for context in contexts
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert [len(puts) for puts in storage.state_dict()["open"]["puts"].values()] == [4] * 300


# -- names -----------------------------------------------------------------------------------------


def test_name_scopes_nest_and_end():
    storage = EventStorage()
    with storage.name_scope("eval"), storage.name_scope("/test/"):
        storage.put_scalars(a=1)
        storage.put_text("note", "x")
    storage.put_scalar("a", 2)
    (events,) = storage.step()
    assert {**events.scalars, **events.texts}.keys() == {"eval/test/a", "a", "eval/test/note"}


def test_a_name_scope_ends_with_an_exception():
    storage = EventStorage()
    with pytest.raises(KeyError), storage.name_scope("a"), storage.name_scope("b"):
        raise KeyError
    storage.put_scalar("c", 1)
    assert list(storage.latest()) == ["c"]


@pytest.mark.parametrize("name", ["", "/", None])
def test_a_name_scope_needs_a_name(name):
    with (
        pytest.raises(ValueError, match="name_scope: expected a non-empty string"),
        EventStorage().name_scope(name),
    ):
        pass


# -- images, histograms, texts, hyper-parameters ------------------------------------------------------


def image_of(value: object) -> np.ndarray:
    storage = EventStorage()
    storage.put_image("a", value)
    (events,) = storage.step()
    return events.images["a"]


def test_a_float_image_becomes_bytes():
    image = torch.tensor([0.0, 0.5, 1.0, 2.0, -1.0, math.nan]).reshape(1, 2, 3).requires_grad_()
    assert image_of(image).dtype == np.uint8
    assert image_of(image).tolist() == [[[0, 128, 255], [255, 0, 0]]]
    assert image_of(image.detach().numpy()).tolist() == image_of(image).tolist()


def test_an_image_of_bytes_is_copied():
    image = torch.zeros(3, 2, 2, dtype=torch.uint8)
    storage = EventStorage()
    storage.put_image("a", image)
    image.fill_(7)
    (events,) = storage.step()
    assert events.images["a"].shape == (3, 2, 2)
    assert not events.images["a"].any()


@pytest.mark.parametrize("shape", [(8, 8, 3), (8, 8, 1), (8, 8), (2, 8, 8), (1, 3, 8, 8), (3, 0, 8)])
def test_an_image_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"image 'a' at iteration 0: expected shape \(C, H, W\)") as error:
        image_of(torch.zeros(shape))
    assert ("permute(2, 0, 1)" in str(error.value)) == (shape in [(8, 8, 3), (8, 8, 1)])


@pytest.mark.parametrize("image", [torch.zeros(1, 2, 2, dtype=torch.int64), "cat.png", None], ids=repr)
def test_what_is_no_image_is_refused(image):
    with pytest.raises(TypeError, match="image 'a' at iteration 0: expected"):
        image_of(image)


def histogram_of(values: object, bins: int):
    storage = EventStorage()
    storage.put_histogram("a", values, bins=bins)
    (events,) = storage.step()
    return events.histograms["a"]


def test_a_histogram_is_that_of_numpy():
    data = torch.randn(1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64).reshape(10, 100)
    got = histogram_of(data, 30)
    counts, edges = np.histogram(data.numpy(), bins=30)
    np.testing.assert_array_equal(got.counts, counts)
    np.testing.assert_allclose(got.edges, edges, rtol=1e-12)
    assert (got.num, got.min, got.max) == (1000, data.min().item(), data.max().item())
    np.testing.assert_allclose([got.sum, got.sum_squares], [data.sum(), (data**2).sum()], rtol=1e-12)
    assert (got.counts.dtype, got.edges.dtype) == (np.int64, np.float64)


def test_a_histogram_leaves_out_what_is_not_finite():
    got = histogram_of(torch.tensor([math.nan, 1.0, math.inf, 3.0, -math.inf]), 2)
    assert (got.counts.tolist(), got.edges.tolist(), got.num, got.sum) == ([1, 1], [1.0, 2.0, 3.0], 2, 4.0)


def test_a_histogram_of_equal_values_has_bins_of_some_width():
    got = histogram_of(np.full(5, 2, np.int64), 4)
    assert got.counts.tolist() == [5, 0, 0, 0]
    assert (np.diff(got.edges) > 0).all()


def test_a_histogram_of_nothing_finite_is_empty():
    got = histogram_of(torch.tensor([math.nan]), 3)
    assert (got.counts.tolist(), got.num, got.min, got.max) == ([0, 0, 0], 0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("values_", "bins"), [(torch.ones(0), 3), (torch.ones(3) * 1j, 3), (torch.ones(3), 0)]
)
def test_a_histogram_needs_numbers_and_bins(values_, bins):
    with pytest.raises(ValueError, match="histogram 'a' at iteration 0: expected"):
        histogram_of(values_, bins)


def test_a_second_text_replaces_the_first():
    storage = EventStorage()
    storage.put_text("note", "a")
    storage.put_text("note", "b")
    (events,) = storage.step()
    assert events.texts == {"note": "b"}


def test_a_text_is_a_string():
    with pytest.raises(TypeError, match="text 'a' at iteration 0: expected a string, got 3"):
        EventStorage().put_text("a", 3)


def test_hparams_are_in_the_events_of_their_iteration():
    storage = EventStorage()
    storage.put_hparams({"lr": 0.1, "depth": 2})
    storage.put_hparams({"fast": True, "depth": 3})
    (events,) = storage.step()
    assert events.hparams == {"lr": 0.1, "depth": 3, "fast": True}


@pytest.mark.parametrize(
    ("hparams", "error"), [({"a": [1]}, TypeError), ({"": 1}, ValueError), ({1: 1}, ValueError)]
)
def test_hparams_are_named_plain_values(hparams, error):
    storage = EventStorage()
    with pytest.raises(error):
        storage.put_hparams({"good": 1, **hparams})
    assert storage.step() == []


# -- what is remembered ----------------------------------------------------------------------------


def test_latest_is_known_before_the_step():
    storage = EventStorage()
    storage.put_scalar("a", 1.0)
    assert storage.latest() == {"a": (1.0, 0)}
    storage.step()
    storage.step()
    assert storage.latest() == {"a": (1.0, 0)}


def test_latest_with_smoothing_hint_is_the_median_of_the_window_in_iterations():
    storage = EventStorage()
    for value in range(10):
        storage.put_scalar("smooth", value)
        storage.put_scalar("exact", value, smoothing_hint=False)
        if value % 4 == 0:
            storage.put_scalar("rare", value)
        storage.step()
    smoothed = storage.latest_with_smoothing_hint(5)
    assert smoothed == {"smooth": (7.0, 9), "exact": (9.0, 9), "rare": (6.0, 8)}
    storage.put_scalar("smooth", 10, smoothing_hint=False)
    assert storage.latest_with_smoothing_hint(5)["smooth"] == (10.0, 10)


def test_an_unknown_history_is_an_error_that_shows_those_there_are():
    storage = EventStorage()
    storage.put_scalar("total_loss", 1)
    with pytest.raises(KeyError, match=r"history of 'loss': .*There are: total_loss"):
        storage.history("loss")


def test_histories_is_a_copy():
    storage = EventStorage()
    storage.put_scalar("a", 1)
    storage.histories().clear()
    assert list(storage.histories()) == ["a"]


# -- the current storage ---------------------------------------------------------------------------


def test_the_innermost_storage_is_the_current_one():
    with EventStorage() as outer:
        with EventStorage() as inner:
            assert get_event_storage() is inner
            with outer:
                assert get_event_storage() is outer
            assert get_event_storage() is inner
        assert get_event_storage() is outer


def test_a_storage_may_be_entered_twice():
    storage = EventStorage()
    with storage, storage:
        pass
    with storage:
        assert get_event_storage() is storage
    with pytest.raises(RunError):
        get_event_storage()


def test_the_current_storage_ends_with_an_exception():
    with pytest.raises(KeyError), EventStorage():
        raise KeyError
    with pytest.raises(RunError, match=r"get_event_storage.*expected an event storage"):
        get_event_storage()


def test_a_thread_without_its_parents_context_is_told_what_to_do():
    errors = []

    def work() -> None:
        try:
            get_event_storage()
        except RunError as error:
            errors.append(str(error))

    with EventStorage():
        thread = threading.Thread(target=contextvars.Context().run, args=(work,))
        thread.start()
        thread.join()
    assert "contextvars.copy_context().run" in errors[0]


def test_two_threads_have_two_storages():
    barrier = threading.Barrier(2, timeout=10)
    found = {}

    def work(name: str) -> None:
        with EventStorage() as storage:
            barrier.wait()
            get_event_storage().put_text("name", name)
            barrier.wait()
            found[name] = storage.step()[0].texts["name"]

    threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {"a": "a", "b": "b"}


def test_two_tasks_have_two_storages():
    async def work(name: str) -> bool:
        with EventStorage() as storage:
            await asyncio.sleep(0)
            return get_event_storage() is storage

    async def main() -> list[bool]:
        return await asyncio.gather(work("a"), work("b"))

    assert asyncio.run(main()) == [True, True]


# -- readers ---------------------------------------------------------------------------------------


def test_readers_are_told_at_every_step_until_they_are_detached():
    storage, told = EventStorage(), []
    storage.attach(told.append)
    storage.put_scalar("a", 1)
    sealed = storage.step()
    storage.step()
    storage.detach(told.append)
    storage.step()
    assert told == [sealed, []]


def test_a_reader_that_raises_hides_nothing_from_the_others():
    storage, told = EventStorage(), []

    def broken(events: list[Events]) -> None:
        raise OSError("disk")

    storage.attach(broken)
    storage.attach(told.extend)
    storage.put_scalar("a", 1)
    with pytest.raises(OSError, match="disk"):
        storage.step()
    assert values(told) == [(0, {"a": 1.0})]
    assert storage.iter == 1


# -- checkpoints -----------------------------------------------------------------------------------


def run(storage: EventStorage, num_iters: int) -> list[Events]:
    sealed = []
    for _ in range(num_iters):
        storage.put_scalar("a", math.sin(storage.iter))
        storage.put_scalar("b", storage.iter % 3, smoothing_hint=False)
        sealed += storage.step()
    return sealed


def test_a_restored_storage_goes_on_as_if_nothing_had_happened():
    through, before = EventStorage(), EventStorage()
    run(through, 40)
    run(before, 25)
    after = EventStorage()
    after.load_state_dict(through_json(before.state_dict()))
    run(after, 15)
    np.testing.assert_equal(after.state_dict(), through.state_dict())
    assert after.latest_with_smoothing_hint() == through.latest_with_smoothing_hint()
    assert after.history("a").global_avg() == through.history("a").global_avg()


def test_open_puts_are_part_of_the_state():
    def put(storage: EventStorage) -> None:
        storage.put_scalar("a", 1.0)
        storage.put_scalar("a", 2.0, volatile=True)
        storage.put_image("i", torch.ones(1, 2, 2))
        storage.put_histogram("h", torch.arange(4.0), bins=2)
        storage.put_text("t", "x")
        storage.put_hparams({"lr": 0.1})

    def finish(storage: EventStorage) -> Events:
        storage.put_scalar("a", 6.0, volatile=True)
        (events,) = storage.step()
        return events

    through, before, after = EventStorage(), EventStorage(), EventStorage()
    put(through)
    put(before)
    after.load_state_dict(through_json(before.state_dict()))
    expected, got = finish(through).to_state(), finish(after).to_state()
    del expected["time_s"], got["time_s"]
    assert got["scalars"]["a"] == [3.0, True, True]
    np.testing.assert_equal(got, expected)


def test_events_survive_their_state():
    storage = EventStorage()
    storage.put_scalar("a", 1.5, False, volatile=True)
    storage.put_image("i", torch.ones(3, 2, 2))
    storage.put_histogram("h", torch.arange(4.0), bins=2)
    storage.put_text("t", "x")
    storage.put_hparams({"lr": 0.1, "n": 3, "fast": True, "name": "x"})
    (events,) = storage.step()
    restored = Events.from_state(through_json(events.to_state()))
    np.testing.assert_equal(restored.to_state(), events.to_state())
    assert restored.scalars["a"] == Scalar(1.5, False, True)
    assert restored.histograms["h"].counts.dtype == np.int64
    assert restored.images["i"].dtype == np.uint8


def test_the_storage_period_is_positive():
    with pytest.raises(ValueError, match="period: expected a whole number >= 1, got 0"):
        EventStorage(period=0)
