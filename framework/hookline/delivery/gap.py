"""What becomes of events that a writer did not take."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Gap"]


@dataclass(frozen=True)
class Gap:
    """What a writer that was switched off has missed.

    Args:
        writer: Its instance name.
        first_iteration: The first iteration it misses, or may have recorded in part.
        last_iteration: The last one.
        num_events: How many iterations with events these are; 0 when only its ``close`` failed.
        reason: Why it was switched off.
    """

    writer: str
    first_iteration: int
    last_iteration: int
    num_events: int
    reason: str
