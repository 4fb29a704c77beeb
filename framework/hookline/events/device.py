"""Values on their way from a device to the host, without anybody waiting for them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["Batch", "DeviceQueue", "start_copy"]

NUM_SLOTS = 256


def start_copy(source: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """Start copying ``source`` to the host; return the copy and the event that says when it is whole.

    Asynchronous on CUDA: one copy into pinned memory. Elsewhere it waits and returns no event.
    """
    if source.device.type != "cuda":
        return source.to("cpu", copy=True), None
    with torch.cuda.device(source.device):
        host = torch.empty_like(source, device="cpu", pin_memory=True)
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
        self._values: dict[torch.device, list[float]] = {}

    def add(self, key: Any, source: Tensor) -> None:
        """Start copying ``source``, to be found under ``key``."""
        self._copies[key] = start_copy(source)

    def is_ready(self) -> bool:
        """Return whether everything up to here has arrived; never waits."""
        if self._previous is not None and self._previous.is_ready():
            self._previous = None
        return self._previous is None and self.started and all(map(_has_arrived, self._copies.values()))

    def wait(self) -> None:
        """Return when everything up to here has arrived; it must have been started."""
        if self._previous is not None:
            self._previous.wait()
        self._previous = None
        for _, event in self._copies.values():
            if event is not None:
                event.synchronize()

    def value(self, device: torch.device, index: int) -> float:
        """Return one number taken from ``device``."""
        if device not in self._values:
            self._values[device] = self._copies[device][0].tolist()
        return self._values[device][index]

    def array(self, key: Any) -> npt.NDArray[Any]:
        """Return one array."""
        array: npt.NDArray[Any] = self._copies[key][0].numpy()
        return array


def _has_arrived(copy: tuple[Tensor, torch.cuda.Event | None]) -> bool:
    return copy[1] is None or bool(copy[1].query())  # type: ignore[no-untyped-call]


class _Slots:
    """Room for numbers on one device; a number is converted and copied by one operation.

    float64 holds every float32 and every integer up to 2**53 exactly; MPS has only float32.
    """

    def __init__(self, device: torch.device) -> None:
        dtype = torch.float32 if device.type == "mps" else torch.float64
        # Values put under inference mode and outside share the room, so it must be an ordinary tensor.
        with torch.inference_mode(False), torch.no_grad():
            self.room = torch.zeros(NUM_SLOTS, dtype=dtype, device=device)
            self.slots = self.room.unbind()
        self.num_used = 0


class DeviceQueue:
    """Takes tensors without reading them, copies them a batch at a time.

    A copy into the room is queued at once, on the current stream: later changes of the tensor, in place or
    by a graph's replay, do not reach it. The room is reused as soon as its copy to the host is queued.
    """

    def __init__(self) -> None:
        self._slots: dict[torch.device, _Slots] = {}
        self.batch = Batch()
        self.num_waiting = 0

    def put_value(self, tensor: Tensor) -> Callable[[], float]:
        """Take a 1-element tensor; return what reads it once its batch has arrived."""
        device = tensor.device
        slots = self._slots.get(device)
        if slots is None:
            slots = self._slots[device] = _Slots(device)
        if slots.num_used == NUM_SLOTS:
            self.start()
        index = slots.num_used
        number = tensor.detach() if tensor.dim() == 0 else tensor.detach().reshape(())
        slots.slots[index].copy_(number, non_blocking=True)
        slots.num_used += 1
        self.num_waiting += 1
        return partial(self.batch.value, device, index)

    def put_array(self, tensor: Tensor) -> Callable[[], npt.NDArray[Any]]:
        """Take a tensor of any shape; return what reads it once its batch has arrived."""
        self.num_waiting += 1
        self.batch.add(self.num_waiting, tensor)
        return partial(self.batch.array, self.num_waiting)

    def start(self) -> None:
        """Start the copy of everything taken so far."""
        for device, slots in self._slots.items():
            if slots.num_used:
                self.batch.add(device, slots.room[: slots.num_used])
                slots.num_used = 0
        self.batch.started = True
        self.batch = Batch(previous=self.batch)
        self.num_waiting = 0
