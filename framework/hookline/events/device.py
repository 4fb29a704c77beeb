"""Values on their way from a device to the host, without anybody waiting for them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from hookline.errors import Problem, RunError

__all__ = ["Batch", "DeviceQueue", "start_copy"]

NUM_SLOTS = 256


def new_host_room(room: Tensor) -> Tensor | None:
    """Return memory of the host that ``room`` can be copied to while the host goes on; None if none can."""
    if room.device.type != "cuda":
        return None
    return torch.empty_like(room, device="cpu", pin_memory=True)


def start_copy(source: Tensor, into: Tensor | None = None) -> tuple[Tensor, torch.cuda.Event | None]:
    """Start copying ``source`` to the host; return the copy and the event that says when it is whole.

    Asynchronous on CUDA: one copy into pinned memory, ``into`` where it is given, as long as ``source`` or
    longer. Elsewhere it waits and returns no event.
    """
    if source.device.type != "cuda":
        return source.to("cpu", copy=True), None
    with torch.cuda.device(source.device):
        if into is None:
            into = torch.empty_like(source, device="cpu", pin_memory=True)
        host = into[: len(source)]
        host.copy_(source, non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
    return host, event


class Batch:
    """What was taken between two copies; everything in it arrives together."""

    def __init__(self, previous: Batch | None = None) -> None:
        self.started = False
        # Copies of one device arrive in order, those of several need not.
        self._previous = previous
        self._copies: dict[Any, tuple[Tensor, torch.cuda.Event | None]] = {}
        self._numbers: dict[torch.device, list[float]] = {}
        self._done: dict[torch.device, Callable[[], None]] = {}

    def add(self, key: Any, source: Tensor) -> None:
        """Start copying ``source``, to be found under ``key``."""
        self._copies[key] = start_copy(source)

    def add_numbers(self, slots: _Slots) -> None:
        """Start copying the numbers in ``slots``, which can be used anew."""
        source, into = slots.used(), slots.take_host_room()
        self._copies[slots.device] = start_copy(source, into)
        self._done[slots.device] = partial(slots.give_back, into)

    def is_ready(self) -> bool:
        """Return whether everything up to here has arrived; never waits."""
        if not self.started:
            return False
        if self._previous is not None and self._previous.is_ready():
            self._previous = None
        return self._previous is None and all(map(_has_arrived, self._copies.values()))

    def wait(self) -> None:
        """Return when everything up to here has arrived; it must have been started."""
        if self._previous is not None:
            self._previous.wait()
        self._previous = None
        for _, event in self._copies.values():
            if event is not None:
                event.synchronize()

    def numbers(self, device: torch.device, start: int, end: int) -> list[float]:
        """Return the numbers taken from ``device`` into the slots from ``start`` to ``end``."""
        if device not in self._numbers:
            self._numbers[device] = self._copies[device][0].tolist()
            self._done[device]()
        return self._numbers[device][start:end]

    def array(self, key: Any) -> npt.NDArray[Any]:
        """Return one array."""
        array: npt.NDArray[Any] = self._copies[key][0].numpy()
        return array


def _has_arrived(copy: tuple[Tensor, torch.cuda.Event | None]) -> bool:
    return copy[1] is None or bool(copy[1].query())  # type: ignore[no-untyped-call]


class _Slots:
    """Room for numbers on one device, and on the host for their copies.

    float64 holds every float32 and every integer up to 2**53 exactly; MPS has only float32.
    """

    def __init__(self, device: torch.device) -> None:
        dtype = torch.float32 if device.type == "mps" else torch.float64
        # Values put under inference mode and outside share the room, so it must be an ordinary tensor.
        with torch.inference_mode(False), torch.no_grad():
            self._room = torch.zeros(NUM_SLOTS, dtype=dtype, device=device)
            self._slots = list(self._room.unbind())
            # One to read while the next copy arrives. Making more may wait for the device.
            self._host_rooms = [new_host_room(self._room) for _ in range(2)]
        self.device = device
        self.num_used = 0

    def take(self, tensors: list[Tensor]) -> None:
        """Queue one operation that copies and converts 1-element ``tensors``, however many there are."""
        for tensor in tensors:
            if tensor.requires_grad or tensor.dim():
                tensors = [tensor.detach().reshape(()) for tensor in tensors]
                break
        start, self.num_used = self.num_used, self.num_used + len(tensors)
        if len(tensors) == 1:
            self._slots[start].copy_(tensors[0], True)
        else:
            # Unlike a stack, it converts each number from its own dtype, so all are exact.
            torch._foreach_copy_(self._slots[start : self.num_used], tensors, True)

    def used(self) -> Tensor:
        """Return the numbers taken, as they are until the next ``take``, which begins anew."""
        num_used, self.num_used = self.num_used, 0
        return self._room[:num_used]

    def take_host_room(self) -> Tensor | None:
        """Return memory for a copy that nobody else has until it is given back."""
        if self._host_rooms:
            return self._host_rooms.pop()
        with torch.inference_mode(False):
            return new_host_room(self._room)

    def give_back(self, host_room: Tensor | None) -> None:
        """Take memory back whose copy has been read."""
        self._host_rooms.append(host_room)


Taken = tuple[Collection[str], Callable[[], list[float]], Batch]
"""Names, what reads their numbers, and the batch that must have arrived by then."""


class DeviceQueue:
    """Takes tensors without reading them, copies them a batch at a time.

    A copy into the room is queued at once, on the current stream: later changes of the tensor, in place or
    by a graph's replay, do not reach it. The room is reused as soon as its copy to the host is queued.
    """

    def __init__(self) -> None:
        self._slots: dict[torch.device, _Slots] = {}
        self.batch = Batch()
        self.num_waiting = 0

    def put_values(self, named: dict[str, Tensor]) -> list[Taken]:
        """Take 1-element tensors, all of one device at once unless there is no room for them."""
        tensors = list(named.values())
        device = tensors[0].device
        if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            fix = "Put it in get_event_storage(), which knows of the graph"
            expected = "a scalar that is put while no CUDA graph is captured"
            raise RunError(str(Problem("EventStorage", expected, next(iter(named)), fix=fix)))
        for tensor in tensors:
            if tensor.device != device:
                return self._put_apart(named, [name for name in named if named[name].device == device])
        slots = self._slots.get(device)
        if slots is None:
            slots = self._slots[device] = _Slots(device)
        start, end = slots.num_used, slots.num_used + len(tensors)
        if end > NUM_SLOTS:
            if start == NUM_SLOTS:
                self.start()
                return self.put_values(named)
            return self._put_apart(named, list(named)[: NUM_SLOTS - start])
        slots.take(tensors)
        self.num_waiting += end - start
        return [(named, partial(self.batch.numbers, device, start, end), self.batch)]

    def _put_apart(self, named: dict[str, Tensor], first: list[str]) -> list[Taken]:
        rest = dict(named)
        return self.put_values({name: rest.pop(name) for name in first}) + self.put_values(rest)

    def put_array(self, tensor: Tensor) -> Callable[[], npt.NDArray[Any]]:
        """Take a tensor of any shape; return what reads it once its batch has arrived."""
        self.num_waiting += 1
        self.batch.add(self.num_waiting, tensor)
        return partial(self.batch.array, self.num_waiting)

    def start(self) -> None:
        """Start the copy of everything taken so far."""
        for slots in self._slots.values():
            if slots.num_used:
                self.batch.add_numbers(slots)
        self.batch.started = True
        self.batch = Batch(previous=self.batch)
        self.num_waiting = 0
