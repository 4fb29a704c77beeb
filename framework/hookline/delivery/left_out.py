"""What is kept of writers that are left out of a run for a while, for when they come back."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from hookline.catalog import normalized

__all__ = ["can_go_on", "left_out"]


def left_out(state: Mapping[str, Any], names: Collection[str], iteration: int) -> dict[str, Any]:
    """Return the entries of ``state`` of writers other than ``names``.

    Each says from which iteration on nobody has told it anything: ``iteration``, unless it was left out
    before.
    """
    return {name: {"away_from": iteration, **entry} for name, entry in state.items() if name not in names}


def can_go_on(entry: Mapping[str, Any], use: str, version: int) -> bool:
    """Return whether the position in ``entry`` means something to the writer that ``use`` names.

    Args:
        entry: What a checkpoint keeps of a writer.
        use: ``name``, or ``distribution:name`` where one brings it.
        version: Its ``state_version``.
    """
    (was_from, _, was), (now_from, _, now) = entry.get("use", use).rpartition(":"), use.rpartition(":")
    is_moved = bool(was_from and now_from) and normalized(was_from) != normalized(now_from)
    is_same = was == now and not is_moved
    return is_same and bool(entry.get("version", 1) == version)
