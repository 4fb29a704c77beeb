"""The one console that a run prints to, and how log records look on it."""

from __future__ import annotations

import logging
from functools import cache

from rich.console import Console
from rich.logging import RichHandler

__all__ = ["console", "show_logs"]


@cache
def console() -> Console:
    """Return the console of this process; colour and a live bar only where it is a terminal."""
    return Console(soft_wrap=True, highlight=False)


def show_logs(rank: int, world_size: int) -> None:
    """Print what hookline logs: everything of interest from rank 0, warnings from the others."""
    logger = logging.getLogger("hookline")
    handler = RichHandler(
        console=Console(stderr=True, soft_wrap=True, highlight=False),
        show_time=False,
        show_path=False,
        show_level=True,
        markup=False,
    )
    handler.setFormatter(logging.Formatter(f"[rank {rank}] %(message)s" if world_size > 1 else "%(message)s"))
    handler.setLevel(logging.INFO if rank == 0 else logging.WARNING)
    logger.handlers = [other for other in logger.handlers if not isinstance(other, RichHandler)]
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
