"""Tensors in any nesting of containers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

import torch

__all__ = ["map_tensors", "to_device"]


def map_tensors(value: Any, function: Callable[[Any], Any]) -> Any:
    """Return ``value`` with ``function(tensor)`` in place of each tensor; containers are copied, not changed.

    Containers are dicts, lists, tuples, named tuples and dataclasses, of their own type again. Whatever has
    a method ``to`` counts as a tensor, as a PackedSequence does, which is a tuple; all else stays as it is.
    """
    if callable(getattr(value, "to", None)):
        return function(value)
    if isinstance(value, (list, tuple)):
        items = [map_tensors(item, function) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, dict):
        changed = copy.copy(value)  # An OrderedDict or a defaultdict stays one.
        changed.update((key, map_tensors(item, function)) for key, item in value.items())
        return changed
    if is_dataclass(value) and not isinstance(value, type):
        clone: Any = copy.copy(value)  # Not replace(), which runs __post_init__ again.
        for field in fields(value):
            object.__setattr__(clone, field.name, map_tensors(getattr(value, field.name), function))
        return clone
    return value


def to_device(value: Any, device: torch.device) -> Any:
    """Return ``value`` with all its tensors on ``device``; containers are copied, not changed."""
    # Also a PackedSequence, whose own ``to`` keeps its lengths on the host.
    return map_tensors(value, lambda tensor: tensor.to(device, non_blocking=True))
