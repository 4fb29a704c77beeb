"""Tensors copied to the host's memory, so that training may go on while the copies are written."""

from __future__ import annotations

import torch

__all__ = ["HostCopy"]


class HostCopy:
    """Takes tensors to copy, and copies all at once; those of a CUDA device beside what it computes.

    The memory is kept for the next time: fresh memory takes several times as long as the copying itself. So
    `begin` again only when nobody needs the copies made before.
    """

    def __init__(self) -> None:
        self._buffers: list[tuple[torch.Tensor, bool]] = []
        self._taken: list[tuple[torch.Tensor, torch.Tensor]] = []

    def begin(self) -> None:
        """Give up the copies made before, and what was taken and not copied."""
        self._taken.clear()

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return what is a contiguous copy on the CPU after `wait`, until when ``tensor`` must not change."""
        copy = self._buffer(tensor.shape, tensor.dtype, tensor.is_cuda)
        self._taken.append((copy, tensor))
        return copy

    def wait(self) -> None:
        """Return when every copy is complete."""
        # In one go: Python that runs between copies finds nothing in the caches that it had there.
        for copy, tensor in self._taken:
            copy.copy_(tensor, non_blocking=tensor.is_cuda)
        for device in {tensor.device for _, tensor in self._taken if tensor.is_cuda}:
            torch.cuda.current_stream(device).synchronize()
        self._taken.clear()

    def _buffer(self, shape: torch.Size, dtype: torch.dtype, pinned: bool) -> torch.Tensor:
        place = len(self._taken)
        for buffer, is_pinned in self._buffers[place : place + 1]:
            if (buffer.shape, buffer.dtype, is_pinned) == (shape, dtype, pinned):
                return buffer
        # From pinned memory only does a device go on while it copies.
        buffer = torch.empty(shape, dtype=dtype, pin_memory=pinned)
        self._buffers[place : place + 1] = [(buffer, pinned)]
        return buffer
