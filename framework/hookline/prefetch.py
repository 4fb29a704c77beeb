"""The next batch travels to the device while this one is computed on.

::

    host            fetch i+1, pin ── queue its copy ── queue iteration i+1 ── fetch i+2 …
    side stream     ····················· copy i+1 ─┐
    compute stream  ──── iteration i ───────────────┴─▶ iteration i+1

No batch is fetched before its iteration for that: the host itself is ahead of the device, which still works
on iteration i when batch i+1 is fetched. So the position of a loader in a checkpoint is exact, whatever the
loader is.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from hookline.nesting import map_tensors

__all__ = ["DeviceFeed"]


class DeviceFeed:
    """Sends batches to a CUDA device by a stream of its own; the host never waits for the device.

    A tensor that is not in pinned memory is copied there first. One whose pinned memory the loader fills
    anew must be left alone until its copy has ended, as always with copies that do not block.

    Args:
        device: A CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def __call__(self, batch: Any) -> Any:
        """Return ``batch`` with its tensors on the device, to be used on the stream that is current now.

        Args:
            batch: Tensors in any nesting, as `map_tensors` finds them; the rest stays as it is. What is no
                plain tensor on the CPU, such as a PackedSequence, is sent by its own ``to``, on the current
                stream. It is not changed.
        """
        compute = torch.cuda.current_stream(self.device)
        with torch.cuda.stream(self._side):
            sent = map_tensors(batch, partial(self._send, compute=compute))
        compute.wait_stream(self._side)  # The device waits, not the host.
        return sent

    def _send(self, value: Any, compute: torch.cuda.Stream) -> Any:
        # A subclass of Tensor may not survive being copied by our hands; a tensor on the device stays itself.
        if type(value) is not Tensor or not value.is_cpu or value.layout != torch.strided or value.is_nested:
            with torch.cuda.stream(compute):
                return value.to(self.device, non_blocking=True)
        sent = _pinned(value).to(self.device, non_blocking=True)
        # Or else its memory could be given to a later copy while an iteration still reads it.
        sent.record_stream(compute)
        return sent


def _pinned(tensor: Tensor) -> Tensor:
    """Return ``tensor`` in dense page-locked memory: from any other, a copy would make the host wait."""
    is_dense = tensor.is_contiguous() or torch.ops.aten.is_non_overlapping_and_dense(tensor)
    if is_dense and tensor.is_pinned():
        return tensor
    # torch keeps memory that is freed for the next batch, as soon as the device has read it.
    return torch.empty_like(tensor, pin_memory=True).copy_(tensor)
