"""Whether an optimizer's state in a checkpoint belongs to the parameters of now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

__all__ = ["check_optimizer_state"]

# What torch's optimizers keep for each element of a parameter. Their fused kernels do not look at its size,
# and loading converts its type in silence.
_PER_ELEMENT = frozenset(
    {
        "acc_delta",
        "ax",
        "exp_avg",
        "exp_avg_sq",
        "exp_inf",
        "grad_avg",
        "max_exp_avg_sq",
        "momentum_buffer",
        "prev",
        "square_avg",
        "step_size",
        "sum",
        "variance",
    }
)


def check_optimizer_state(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Return if ``state`` may be given to ``optimizer.load_state_dict``, which compares lengths alone.

    Raises:
        ValueError: If it has state of other parameters, or of ones of another shape or type.
    """
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    by_number = dict(zip(numbers, parameters, strict=False))
    is_of_torch = type(optimizer).__module__.startswith("torch.optim.")
    for number, kept in state["state"].items():
        if type(number) is int and number not in by_number:
            raise ValueError(f"state of parameter {number}, where there are {len(numbers)}")
        if number in by_number:
            for problem in _misfits(by_number[number], kept, is_of_torch):
                raise ValueError(f"of parameter {number} {problem}")


def _misfits(parameter: torch.Tensor, kept: Mapping[str, Any], is_of_torch: bool) -> Iterator[str]:
    for name, value in kept.items():
        if not isinstance(value, torch.Tensor) or name not in _PER_ELEMENT:
            continue
        if value.shape != parameter.shape:
            yield f"{name} of shape {list(value.shape)} instead of {list(parameter.shape)}"
        # Another's optimizer may keep more precision, and load it as it likes.
        if is_of_torch and value.dtype != parameter.dtype:
            yield f"{name} of type {value.dtype} instead of {parameter.dtype}"
