"""Worker processes that stay from epoch to epoch, as a DataLoader of torch keeps them when told to."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch

from hookline.data.generators import generators
from hookline.data.loader import Loader

__all__ = ["has_workers", "lost_in_workers", "start_workers"]


def has_workers(loader: Any) -> bool:
    """Return whether ``loader`` has workers that stay; they start with its first epoch."""
    return getattr(loader, "_iterator", None) is not None


def lost_in_workers(loader: Any) -> str:
    """Return which random numbers workers of ``loader`` would draw otherwise after a resume; nothing if none.

    Nobody can ask the processes that stay for the generators that they have.
    """
    if not loader.num_workers:
        return ""
    if isinstance(loader, Loader):
        return _lost_generators(generators(loader.dataset))
    if not loader.persistent_workers:
        return ""
    return (
        "persistent_workers=True, so random numbers that its workers draw go on from epoch to epoch, and "
        "will be others in a resumed run. Set it to False, or use hookline.Loader."
    )


def start_workers(loader: Any) -> None:
    """Start the workers of ``loader``, for whom a seed is drawn once: not at the cost of what is drawn next.

    A generator of the loader's own is drawn from all the same.
    """
    with torch.random.fork_rng(devices=[]):
        iter(loader)


def _lost_generators(names: Collection[str]) -> str:
    if not names:
        return ""
    return (
        f"the random generators that the dataset holds ({', '.join(names)}) will draw other numbers in "
        "worker processes of a resumed run. Draw from those of Python, NumPy or torch, which are seeded for "
        "every batch, or set num_workers to 0."
    )
