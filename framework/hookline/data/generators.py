"""The random generators that a data source owns: their states as data, and back."""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Iterator, Mapping
from types import FunctionType, ModuleType, NoneType
from typing import Any

import numpy as np
import torch
from torch import nn

from hookline.data.workers import Workers

__all__ = ["generators", "load_generators", "state_of_generators"]

_MAX_ITEMS = 64  # of a list: what is longer holds samples
_MAX_OBJECTS = 1000
_MAX_DEPTH = 8
_KINDS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
# Where nothing is to be found, or what belongs to torch and begins anew with the process.
_PLAIN = (str, bytes, int, float, complex, NoneType)
_CLOSED = (*_PLAIN, torch.Tensor, np.ndarray, nn.Module, type, ModuleType, FunctionType, Workers)
_ITERATOR = "_iterator"  # of a DataLoader whose workers stay

_log = logging.getLogger(__name__)


def generators(source: Any) -> dict[str, Any]:
    """Return every random generator that ``source`` holds, at any depth, by the attributes that lead to it.

    One that is reached in several ways is named once. It calls nothing of ``source``. A `SystemRandom`, which
    has no state, is left out. In long lists and in ``__slots__`` it does not look.
    """
    found: dict[str, Any] = {}
    seen: set[int] = set()
    waiting: deque[tuple[str, Any, int]] = deque([("", source, 0)])
    while waiting and len(seen) < _MAX_OBJECTS:
        path, value, depth = waiting.popleft()
        if id(value) in seen or isinstance(value, _CLOSED):
            continue
        seen.add(id(value))
        if isinstance(value, _KINDS):
            if not isinstance(value, random.SystemRandom):
                found[path] = value
        elif depth < _MAX_DEPTH:
            waiting += ((f"{path}.{name}".lstrip("."), item, depth + 1) for name, item in _parts(value))
    return found


def state_of_generators(source: Any) -> dict[str, Any]:
    """Return the state of each of `generators`, as data that a checkpoint can hold."""
    return {name: _state(generator) for name, generator in generators(source).items()}


def load_generators(source: Any, states: Mapping[str, Any]) -> None:
    """Put each of `generators` where `state_of_generators` found it; one that is gone or new is told."""
    owned = generators(source)
    for name in owned.keys() ^ states.keys():
        which = "which the data does not have now" if name in states else "of which nothing was saved"
        _log.warning("data: the random generator %r, %s: random numbers will differ.", name, which)
    for name in owned.keys() & states.keys():
        _load(owned[name], states[name])


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        if len(value) <= _MAX_ITEMS:
            yield from ((str(key), item) for key, item in value.items())
    elif isinstance(value, (list, tuple)):
        if len(value) <= _MAX_ITEMS:
            yield from ((str(index), item) for index, item in enumerate(value))
    else:
        yield from (item for item in getattr(value, "__dict__", {}).items() if item[0] != _ITERATOR)


def _state(generator: Any) -> Any:
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    if isinstance(generator, np.random.RandomState):
        return generator.get_state(legacy=False)
    return generator.getstate()


def _load(generator: Any, state: Any) -> None:
    if isinstance(generator, torch.Generator):
        generator.set_state(state)
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, np.random.RandomState):
        generator.set_state(state)
    else:
        generator.setstate(state)
