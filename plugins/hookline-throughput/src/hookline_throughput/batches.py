"""How much is in a batch of any form."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor

from hookline import PluginError

__all__ = ["num_samples", "num_tokens"]


def num_samples(batch: Any, where: str) -> int:
    """Return the size of the first dimension of the first tensor in ``batch``.

    Raises:
        PluginError: If there is no tensor that has one.
    """
    return _first_tensor(batch, where, "Set batch_size").shape[0]


def num_tokens(batch: Any, tokens: str | Sequence[int], where: str) -> int:
    """Return the tokens in ``batch``: the elements at a key, or the product of some dimensions' sizes.

    Raises:
        PluginError: If there is no such tensor, or it has not so many dimensions.
    """
    if not isinstance(tokens, str):
        shape = _first_tensor(batch, where, "Set tokens to the key of a tensor").shape
        if max(tokens) >= len(shape):
            raise PluginError(
                f"{where}.tokens: expected dimensions of the first tensor of a batch, which has "
                f"{len(shape)}, got {[*tokens]}. Count them from 0."
            )
        return math.prod(shape[dimension] for dimension in tokens)
    is_mapping = isinstance(batch, Mapping)
    value = batch.get(tokens) if is_mapping else getattr(batch, tokens, None)
    if not isinstance(value, Tensor):
        exists = f"keys {', '.join(map(str, batch))}" if is_mapping else f"the type {type(batch).__name__}"
        raise PluginError(
            f"{where}.tokens: expected the key of a tensor in the batch, got {tokens!r}. The batch has "
            f"{exists}. Name one of its tensors, or dimensions of the first one, such as [0, 1]."
        )
    return value.numel()


def _first_tensor(batch: Any, where: str, fix: str) -> Tensor:
    tensor = next((tensor for tensor in _tensors(batch) if tensor.ndim), None)
    if tensor is None:
        raise PluginError(
            f"{where}: expected a tensor with a dimension in the batch, got {type(batch).__name__} without. "
            f"{fix}."
        )
    return tensor


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
    elif is_dataclass(value) and not isinstance(value, type):
        for entry in fields(value):
            yield from _tensors(getattr(value, entry.name))
