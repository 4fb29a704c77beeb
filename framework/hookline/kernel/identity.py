"""Whether things are the very same objects; ``==`` would compare tensors by their elements."""

from __future__ import annotations

from collections.abc import Sequence
from operator import is_
from typing import Any

__all__ = ["are_same"]


def are_same(one: Sequence[Any], other: Sequence[Any]) -> bool:
    """Return whether both hold the same objects in the same order."""
    return len(one) == len(other) and all(map(is_, one, other))
