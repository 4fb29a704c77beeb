"""What a model returned, checked; and how a kernel refuses what it is given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["require", "split_losses"]

_RESERVED_NAMES = {"total_loss", "grad_norm", "loss_scale"}


def split_losses(output: Any, where: str) -> tuple[dict[str, Tensor], int | Tensor]:
    """Check what a model returned; return its losses, at least float32, their sum, and its items."""
    if type(output) is Tensor and output.dtype is torch.float32 and output.ndim == 0 and output.requires_grad:
        return {"total_loss": output}, 1  # What most models return.
    losses = dict(output) if isinstance(output, Mapping) else {"total_loss": output}
    num_items = losses.pop("num_items", 1)
    fits = len(losses) == 1 or (len(losses) > 1 and not _RESERVED_NAMES & losses.keys())
    require(fits, where, f"losses not named like {sorted(_RESERVED_NAMES)}", [*losses])
    for name, loss in losses.items():
        fits = isinstance(loss, Tensor) and loss.ndim == 0 and loss.is_floating_point()
        require(fits, f"{where} {name}", "a 0-D floating-point loss, as loss.mean() is", loss)
        losses[name] = loss.to(torch.promote_types(loss.dtype, torch.float32))  # Scaled halves overflow.
    fits = isinstance(num_items, int) or (isinstance(num_items, Tensor) and num_items.ndim == 0)
    require(fits, f"{where} num_items", "an int or a 0-D tensor", num_items)
    first, *others = losses.values()
    total = sum(others, first)
    require(total.requires_grad, where, "a loss that depends on a trainable parameter", total)
    return {"total_loss": total, **(losses if len(losses) > 1 else {})}, num_items


def require(holds: bool, where: str, rule: str, value: Any) -> None:
    """Raise a ValueError if not ``holds``."""
    if not holds:  # The elements of a tensor would have to be waited for.
        shown = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)[:80]
        raise ValueError(f"{where}: expected {rule}, got {shown}.")
