"""Tensors copied to the host's memory, so that training may go on while the copies are written."""

from __future__ import annotations

import torch

__all__ = ["HostCopy"]


class HostCopy:
    """Copies tensors, those of a CUDA device beside what it computes; `wait` waits for all at once.

    The memory is kept for the next time: fresh memory takes several times as long as the copying itself. So
    `begin` again only when nobody needs the copies made before.
    """

    def __init__(self) -> None:
        self._buffers: list[torch.Tensor] = []
        self._num_used = 0
        self._devices: set[torch.device] = set()

    def begin(self) -> None:
        """Give up the copies made before."""
        self._num_used = 0
        self._devices.clear()

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a contiguous copy on the CPU, complete after `wait`."""
        copy = self._buffer(tensor.shape, tensor.dtype, tensor.is_cuda)
        if tensor.is_cuda:
            self._devices.add(tensor.device)
        return copy.copy_(tensor, non_blocking=tensor.is_cuda)

    def wait(self) -> None:
        """Return when every copy is complete."""
        for device in self._devices:
            torch.cuda.current_stream(device).synchronize()

    def _buffer(self, shape: torch.Size, dtype: torch.dtype, pinned: bool) -> torch.Tensor:
        place, self._num_used = self._num_used, self._num_used + 1
        for buffer in self._buffers[place : place + 1]:
            if (buffer.shape, buffer.dtype, buffer.is_pinned()) == (shape, dtype, pinned):
                return buffer
        # From pinned memory only does a device go on while it copies.
        buffer = torch.empty(shape, dtype=dtype, pin_memory=pinned)
        self._buffers[place : place + 1] = [buffer]
        return buffer
