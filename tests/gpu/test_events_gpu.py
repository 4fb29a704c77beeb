"""What only a real device can show of the storage: that nothing in an iteration waits for it."""

from __future__ import annotations

import pytest
import torch

from hookline import EventStorage
from hookline.events import device as device_module

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def put(storage: EventStorage, i: int, constants: dict[str, torch.Tensor]) -> None:
    storage.put_scalars({name: constant + i for name, constant in constants.items()})
    storage.put_scalar("alone", constants["half"] * 2, smoothing_hint=False)
    storage.put_scalar("host", i, volatile=True)


def test_values_arrive_exact_under_their_own_iteration_without_waiting(waiting_is_an_error):
    device = torch.device("cuda")
    constants = {
        "half": torch.tensor(0.5, device=device),
        "large": torch.tensor(2**24 + 1, device=device),
        "double": torch.tensor(0.1, dtype=torch.float64, device=device),
    }
    storage, events = EventStorage(period=5), []
    put(storage, 0, constants)  # the first iteration makes room on the device and the host
    events += storage.step()
    with waiting_is_an_error():
        for i in range(1, 60):
            put(storage, i, constants)
            events += storage.step()
    events += storage.drain()
    assert [event.iteration for event in events] == list(range(60))
    for i, event in enumerate(events):
        expected = {"half": 0.5 + i, "large": 2**24 + 1 + i, "double": 0.1 + i, "alone": 1.0, "host": i}
        assert event.values == expected


def test_scalars_of_one_call_are_one_launch():
    constants = {f"s{i}": torch.tensor(float(i), device="cuda") for i in range(8)}
    storage = EventStorage(period=1000)
    storage.put_scalars(constants)
    storage.step()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        storage.put_scalars(constants)
        torch.cuda.synchronize()
    kernels = [event for event in profiler.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    assert len(kernels) == 1, [event.name for event in kernels]


def test_memory_of_the_host_is_pinned_and_not_allocated_again(monkeypatch):
    rooms, new = [], device_module.new_host_room
    monkeypatch.setattr(device_module, "new_host_room", lambda room: rooms.append(new(room)) or rooms[-1])
    storage, values = EventStorage(period=2), torch.arange(400.0, device="cuda")
    for value in values:
        storage.put_scalar("a", value)
        torch.cuda.synchronize()
        storage.step()
    storage.drain()
    assert [room.is_pinned() for room in rooms] == [True, True]
    assert storage.history("a").values() == [(float(i), i) for i in range(400)]
