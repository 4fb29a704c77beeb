"""The other processes of a run: who this one is, and what they tell each other on the host."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from hookline.errors import RunError

__all__ = [
    "any_rank",
    "broadcast",
    "gather",
    "is_main",
    "join",
    "leave",
    "local_rank",
    "rank",
    "reduce_metrics",
    "world_size",
]

_TIMEOUT = timedelta(minutes=10)


def rank() -> int:
    """Return this process's number among all, 0 where there is only one."""
    return dist.get_rank() if _active() else int(os.environ.get("RANK", 0))


def world_size() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if _active() else int(os.environ.get("WORLD_SIZE", 1))


def local_rank() -> int:
    """Return this process's number on its own machine, which is also its GPU's."""
    return int(os.environ.get("LOCAL_RANK", 0))


def is_main() -> bool:
    """Return whether this process writes files, logs and metrics."""
    return rank() == 0


def join(device: torch.device) -> None:
    """Join the processes that ``torchrun`` started; alone, or when that is done, do nothing.

    Raises:
        RunError: If the others cannot be reached.
    """
    if world_size() == 1 or _active():
        return
    try:
        # Gloo carries what hosts tell each other, NCCL what GPUs hold: neither waits for the other.
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=_TIMEOUT)
    except (RuntimeError, ValueError) as error:
        raise RunError(
            f"rank {rank()}: expected to join {world_size()} processes, got: {error}. "
            "Start them with torchrun, or with 'hookline train --nproc N'."
        ) from error


def leave() -> None:
    """Leave the other processes after a run that ended well.

    After a failure a process must not: the others may be in a collective, and it is its death that frees them.
    """
    if _active():
        dist.destroy_process_group()


def gather(value: Any) -> list[Any]:
    """Return every rank's ``value``, in rank order, on every rank; waits for all hosts."""
    if not _active():
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def broadcast(value: Any) -> Any:
    """Return rank 0's ``value`` on every rank; waits for rank 0's host."""
    if not _active():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def any_rank(value: int) -> int:
    """Return the largest of every rank's ``value``; waits for all hosts, never for a device."""
    if not _active():
        return value
    largest = torch.tensor(value, dtype=torch.int64)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return int(largest)


def reduce_metrics(
    means: Mapping[str, torch.Tensor], maxima: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Return the mean of each of ``means`` and the maximum of each of ``maxima`` over ranks.

    Every rank must give the same names. One gather, on the tensors' device; the host does not wait for it.

    Args:
        means: 0-D tensors, all on one device.
        maxima: 0-D tensors, on any device.
    """
    if not _active():
        return {**means, **maxima}
    device = next(iter(means.values())).device
    values_N = torch.stack(
        [value.detach().to(device, torch.float64) for value in (*means.values(), *maxima.values())]
    )
    all_RN = values_N.new_empty((world_size(), len(values_N)))
    dist.all_gather_into_tensor(all_RN, values_N)
    reduced_N = torch.cat([all_RN[:, : len(means)].mean(0), all_RN[:, len(means) :].amax(0)])
    return dict(zip((*means, *maxima), reduced_N, strict=True))


def _active() -> bool:
    return dist.is_available() and dist.is_initialized()
