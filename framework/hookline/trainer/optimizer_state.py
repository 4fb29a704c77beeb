"""Which of the parameters of now an optimizer's state in a checkpoint belongs to, and whether it fits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, count
from typing import Any

import torch
from torch import nn

__all__ = ["check_optimizer_state", "for_parameters", "parameter_names"]

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


def parameter_names(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[list[str]]:
    """Return the names of the parameters of each group, in order; those of no ``model`` are numbered."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    others = count()
    return [
        [names.get(id(parameter)) or f"parameter {next(others)} of no model" for parameter in group["params"]]
        for group in optimizer.param_groups
    ]


def for_parameters(
    state: Mapping[str, Any], saved: Sequence[Sequence[str]], now: Sequence[Sequence[str]]
) -> Mapping[str, Any]:
    """Return ``state`` of the parameters named ``saved`` as that of an optimizer of those named ``now``.

    Otherwise ``optimizer.load_state_dict`` gives each its state by its place. Options stay those of their
    group: a parameter that has changed groups gets those of the other.

    Args:
        state: From ``optimizer.state_dict()``.
        saved: Names by group, as `parameter_names` returned them then.
        now: The same, of now.

    Raises:
        ValueError: If it is not the same parameters in as many groups.
    """
    if saved == now:
        return state
    groups = state["param_groups"]
    if len(groups) != len(now):
        raise ValueError(f"that of {len(groups)} parameter groups, where there are {len(now)}")
    numbers = dict(zip(chain(*saved), chain(*(group["params"] for group in groups)), strict=True))
    places = {name: place for place, name in reversed([*enumerate(chain(*now))])}
    for which, names in (
        ("which it does not update now", numbers.keys() - places),
        ("of which nothing was saved", places.keys() - numbers),
    ):
        if names:
            raise ValueError(f"that of other parameters: {', '.join(sorted(names)[:3])}, {which}")
    renumbered = {number: places[name] for name, number in numbers.items()}
    return {
        **state,
        "state": {renumbered.get(number, number): kept for number, kept in state["state"].items()},
        "param_groups": [
            # Names that torch was given are those of the optimizer of now, which keeps them.
            {**{key: value for key, value in group.items() if key != "param_names"}, "params": params}
            for group, params in zip(groups, [[places[name] for name in names] for names in now], strict=True)
        ],
    }


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
