"""A copy of a model that has shapes and no data, and nothing of anyone else's."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any

from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

__all__ = ["shadow_of", "without_global_hooks"]

_HOOKS = [name for name in vars(nn.Module()) if name.endswith("_hooks")]
_GLOBAL_HOOKS = [f"_global_{name}_hooks" for name in ("forward", "forward_pre", "backward", "backward_pre")]
_OF_TORCH = "torch.nn.utils."  # Pre-hooks of weight_norm, spectral_norm and prune compute a weight.


def shadow_of(model: nn.Module, fake: FakeTensorMode) -> nn.Module:
    """Return a copy of ``model`` whose tensors are ``fake``; of its hooks it has the model's and torch's own.

    Those of others stay where they are: the copy would call them with tensors without data, and to copy them
    is to copy whose they are.

    Raises:
        Exception: If it cannot be copied.
    """
    modules = list(model.modules())
    # deepcopy takes what is in the memo for copies it has made: only the rest of the model is copied.
    memo: dict[int, Any] = {id(tensor): fake.from_tensor(tensor) for tensor in _tensors(modules)}
    tables = [table for module in modules for name in _HOOKS if (table := vars(module).get(name))]
    memo |= {id(table): OrderedDict() for table in tables}
    shadow = copy.deepcopy(model, memo)
    for table in tables:
        own = {key: hook for key, hook in table.items() if _is_own(hook, modules)}
        memo[id(table)].update(copy.deepcopy(own, memo))
    _check_apart(modules, shadow)
    return shadow


@contextmanager
def without_global_hooks() -> Iterator[None]:
    """Set aside the hooks that others have on every module."""
    tables = [getattr(nn.modules.module, name) for name in _GLOBAL_HOOKS]
    kept = [dict(table) for table in tables]
    for table in tables:
        table.clear()
    try:
        yield
    finally:
        for table, hooks in zip(tables, kept, strict=True):
            table.update(hooks)


def _tensors(modules: list[nn.Module]) -> Iterator[Tensor]:
    for module in modules:
        yield from module.parameters(recurse=False)
        yield from module.buffers(recurse=False)
        for value in vars(module).values():
            if isinstance(value, Tensor) and not value.is_leaf:
                # Such as the weight that weight_norm computes anew in each forward; deepcopy refuses it.
                yield value


def _is_own(hook: Any, modules: list[nn.Module]) -> bool:
    owner = getattr(hook, "__self__", hook)
    if isinstance(owner, nn.Module):
        return any(owner is module for module in modules)
    return any(kind.__module__.startswith(_OF_TORCH) for kind in type(hook).__mro__)


def _check_apart(modules: list[nn.Module], shadow: nn.Module) -> None:
    """Raise if a forward was replaced by a closure: it is not copied, and may reach the model itself."""
    for original, copied in zip(modules, shadow.modules(), strict=True):
        forward = vars(copied).get("forward")
        is_closure = isinstance(forward, FunctionType) and forward.__closure__
        if is_closure and forward is vars(original).get("forward"):
            raise ValueError(f"the forward of {type(original).__name__} was replaced by a function")
