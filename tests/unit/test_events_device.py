"""Values that are not on the CPU: taken without reading, delivered in order when they have arrived.

`OnDevice` stands in for a tensor on an accelerator, and `copies` for copies that take their time.
"""

import math

import pytest
import torch

from hookline import Events, EventStorage
from hookline.events import device as device_module
from hookline.events.device import NUM_SLOTS


class OnDevice(torch.Tensor):
    is_cpu = False

    def _refuse(self, *args, **kwargs):
        raise AssertionError("the host waited for the device")

    item = tolist = __float__ = __bool__ = __int__ = cpu = numpy = _refuse


def on_device(value: object, **options: object) -> torch.Tensor:
    return torch.as_tensor(value, **options).as_subclass(OnDevice)


class Copies:
    """All copies started; each arrives when ``arrive`` is called, or somebody waits for it."""

    def __init__(self) -> None:
        self.events: list[CopyEvent] = []
        self.num_waits = 0

    def start(
        self, source: torch.Tensor, into: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, "CopyEvent"]:
        event = CopyEvent(self)
        self.events.append(event)
        copy = source.detach().as_subclass(torch.Tensor)
        return copy.clone() if into is None else into[: len(source)].copy_(copy), event

    def arrive(self) -> None:
        for event in self.events:
            event.arrived = True


class CopyEvent:
    def __init__(self, copies: Copies) -> None:
        self.copies, self.arrived = copies, False

    def query(self) -> bool:
        return self.arrived

    def synchronize(self) -> None:
        self.copies.num_waits += not self.arrived
        self.arrived = True


@pytest.fixture
def copies(monkeypatch) -> Copies:
    copies = Copies()
    monkeypatch.setattr(device_module, "start_copy", copies.start)
    return copies


def seen(events: list[Events]) -> list[tuple[int, dict[str, float]]]:
    return [
        (each.iteration, {name: scalar.value for name, scalar in each.scalars.items()}) for each in events
    ]


def test_values_arrive_once_a_period_under_their_own_iteration(copies):
    storage, got = EventStorage(period=3), []
    for _ in range(3):
        storage.put_scalar("a", on_device(storage.iter * 1.5))
        got += storage.step()
    assert (got, len(copies.events), storage.arrived_iter) == ([], 1, 0)
    assert storage.step() == []
    copies.arrive()
    assert seen(storage.step()) == [(0, {"a": 0.0}), (1, {"a": 1.5}), (2, {"a": 3.0})]
    assert storage.arrived_iter == 5
    assert copies.num_waits == 0


def test_values_of_the_host_wait_for_earlier_ones_of_the_device(copies):
    storage = EventStorage(period=2)
    storage.put_scalar("a", on_device(1.0))
    storage.step()
    storage.put_scalar("b", 2.0)
    assert storage.step() == []
    storage.put_scalar("b", 3.0)
    copies.arrive()
    assert seen(storage.step()) == [(0, {"a": 1.0}), (1, {"b": 2.0}), (2, {"b": 3.0})]


def test_a_later_batch_does_not_pass_an_earlier_one(copies):
    storage = EventStorage(period=1)
    for value in (1.0, 2.0):
        storage.put_scalar("a", on_device(value))
        storage.step()
    copies.events[1].arrived = True
    assert storage.step() == []
    copies.arrive()
    assert seen(storage.step()) == [(0, {"a": 1.0}), (1, {"a": 2.0})]


def test_what_is_changed_after_the_put_does_not_change_the_value(copies):
    storage = EventStorage()
    buffer = on_device(1.0)
    for value in (1.0, 2.0):
        buffer.fill_(value)
        storage.put_scalar("a", buffer)
        storage.step()
    buffer.fill_(9.0)
    assert seen(storage.drain()) == [(0, {"a": 1.0}), (1, {"a": 2.0})]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (on_device(2**24 + 1), 2**24 + 1),
        (on_device(0.1), torch.tensor(0.1).item()),
        (on_device([[3]], dtype=torch.uint8), 3.0),
        (on_device(1.5, dtype=torch.bfloat16), 1.5),
        (on_device(torch.tensor(2.0, requires_grad=True)), 2.0),
        (on_device(True), 1.0),
        (on_device(math.inf), math.inf),
    ],
)
def test_values_of_every_dtype_are_exact(copies, value, expected):
    storage = EventStorage()
    storage.put_scalars(value=value, other=on_device(0.5))
    storage.step()
    assert seen(storage.drain()) == [(0, {"value": expected, "other": 0.5})]


def test_several_tensors_of_one_call_are_taken_by_one_operation(copies, monkeypatch):
    taken, copy = [], torch._foreach_copy_
    monkeypatch.setattr(
        torch, "_foreach_copy_", lambda *args, **kw: (taken.append(len(args[1])), copy(*args, **kw))
    )
    storage = EventStorage()
    storage.put_scalars({"loss/a": on_device(1.0), "host": 2.0, "b": on_device(3)}, c=on_device(True))
    storage.step()
    assert taken == [3]
    assert seen(storage.drain()) == [(0, {"loss/a": 1.0, "host": 2.0, "b": 3.0, "c": 1.0})]


def test_a_value_that_is_refused_leaves_those_before_it(copies):
    storage = EventStorage()
    with pytest.raises(TypeError, match="scalar 'b'"):
        storage.put_scalars({"a": on_device(1.0), "b": "no number", "c": 2.0})
    storage.step()
    assert seen(storage.drain()) == [(0, {"a": 1.0})]


def test_memory_of_the_host_is_used_again_once_it_was_read(copies, monkeypatch):
    rooms = []
    monkeypatch.setattr(
        device_module,
        "new_host_room",
        lambda room: rooms.append(torch.zeros(len(room)).double()) or rooms[-1],
    )
    storage, got = EventStorage(period=2), []
    for _ in range(40):
        storage.put_scalar("a", on_device(float(storage.iter)))
        got += storage.step()
        copies.arrive()
    got += storage.drain()
    assert seen(got) == [(i, {"a": float(i)}) for i in range(40)]
    assert len(rooms) == 2


def test_copies_that_have_not_been_read_keep_their_memory(copies, monkeypatch):
    monkeypatch.setattr(device_module, "new_host_room", lambda room: torch.zeros(len(room)).double())
    storage = EventStorage(period=1)
    for _ in range(9):
        storage.put_scalar("a", on_device(float(storage.iter)))
        assert storage.step() == []
    assert seen(storage.drain()) == [(i, {"a": float(i)}) for i in range(9)]


def test_puts_under_inference_mode_and_outside_share_a_batch(copies):
    storage = EventStorage()
    with torch.inference_mode():
        storage.put_scalar("a", on_device(1.0) + 1)
    storage.put_scalar("b", on_device(3.0))
    storage.step()
    assert seen(storage.drain()) == [(0, {"a": 2.0, "b": 3.0})]


def test_puts_of_one_scalar_are_averaged_wherever_they_are(copies):
    storage = EventStorage()
    storage.put_scalar("a", 1.0)
    storage.put_scalar("a", on_device(2.0), volatile=True)
    storage.put_scalar("b", on_device(1.0))
    storage.put_scalar("b", 3.0)
    storage.put_scalar("c", on_device(1.0))
    storage.put_scalar("c", on_device(6.0))
    storage.step()
    (events,) = storage.drain()
    assert seen([events]) == [(0, {"a": 1.5, "b": 2.0, "c": 3.5})]
    assert [scalar.volatile for scalar in events.scalars.values()] == [True, False, False]
    assert {name: history.values() for name, history in storage.histories().items()} == {
        "a": [(1.5, 0)],
        "b": [(2.0, 0)],
        "c": [(3.5, 0)],
    }


def test_more_values_than_there_is_room_for_start_a_copy_early(copies):
    storage = EventStorage(period=1000)
    names = [f"s{i}" for i in range(NUM_SLOTS + 10)]
    for scale in (1, 2):
        for index, name in enumerate(names):
            storage.put_scalar(name, on_device(float(index * scale)))
        storage.step()
    assert len(copies.events) == 2
    assert seen(storage.drain()) == [
        (scale - 1, {name: float(index * scale) for index, name in enumerate(names)}) for scale in (1, 2)
    ]


def test_an_iteration_in_two_copies_waits_for_both(copies):
    storage = EventStorage(period=1)
    for index in range(NUM_SLOTS + 1):
        storage.put_scalar(f"s{index}", on_device(1.0))
    storage.step()
    copies.events[1].arrived = True
    assert storage.step() == []
    copies.arrive()
    assert len(storage.step()[0].scalars) == NUM_SLOTS + 1


def test_histories_know_a_value_when_it_has_arrived(copies):
    storage = EventStorage()
    storage.put_scalar("a", on_device(1.0))
    storage.step()
    assert storage.latest() == {}
    with pytest.raises(KeyError, match="still on their device"):
        storage.history("a")
    storage.drain()
    assert storage.latest() == {"a": (1.0, 0)}


def test_histories_stay_in_order_when_host_and_device_take_turns(copies):
    storage = EventStorage()
    storage.put_scalar("a", on_device(1.0))
    storage.step()
    storage.put_scalar("a", 2.0)
    storage.step()
    storage.drain()
    assert storage.history("a").values() == [(1.0, 0), (2.0, 1)]


def test_drain_waits_for_sealed_iterations_and_tells_the_readers(copies):
    storage, told = EventStorage(), []
    storage.attach(told.extend)
    storage.put_scalar("a", on_device(1.0))
    storage.step()
    drained = storage.drain()
    assert copies.num_waits == 1
    assert seen(drained) == seen(told) == [(0, {"a": 1.0})]
    assert storage.drain() == []


def test_images_and_histograms_are_taken_without_reading(copies):
    storage, host = EventStorage(period=1), EventStorage()
    image = torch.linspace(0, 1, 12).reshape(3, 2, 2)
    values = torch.tensor([1.0, 2.0, math.nan, 4.0])
    for each, move in ((storage, on_device), (host, torch.as_tensor)):
        each.put_image("i", move(image))
        each.put_histogram("h", move(values), bins=3)
    assert storage.step() == []
    copies.arrive()
    (got,), (expected,) = storage.drain(), host.step()
    assert got.images["i"].tolist() == expected.images["i"].tolist()
    assert got.histograms["h"].counts.tolist() == expected.histograms["h"].counts.tolist() == [1, 1, 1]
    assert got.histograms["h"].edges.tolist() == expected.histograms["h"].edges.tolist()


def test_a_complex_tensor_is_refused_without_reading(copies):
    with pytest.raises(TypeError, match="scalar 'a' at iteration 0: expected a real number"):
        EventStorage().put_scalar("a", on_device(1j))


def test_a_checkpoint_holds_open_puts_of_a_device(copies):
    storage, told = EventStorage(), []
    storage.attach(told.extend)
    storage.put_scalar("a", on_device(1.0))
    storage.step()
    storage.put_scalar("a", on_device(2.0))
    state = storage.state_dict()
    assert seen(told) == [(0, {"a": 1.0})]
    restored = EventStorage()
    restored.load_state_dict(state)
    for each in (storage, restored):
        each.put_scalar("a", on_device(4.0))
        each.step()
        assert seen(each.drain()) == [(1, {"a": 3.0})]
        assert each.history("a").values() == [(1.0, 0), (3.0, 1)]


def test_without_streams_values_arrive_at_the_end_of_the_period(monkeypatch):
    monkeypatch.setattr(OnDevice, "tolist", torch.Tensor.tolist)
    storage, got = EventStorage(period=2), []
    for value in (1.0, 2.0):
        storage.put_scalar("a", on_device(value))
        got.append(seen(storage.step()))
    assert got == [[], [(0, {"a": 1.0}), (1, {"a": 2.0})]]
