"""Which of the parameters of now an optimizer's state in a checkpoint belongs to, and whether it fits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, count
from typing import Any

import torch
from torch import nn

__all__ = ["are_equal", "check_optimizer_state", "for_parameters", "keep_types", "parameter_names"]

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
    group: a parameter that has changed groups gets those of the other. A state of another form than torch's
    is returned as it is.

    Args:
        state: From ``optimizer.state_dict()``.
        saved: Names by group, as `parameter_names` returned them then.
        now: The same, of now.

    Raises:
        ValueError: If it is not the same parameters in as many groups.
    """
    if saved == now or not _is_of_torchs_form(state):
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

    Only torch's own optimizers keep what is known here, and only a state of torch's form can be looked into.

    Raises:
        ValueError: If it has state of other parameters, or of ones of another shape or type.
    """
    if not _is_of_torchs_form(state):
        return
    by_number = _by_number(optimizer, state)
    is_of_torch = type(optimizer).__module__.startswith("torch.optim.")
    for number, kept in state["state"].items():
        if type(number) is int and number not in by_number:
            raise ValueError(f"state of parameter {number}, where there are {len(by_number)}")
        if number in by_number and is_of_torch:
            for problem in _misfits(by_number[number], kept):
                raise ValueError(f"of parameter {number} {problem}")


def keep_types(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Give what ``optimizer`` has loaded of ``state`` the types that it was saved in.

    ``Optimizer.load_state_dict`` converts it to those of the parameters, which loses what an optimizer keeps
    in more digits than these, or as integers. One that loads its state by itself is left alone.
    """
    if type(optimizer).load_state_dict is not torch.optim.Optimizer.load_state_dict:
        return
    for number, parameter in _by_number(optimizer, state).items():
        if number in state["state"]:
            optimizer.state[parameter] = _as_saved(optimizer.state[parameter], state["state"][number])


def are_equal(one: Any, other: Any) -> bool:
    """Return whether two options of an optimizer are equal, tensors with all of their elements."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.equal(one.cpu(), other.cpu())
    if isinstance(one, torch.Tensor) or isinstance(other, torch.Tensor):
        return False
    return bool(one == other)


def _is_of_torchs_form(state: Mapping[str, Any]) -> bool:
    return {"state", "param_groups"} <= state.keys()


def _by_number(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> dict[Any, torch.Tensor]:
    """Return the parameter that each number in ``state`` stands for."""
    numbers = (number for group in state["param_groups"] for number in group["params"])
    parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
    return dict(zip(numbers, parameters, strict=False))


def _as_saved(loaded: Any, saved: Any, key: Any = None) -> Any:
    if isinstance(loaded, torch.Tensor) and isinstance(saved, torch.Tensor):
        # Where "step" is on a device, torch's kernels want the type that it gets there.
        return loaded if key == "step" or loaded.dtype == saved.dtype else saved.to(loaded.device)
    if isinstance(loaded, dict) and isinstance(saved, dict):
        return {name: _as_saved(value, saved.get(name), name) for name, value in loaded.items()}
    if type(loaded) in (list, tuple) and type(loaded) is type(saved) and len(loaded) == len(saved):
        return type(loaded)(map(_as_saved, loaded, saved))
    return loaded


def _misfits(parameter: torch.Tensor, kept: Mapping[str, Any]) -> Iterator[str]:
    for name, value in kept.items():
        if not isinstance(value, torch.Tensor) or name not in _PER_ELEMENT:
            continue
        if value.shape != parameter.shape:
            yield f"{name} of shape {list(value.shape)} instead of {list(parameter.shape)}"
        if value.dtype != parameter.dtype:
            yield f"{name} of type {value.dtype} instead of {parameter.dtype}"
