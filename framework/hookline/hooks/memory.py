"""How much memory training takes."""

from __future__ import annotations

import resource
import sys

import torch

from hookline.config import Period, is_due
from hookline.hookspecs import HookBase

__all__ = ["Memory"]


class Memory(HookBase):
    """Puts the peak memory of the process and, on CUDA, of the device, as volatile scalars.

    ``memory/host_bytes`` is the largest resident size so far; ``memory/device_bytes`` and
    ``memory/device_reserved_bytes`` are the peaks since the last period.

    Args:
        period: Put them every so many iterations.
    """

    observer = True
    graph_safe = True

    def __init__(self, period: Period = 100) -> None:
        self.period = period

    def after_step(self) -> None:
        """Put the peaks when the period ends."""
        if not is_due(self.trainer.iter, self.period):
            return
        values = {"memory/host_bytes": _peak_resident_bytes()}
        if torch.cuda.is_available():
            values["memory/device_bytes"] = torch.cuda.max_memory_allocated()
            values["memory/device_reserved_bytes"] = torch.cuda.max_memory_reserved()
            torch.cuda.reset_peak_memory_stats()
        for name, value in values.items():
            self.trainer.storage.put_scalar(name, value, smoothing_hint=False, volatile=True)


def _peak_resident_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # kilobytes on Linux, bytes on macOS
