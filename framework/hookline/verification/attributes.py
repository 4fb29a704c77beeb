"""What the objects of a run remember, in their attributes: where to look for a state that nobody saves."""

from __future__ import annotations

import random
import secrets
from collections.abc import Iterator, Mapping
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType, NoneType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hookline.default import DefaultTrainer
from hookline.purity import digests
from hookline.trainer import TrainerBase

__all__ = ["Attributes", "attributes_of", "otherwise"]

Attributes = dict[tuple[str, str], tuple[str, str]]
"""By owner, as in ``plugin:NAME``, ``model`` and ``data``, and path: a digest, and the value for people."""

_MAX_DEPTH = 3
_MAX_ITEMS = 64
_MAX_SHOWN = 40
_PLAIN = (bool, int, float, complex, str, bytes, NoneType)
_GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
_CLOSED = (nn.Module, Optimizer, TrainerBase, type, ModuleType, FunctionType, BuiltinFunctionType, MethodType)
_LIBRARIES = frozenset(
    ["torch", "numpy", "builtins", "threading", "_thread", "logging", "pathlib", "io", "_io", "re", "rich"]
)
_OF_MODULES = frozenset(vars(nn.Module()))
_OF_TRAINERS = frozenset(["start_iter", "stop_at", "generation", "asked_to_resume"])
_OF_TORCH = frozenset(["optimizer", "param_groups", "state", "defaults"])


def attributes_of(trainer: DefaultTrainer) -> Attributes:
    """Return what plugins, model, schedule, optimizer and data remember beside parameters and buffers."""
    found: Attributes = {}
    for owner, prefix, holder in _roots(trainer):
        depth = _MAX_DEPTH if isinstance(holder, TrainerBase) else 0  # what it holds are the other owners
        names = [name for name in vars(holder) if not _is_known(holder, name)] if _has_dict(holder) else []
        for name in names:
            for path, value in _leaves(vars(holder)[name], f"{prefix}{name}", depth):
                found.setdefault((owner, path), (_digest(value), _shown(value)))
    return found


def otherwise(one: Attributes, other: Attributes, owner: str) -> dict[str, tuple[str, str]]:
    """Return what ``owner`` remembers differently in two runs: by path, for people, what it is in each."""
    paths = [path for whose, path in {**one, **other} if whose == owner]
    gone = ("", "not there")
    pairs = {path: (one.get((owner, path), gone), other.get((owner, path), gone)) for path in paths}
    return {path: (a[1], b[1]) for path, (a, b) in pairs.items() if a[0] != b[0]}


def _roots(trainer: DefaultTrainer) -> Iterator[tuple[str, str, Any]]:
    """Yield each object to look at, with its owner and how its attributes' names begin."""
    for name in trainer.hooks.names():
        yield f"plugin:{name}", "", trainer.hooks.get_plugin(name)
    for name, module in trainer.model.named_modules():
        yield "model", f"{name}." if name else "", module
    yield "plugin:schedule", "schedule.", trainer.schedule
    yield "optimizer", "", trainer.optimizer
    yield "data", "", trainer.data_loader
    yield "trainer", "", trainer


def _has_dict(holder: Any) -> bool:
    return hasattr(holder, "__dict__") and not isinstance(holder, ModuleType)


def _is_known(holder: Any, name: str) -> bool:
    """Return whether an attribute is one of torch's or hookline's own, which are compared otherwise."""
    if isinstance(holder, nn.Module):
        return name in _OF_MODULES
    if isinstance(holder, TrainerBase):
        return name.startswith("_") or name in _OF_TRAINERS
    is_inner = name.startswith("_") and type(holder).__module__.partition(".")[0] in ("torch", "hookline")
    return is_inner or name in _OF_TORCH or name in ("_trainer", "trainer", "name", "_iterator")


def _leaves(value: Any, path: str, depth: int) -> Iterator[tuple[str, Any]]:
    if isinstance(value, (*_PLAIN, Tensor, np.ndarray, np.generic, *_GENERATORS)):
        yield path, value
    elif isinstance(value, (list, tuple, set, frozenset)) and all(isinstance(v, _PLAIN) for v in value):
        yield path, sorted(value, key=repr) if isinstance(value, (set, frozenset)) else value
    elif depth < _MAX_DEPTH and not isinstance(value, _CLOSED):
        for name, item in _items(value):
            yield from _leaves(item, f"{path}.{name}", depth + 1)


def _items(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        yield from list(value.items())[:_MAX_ITEMS]
    elif isinstance(value, (list, tuple)):
        yield from list(enumerate(value))[:_MAX_ITEMS]
    elif type(value).__module__.partition(".")[0] not in _LIBRARIES and _has_dict(value):
        yield from ((name, item) for name, item in vars(value).items() if not _is_known(value, name))


def _digest(value: Any) -> str:
    if isinstance(value, random.SystemRandom):
        return secrets.token_hex(8)  # another one in each process
    state: Any = value
    if isinstance(value, torch.Generator):
        state = value.get_state()
    elif isinstance(value, np.random.Generator):
        state = repr(value.bit_generator.state)
    elif isinstance(value, np.random.RandomState):
        state = value.get_state(legacy=False)
    elif isinstance(value, random.Random):
        state = value.getstate()
    return digests({"": state})[""]


def _shown(value: Any) -> str:
    if isinstance(value, random.SystemRandom):
        return "a random.SystemRandom, which has no seed"
    if isinstance(value, _GENERATORS):
        return f"a {type(value).__name__} in another state"
    if isinstance(value, (Tensor, np.ndarray)):
        return f"a {type(value).__name__} of other values"
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 1]}…"
