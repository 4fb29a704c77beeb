"""Time that does not make the host wait for the device."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Any, Protocol

import torch

__all__ = ["Clock", "Interval", "clock_of"]

Interval = tuple[Any, Any]
"""Two marks of one clock."""


class Clock(Protocol):
    """Marks moments, and tells later how long it was between them."""

    def mark(self) -> Any:
        """Return what stands for now."""

    def seconds(self, intervals: Sequence[Interval]) -> float | None:
        """Return how long ``intervals`` were together, or None if that is not known yet; never waits."""

    def wait(self) -> None:
        """Return when the length of every interval is known."""


def clock_of(device: torch.device) -> Clock:
    """Return the clock of a CUDA device; elsewhere that of the host."""
    return _CudaClock(device) if device.type == "cuda" else _HostClock()


class _HostClock:
    def mark(self) -> float:
        return perf_counter()

    def seconds(self, intervals: Sequence[tuple[float, float]]) -> float:
        return sum(end - start for start, end in intervals)

    def wait(self) -> None:
        pass


class _CudaClock:
    """The device's own clock: a mark is an event, and its time is when the device gets there.

    The host runs ahead of the device, by more than a period where iterations are small, so its own clock
    would tell how fast work is queued, not how fast it is done.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._free: list[torch.cuda.Event] = []

    def mark(self) -> torch.cuda.Event:
        event = self._free.pop() if self._free else torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event

    def seconds(self, intervals: Sequence[tuple[torch.cuda.Event, torch.cuda.Event]]) -> float | None:
        # The device gets to them in their order.
        if intervals and not intervals[-1][1].query():  # type: ignore[no-untyped-call]
            return None
        duration_s: float = sum(start.elapsed_time(end) for start, end in intervals) / 1000
        self._free += [event for interval in intervals for event in interval]
        return duration_s

    def wait(self) -> None:
        torch.cuda.current_stream(self._device).synchronize()
