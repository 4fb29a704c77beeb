"""Tensors copied to the host's memory, so that training may go on while the copies are written."""

from __future__ import annotations

import torch

__all__ = ["HostCopy"]


class HostCopy:
    """Copies tensors, those of a CUDA device beside what it computes; `wait` waits for all at once."""

    def __init__(self) -> None:
        self._devices: set[torch.device] = set()

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a contiguous copy on the CPU, complete after `wait`."""
        # From pinned memory only does a device go on while it copies; torch keeps it for the next time.
        copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
        if tensor.is_cuda:
            self._devices.add(tensor.device)
        return copy.copy_(tensor, non_blocking=tensor.is_cuda)

    def wait(self) -> None:
        """Return when every copy is complete."""
        for device in self._devices:
            torch.cuda.current_stream(device).synchronize()
