"""What becomes of events that a writer did not take."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Gap"]


@dataclass(frozen=True)
class Gap:
    """What a writer that was switched off, or left out for a while, has missed.

    Args:
        writer: Its instance name.
        first_iteration: The first iteration it misses, or may have recorded in part.
        last_iteration: The last one.
        num_events: How many iterations with events these are, of a writer that was left out how many at all;
            0 when only its ``close`` failed.
        reason: Why it was not told of them.
    """

    writer: str
    first_iteration: int
    last_iteration: int
    num_events: int
    reason: str
