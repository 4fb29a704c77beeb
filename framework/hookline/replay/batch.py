"""What is in a batch, and whether two are the same to the bit."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hookline import capsules
from hookline.capsules import Capsule

__all__ = ["Part", "are_same", "parts_of"]

_MAX_ROWS = 10


@dataclass(frozen=True)
class Part:
    """A tensor of a batch, and what is in it.

    Args:
        microbatch: In which of the iteration's batches, from 0 on.
        name: The path to it, such as ``image`` or ``0.1``; empty where the batch is a tensor.
        min: Of its finite elements, as are ``max`` and ``mean``; NaN where there is none.
        rows: The first indices into its first dimension at which something is not finite; in the batch of a
            spike that at which its largest magnitude is.
        samples: Those of the samples at ``rows``, where the loader knows them.
    """

    microbatch: int
    name: str
    dtype: str
    shape: tuple[int, ...]
    min: float
    max: float
    mean: float
    num_nan: int
    num_inf: int
    rows: tuple[int, ...] = ()
    samples: tuple[int, ...] = ()


def parts_of(batches: Sequence[Any], capsule: Capsule) -> list[Part]:
    """Return what is in each tensor of the capsule's ``batches``."""
    found = []
    for number, batch in enumerate(batches):
        indices = capsule.samples[number]["indices"].tolist() if capsule.samples is not None else []
        for name, value in _tensors(batch):
            found.append(_part(number, name, value, indices, is_spike=capsule.why == "spike"))
    return found


def _tensors(batch: Any) -> Iterator[tuple[str, Tensor]]:
    for name, value in capsules.parts(batch):
        if isinstance(value, np.ndarray) and value.dtype.kind in "biuf" and value.dtype.isnative:
            yield name, torch.from_numpy(np.array(value))  # a copy: torch warns of one that is read-only
        elif isinstance(value, Tensor) and value.layout == torch.strided:
            yield name, value.detach().as_subclass(Tensor).cpu()


def _part(microbatch: int, name: str, tensor: Tensor, indices: Sequence[int], *, is_spike: bool) -> Part:
    values = (tensor.abs() if tensor.is_complex() else tensor).double()
    finite = values[values.isfinite()]
    least, most, mean = (
        (finite.min().item(), finite.max().item(), finite.mean().item()) if finite.numel() else [math.nan] * 3
    )
    rows = _rows(values, is_spike=is_spike and tensor.is_floating_point())
    is_by_sample = tensor.ndim > 0 and len(tensor) == len(indices)
    return Part(
        microbatch,
        name,
        str(tensor.dtype).removeprefix("torch."),
        tuple(tensor.shape),
        least,
        most,
        mean,
        int(values.isnan().sum()),
        int(values.isinf().sum()),
        rows,
        tuple(indices[row] for row in rows) if is_by_sample else (),
    )


def _rows(values: Tensor, *, is_spike: bool) -> tuple[int, ...]:
    if not values.ndim or not values.numel():
        return ()
    bad = (~values.isfinite()).reshape(len(values), -1).any(1)
    if bad.any() or not is_spike:
        return tuple(bad.nonzero().flatten().tolist()[:_MAX_ROWS])
    return (int(values.abs().argmax()) // (values.numel() // len(values)),)


def are_same(one: Any, other: Any) -> bool:
    """Return whether two batches hold the same, to the bit."""
    mine, theirs = dict(capsules.parts(one)), dict(capsules.parts(other))
    return mine.keys() == theirs.keys() and all(_is_same_part(mine[name], theirs[name]) for name in mine)


def _is_same_part(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and torch.equal(_bits(one), _bits(other))
    return type(one) is type(other) and repr(one) == repr(other)


def _bits(tensor: Tensor) -> Tensor:
    plain = tensor.detach().as_subclass(Tensor).cpu().resolve_conj().resolve_neg().contiguous()
    return plain.reshape(-1).view(torch.uint8)
