"""The state of the global random generators as data: Python, NumPy, torch and every CUDA device."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch

__all__ = ["apart", "capture", "forked_rng", "restore"]

Item = TypeVar("Item")


def capture(*, cuda: bool = True) -> dict[str, Any]:
    """Return the state of every global generator, as data that a checkpoint can hold.

    Never initialises CUDA: a process that has not used it has no CUDA state worth keeping.

    Args:
        cuda: Whether those of devices are in it, for which each device is waited for.
    """
    used_cuda: bool = cuda and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=False),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if used_cuda else [],
    }


def restore(state: Mapping[str, Any]) -> None:
    """Put every global generator where `capture` found it; devices that are no longer here are left out."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    for device, device_state in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(device_state, device)


@contextmanager
def forked_rng() -> Iterator[None]:
    """Leave every global generator as it was on entry, whatever the body draws, also when it raises."""
    state = capture()
    try:
        yield
    finally:
        restore(state)


def apart(items: Iterator[Item]) -> Iterator[Item]:
    """Yield ``items``, which draw from global random generators that nobody else draws from.

    Those of the host, seeded by one number that is drawn from torch's when the first item is asked for.
    """
    seed = int(torch.empty((), dtype=torch.int64).random_())
    outer = capture(cuda=False)
    _seed(seed)
    while True:
        try:
            item = next(items)
        except StopIteration:
            return
        finally:
            own = capture(cuda=False)
            restore(outer)
        yield item
        outer = capture(cuda=False)
        restore(own)


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
