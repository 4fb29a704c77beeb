"""torch's fused functions: for which optimizers they are, and what they are called with.

They are private: a torch in which they take other arguments than here has none for us.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

__all__ = [
    "Bucket", "bucket_of", "fits", "fused_function", "is_ordinary", "laid_as", "may_fuse", "option_names",
]  # fmt: skip

_DEVICES = ("cpu", "cuda")
_ADAM = (
    "self grads exp_avgs exp_avg_sqs max_exp_avg_sqs state_steps lr beta1 beta2 weight_decay eps "
    "amsgrad maximize grad_scale found_inf"
)
# The private functions, with the arguments they must take to be called here. Source: torch 2.6 to 2.13.
_ARGUMENTS = {
    "_fused_adam_": _ADAM,
    "_fused_adamw_": _ADAM,
    "_fused_sgd_": "self grads momentum_buffer_list weight_decay momentum lr dampening nesterov maximize "
    "is_first_step grad_scale found_inf",
}
_FUNCTIONS = {Adam: "_fused_adam_", AdamW: "_fused_adamw_", SGD: "_fused_sgd_"}
_ADAM_OPTIONS = ("betas", "eps", "weight_decay", "amsgrad", "maximize", "fused", "differentiable")
_SGD_OPTIONS = ("momentum", "dampening", "nesterov", "weight_decay", "maximize", "fused", "differentiable")


@dataclass
class Bucket:
    """Parameters of one group and dtype, which one call updates.

    Args:
        group: Their group in the optimizer; its learning rate is read in every iteration.
        params: The parameters.
        places: Where their gradients stand among all.
        state: Lists of their state, as the fused function takes them.
        counted: The memory of their step counts.
        options: What else the fused function takes, and does not change from one iteration to the next.
    """

    group: dict[str, Any]
    params: list[Tensor]
    places: slice
    state: list[list[Tensor]]
    counted: list[Tensor]
    options: dict[str, Any]


def option_names(optimizer: Optimizer) -> tuple[str, ...]:
    """Return the options of a group that a bucket is made with."""
    return _SGD_OPTIONS if isinstance(optimizer, SGD) else _ADAM_OPTIONS


def fused_function(optimizer: Optimizer) -> Callable[..., None] | None:
    """Return torch's fused function for ``optimizer`` if this torch has it as it is called here."""
    name = _FUNCTIONS.get(type(optimizer), "")  # A subclass may do something else in its step.
    if not name or not hasattr(torch, name) or not hasattr(torch.ops.aten, name):
        return None
    known = [argument.name for argument in getattr(torch.ops.aten, name).default._schema.arguments]
    return getattr(torch, name) if known == _ARGUMENTS[name].split() else None


def may_fuse(group: dict[str, Any]) -> bool:
    """Return whether nobody chose otherwise and torch's fused form takes the parameters."""
    chosen = any(group.get(name) for name in ("capturable", "differentiable", "dampening"))
    is_free = group["fused"] is None and group.get("foreach") is None and not chosen
    return is_free and all(map(is_ordinary, group["params"]))


def fits(group: dict[str, Any]) -> bool:
    """Return whether the fused function does all that the options of ``group`` ask for."""
    return bool(
        group.get("fused")
        and not group.get("differentiable")
        and not group.get("dampening")
        and not any(isinstance(beta, Tensor) for beta in group.get("betas", ()))
    )


def bucket_of(optimizer: Optimizer, group: dict[str, Any], params: list[Tensor], start: int) -> Bucket:
    """Return the bucket of ``params``, whose gradients begin at ``start``; begin their state if need be."""
    state, counted = _state_of(optimizer, group, params)
    return Bucket(group, params, slice(start, start + len(params)), state, counted, _options(group))


def _state_of(
    optimizer: Optimizer, group: dict[str, Any], params: list[Tensor]
) -> tuple[list[list[Tensor]], list[Tensor]]:
    """Return lists of the state of ``params``, and the memory of their step counts."""
    names = _state_names(group)
    if not names:
        return [[]], []
    states = [optimizer.state[p] for p in params]
    for p, state in zip(params, states, strict=True):
        for name in names:
            # Zeros are what a first update starts from; also in SGD, where dampening is 0.
            if state.get(name) is None:
                state[name] = torch.zeros_like(p, memory_format=torch.preserve_format)
            state[name] = laid_as(state[name], p)
    lists = [[state[name] for state in states] for name in names]
    if "betas" not in group:
        return lists, []
    steps = [state.get("step", 0.0) for state in states]
    if not _share_memory(steps, params[0].device):
        # Counted up by one operation instead of one each.
        steps = list(torch.stack([_count(step, params[0].device) for step in steps]).unbind())
        for state, step in zip(states, steps, strict=True):
            state["step"] = step
    whole = steps[0]._base
    counted = [whole] if whole is not None and whole.numel() == len(steps) else steps
    return [*lists, *([[]] if len(lists) == 2 else []), steps], counted


def _state_names(group: dict[str, Any]) -> tuple[str, ...]:
    if "betas" not in group:
        return ("momentum_buffer",) if group["momentum"] else ()
    return ("exp_avg", "exp_avg_sq", "max_exp_avg_sq") if group["amsgrad"] else ("exp_avg", "exp_avg_sq")


def _options(group: dict[str, Any]) -> dict[str, Any]:
    common = {"weight_decay": group["weight_decay"], "maximize": group["maximize"]}
    if "betas" in group:
        beta1, beta2 = group["betas"]
        return {"beta1": beta1, "beta2": beta2, "eps": group["eps"], "amsgrad": group["amsgrad"], **common}
    kept = {"momentum": group["momentum"], "nesterov": group["nesterov"]}
    return {**kept, "dampening": 0.0, "is_first_step": False, **common}


def _share_memory(steps: Sequence[Any], device: torch.device) -> bool:
    """Return whether all counts are parts of one tensor, so that they need no new one."""
    base = getattr(steps[0], "_base", None)
    fits = base is not None and base.dtype == torch.float32 and base.device == device
    return fits and all(getattr(step, "_base", None) is base for step in steps)


def _count(step: float | Tensor, device: torch.device) -> Tensor:
    if isinstance(step, Tensor):
        return step.to(device, torch.float32)
    return torch.full((), step, dtype=torch.float32, device=device)  # From a number no device is waited for.


def laid_as(tensor: Tensor, p: Tensor) -> Tensor:
    """Return ``tensor`` in the memory layout of ``p``, which the fused functions take for granted."""
    if tensor.stride() == p.stride():
        return tensor
    sizes = zip(p.shape, tensor.stride(), p.stride(), strict=True)
    if all(one == other for size, one, other in sizes if size > 1):
        return tensor
    return torch.empty_like(p, memory_format=torch.preserve_format).copy_(tensor)


def is_ordinary(p: Tensor) -> bool:
    """Return whether torch's fused functions can be trusted with ``p``: they walk through raw memory."""
    is_plain = type(p) in (Tensor, torch.nn.Parameter) and p.device.type in _DEVICES
    is_dense = p.layout == torch.strided and torch.ops.aten.is_non_overlapping_and_dense(p)
    return is_plain and p.is_floating_point() and is_dense
