"""The random generators that a data source owns: their states as data, and back."""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache, partial
from types import (
    BuiltinMethodType,
    FunctionType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
    NoneType,
)
from typing import Any

import numpy as np
import torch
from torch import nn

from hookline.data.workers import Workers

__all__ = ["generators", "load_generators", "state_of_generators"]

_MAX_ITEMS = 64  # of a list: what is longer holds samples
_MAX_OBJECTS = 1000
_MAX_DEPTH = 8
_KINDS = (
    torch.Generator,
    np.random.Generator,
    np.random.BitGenerator,
    np.random.SeedSequence,
    np.random.RandomState,
    random.Random,
)
# Those that every checkpoint has anyway, and to which methods such as `random.gauss` belong.
_METHODS: tuple[Any, ...] = (random.random, np.random.rand)
_GLOBAL = (torch.default_generator, *(method.__self__ for method in _METHODS))
# Where nothing is to be found, or what belongs to torch and begins anew with the process.
_PLAIN = (str, bytes, int, float, complex, NoneType)
_CLOSED = (*_PLAIN, torch.Tensor, np.ndarray, type, ModuleType, FunctionType, Workers)
_ITERATOR = "_iterator"  # of a DataLoader whose workers stay
_OF_MODULES = frozenset(vars(nn.Module()))

_log = logging.getLogger(__name__)


def generators(source: Any) -> dict[str, Any]:
    """Return every random generator that ``source`` holds, by the attributes that lead to it.

    One that is reached in several ways is named once. It calls nothing of ``source``. A `SystemRandom`, which
    has no state, is left out. It looks into attributes, dicts, lists, tuples, deques, modules, partials and
    what methods are bound to, 8 levels deep; not into sets, closures, and lists and dicts of more than 64
    items. After 1,000 objects, of which what holds plain values alone is none, it gives up with a warning.
    """
    found: dict[str, Any] = {}
    seen: set[int] = set()
    waiting: deque[tuple[str, Any, int]] = deque([("", source, 0)])
    while waiting:
        path, value, depth = waiting.popleft()
        if id(value) in seen or _is_plain(value):
            continue
        if len(seen) == _MAX_OBJECTS:
            _tell_of_limit(type(source).__qualname__)
            break
        seen.add(id(value))
        if isinstance(value, _KINDS):
            if not isinstance(value, random.SystemRandom) and all(value is not known for known in _GLOBAL):
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


@cache
def _tell_of_limit(name: str) -> None:
    _log.warning(
        "data: a random generator was looked for in %d objects of %s, which has more: one that is deeper in "
        "it is not saved. Keep it in an attribute further up.",
        _MAX_OBJECTS,
        name,
    )


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return len(value) > _MAX_ITEMS or all(isinstance(item, _CLOSED) for item in value)
    return isinstance(value, _CLOSED)


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        if len(value) <= _MAX_ITEMS:
            yield from ((str(key), item) for key, item in value.items())
    elif isinstance(value, (list, tuple, deque)):
        if len(value) <= _MAX_ITEMS:
            yield from ((str(index), item) for index, item in enumerate(value))
    elif isinstance(value, (MethodType, BuiltinMethodType)):
        yield "__self__", value.__self__
    else:
        yield from _attributes(value)


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    own = getattr(value, "__dict__", {})
    if isinstance(value, nn.Module):
        yield from own.get("_modules", {}).items()
        own = {name: item for name, item in own.items() if name not in _OF_MODULES}
    elif isinstance(value, partial):
        own = {"func": value.func, "args": value.args, "keywords": value.keywords, **own}
    yield from (item for item in own.items() if item[0] != _ITERATOR)
    for cls in type(value).__mro__:
        if "__slots__" in vars(cls):
            for name, member in vars(cls).items():
                if isinstance(member, MemberDescriptorType):
                    with suppress(AttributeError):  # one that was never set
                        yield name, member.__get__(value)


def _state(generator: Any) -> Any:
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, np.random.Generator):
        return _state(generator.bit_generator)
    if isinstance(generator, np.random.BitGenerator):
        num_spawned = getattr(generator.seed_seq, "n_children_spawned", 0)
        return {**generator.state, **({"num_spawned": num_spawned} if num_spawned else {})}
    if isinstance(generator, np.random.SeedSequence):
        return generator.n_children_spawned
    if isinstance(generator, np.random.RandomState):
        return generator.get_state(legacy=False)
    return generator.getstate()


def _load(generator: Any, state: Any) -> None:
    if isinstance(generator, torch.Generator):
        generator.set_state(state)
    elif isinstance(generator, np.random.Generator):
        _load(generator.bit_generator, state)
    elif isinstance(generator, np.random.BitGenerator):
        generator.state = state
        _spawn_up_to(generator.seed_seq, state.get("num_spawned", 0))
    elif isinstance(generator, np.random.SeedSequence):
        _spawn_up_to(generator, state)
    elif isinstance(generator, np.random.RandomState):
        generator.set_state(state)
    else:
        generator.setstate(state)


def _spawn_up_to(sequence: Any, num_spawned: int) -> None:
    """Spawn and drop children until ``num_spawned`` are, as NumPy has no other way to count them."""
    while (missing := num_spawned - getattr(sequence, "n_children_spawned", num_spawned)) > 0:
        sequence.spawn(min(missing, _MAX_OBJECTS))
