"""From what users put to what events hold; one way for every device, and none that makes the host wait."""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hookline.errors import Problem
from hookline.events.records import Histogram

__all__ = ["as_number", "histogram", "histogram_vector", "image_bytes"]


def as_number(value: Any, name: Any, iteration: int) -> float | Tensor:
    """Return ``value`` as a float, or as it is when it is a 1-element tensor that is not on the CPU."""
    if type(value) is Tensor and value.numel() == 1 and not (value.is_complex() or value.is_meta):
        # Asking for an exact type is cheap, and what comes in every iteration is of it.
        if not value.is_cpu:
            return value
        value = value.item()
    elif isinstance(value, (Tensor, np.ndarray)):
        if _size(value) != 1:
            fix = "Reduce it first, as with .mean(), or use put_histogram"
            raise ValueError(_wrong(name, iteration, "one number", f"shape {tuple(value.shape)}", fix))
        if isinstance(value, Tensor) and not value.is_cpu:
            if value.is_complex() or value.is_meta:
                raise TypeError(_wrong(name, iteration, "a real number", f"{value.dtype} on {value.device}"))
            return value
        value = value.item()
    if type(value) is float:
        return value
    if not isinstance(value, (numbers.Real, np.bool_)):
        raise TypeError(_wrong(name, iteration, "a real number", value))
    try:
        return float(value)
    except OverflowError as error:
        raise ValueError(_wrong(name, iteration, "a number within the range of a float", value)) from error


def _size(array: Tensor | npt.NDArray[Any]) -> int:
    return array.numel() if isinstance(array, Tensor) else array.size


def _wrong(name: Any, iteration: int, rule: str, got: Any, fix: str = "") -> str:
    return str(Problem(f"scalar {name!r} at iteration {iteration}", rule, got, fix=fix))


def image_bytes(where: str, image: Any) -> Tensor:
    """Return ``image`` as a new uint8 tensor of shape (C, H, W) where it is; floats are clamped to [0, 1]."""
    if not isinstance(image, (Tensor, np.ndarray)):
        raise TypeError(str(Problem(where, "a tensor or array of shape (C, H, W)", type(image).__name__)))
    tensor = torch.as_tensor(image).detach()
    shape = tuple(tensor.shape)
    if len(shape) != 3 or shape[0] not in (1, 3, 4) or tensor.numel() == 0:
        fix = (
            "It looks like (H, W, C); use image.permute(2, 0, 1)" if shape[-1:] in ((1,), (3,), (4,)) else ""
        )
        raise ValueError(
            str(Problem(where, "shape (C, H, W) with C of 1, 3 or 4", f"shape {shape}", fix=fix))
        )
    if tensor.dtype == torch.uint8:
        return tensor.clone()
    if not tensor.is_floating_point():
        rule = "floats in [0, 1] or uint8"
        raise TypeError(
            str(Problem(where, rule, f"dtype {tensor.dtype}", fix="Convert it with .to(torch.uint8)"))
        )
    return tensor.float().nan_to_num(0.0).clamp(0, 1).mul(255).round().to(torch.uint8)


def histogram_vector(where: str, values: Any, bins: int) -> Tensor:
    """Return counts, then number, min, max, sum and sum of squares of the finite values, where they are."""
    if bins < 1:
        raise ValueError(str(Problem(where, "bins >= 1", bins)))
    tensor = torch.as_tensor(values).detach().flatten()
    if tensor.is_complex() or tensor.numel() == 0:
        raise ValueError(
            str(Problem(where, "at least one real number", f"{tensor.dtype}, {tensor.numel()} values"))
        )
    # MPS has no float64.
    wide = torch.float32 if tensor.device.type == "mps" else torch.float64
    tensor = tensor.to(wide)
    finite = tensor.isfinite()
    low = tensor.where(finite, torch.inf).amin()
    high = tensor.where(finite, -torch.inf).amax()
    tensor = tensor.where(finite, 0)
    width = (high - low) / bins
    # Selecting by mask would make the host wait for the number selected; adding 0 for the others does not.
    place = ((tensor - low) / width).nan_to_num(0.0).clamp(0, bins - 1).long()
    counts = torch.zeros(bins, dtype=wide, device=tensor.device).scatter_add_(0, place, finite.to(wide))
    rest = torch.stack([finite.sum().to(wide), low, high, tensor.sum(), tensor.square().sum()])
    return torch.cat([counts, rest])


def histogram(vector: npt.NDArray[Any]) -> Histogram:
    """Return the histogram that ``histogram_vector`` measured."""
    *_, num, low, high, total, squares = vector.tolist()
    if num == 0:
        low = high = 0.0
    # All values alike: a bin needs a width all the same.
    top = high if high > low else low + max(1.0, abs(low) * 1e-6)
    edges = np.linspace(low, top, len(vector) - 4)
    return Histogram(vector[:-5].astype(np.int64), edges, int(num), low, high, total, squares)
