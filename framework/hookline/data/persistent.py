"""The worker processes that a DataLoader of torch keeps from epoch to epoch."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["has_workers", "start_workers"]


def has_workers(loader: Any) -> bool:
    """Return whether ``loader`` has workers that stay; they start with its first epoch."""
    return getattr(loader, "_iterator", None) is not None


def start_workers(loader: Any) -> None:
    """Start the workers of ``loader``, for whom a seed is drawn once: not at the cost of what is drawn next.

    A generator of the loader's own is drawn from all the same.
    """
    with torch.random.fork_rng(devices=[]):
        iter(loader)
