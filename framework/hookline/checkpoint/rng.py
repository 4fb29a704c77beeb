"""The state of the global random generators as data: Python, NumPy, torch and every CUDA device."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

__all__ = ["capture", "forked_rng", "restore"]


def capture() -> dict[str, Any]:
    """Return the state of every global generator, as data that a checkpoint can hold.

    Never initialises CUDA: a process that has not used it has no CUDA state worth keeping.
    """
    used_cuda: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
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
