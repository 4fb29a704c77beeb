"""The optimizer's update as one fused call, on lists that are gathered once.

::

    gradients ─▶ [ one call for each group, dtype and device: divide, update, or skip ] ─▶ parameters, state

``optimizer.step()`` looks for gradients and state anew each time, in Python; on a small model that takes
longer than the update itself. For torch's own Adam, AdamW and SGD the lists are kept here, and held in every
iteration against what the optimizer has: a state that was loaded, a new group, a frozen parameter are
noticed. The optimizer's state stays what it is without us: a plain loop can load it, and the other way round.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter, is_
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim import optimizer as _of_all

__all__ = ["Update"]

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
_is_sparse = attrgetter("is_sparse")


@dataclass
class _Bucket:
    """Parameters of one group and dtype, which one call updates.

    Args:
        group: Their group in the optimizer; its options are read in every iteration.
        params: The parameters.
        places: Where their gradients stand among all.
        state: Lists of their state, as the fused function takes them.
        counted: The memory of their step counts.
    """

    group: dict[str, Any]
    params: list[Tensor]
    places: slice
    state: list[list[Tensor]]
    counted: list[Tensor]


class Update:
    """Applies gradients to the parameters of ``optimizer``: to all of them or to none.

    It turns ``fused`` on for an Adam, AdamW or SGD for which neither ``fused`` nor ``foreach`` was chosen.

    Attributes:
        params: Every parameter of the optimizer once.
        lrs: By the identity of a group, what is used instead of its learning rate: tensors on the device.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.params: list[Tensor] = []
        self.lrs: dict[int, Tensor] = {}
        self._groups: list[dict[str, Any]] = []
        self._listed: list[Tensor] = []
        self._kinds: list[tuple[dict[str, Any], list[Tensor]]] = []
        self._bound: dict[tuple[int, ...] | None, list[_Bucket]] = {}
        self._held: list[Any] = []
        self._call = _fused_function(optimizer)
        self._fused_here: list[dict[str, Any]] = []
        self._has_own_zero_grad = type(optimizer).zero_grad is not Optimizer.zero_grad
        self.begin()

    def begin(self) -> None:
        """Drop all gradients, and notice which groups and parameters have come or gone."""
        groups = self.optimizer.param_groups
        listed = [p for group in groups for p in group["params"]]
        if not _are_same(groups, self._groups) or not _are_same(listed, self._listed):
            self._groups, self._listed = list(groups), listed
            self._gather()
        if self._has_own_zero_grad:
            self.optimizer.zero_grad(set_to_none=True)
        for p in self.params:
            p.grad = None

    def gradients(self) -> list[Tensor]:
        """Return dense tensors in the memory of all gradients; of a sparse one, its values."""
        grads = [grad for p in self.params if (grad := p.grad) is not None]
        if any(map(_is_sparse, grads)):
            self._unfuse()
            return [_values(p) for p in self.params if p.grad is not None]
        return grads

    def norm(self, grads: list[Tensor]) -> Tensor:
        """Return the L2 norm of ``grads`` together, 0-D, float32 or more; not finite where one is not."""
        if not grads:
            return torch.zeros((), device=self.params[0].device)
        if self._has_one_device:
            norm: Tensor = torch.linalg.vector_norm(
                torch.stack(torch._foreach_norm(grads, 2, self._norm_dtype))
            )
            return norm
        return torch.nn.utils.get_total_norm([g.to(self._norm_dtype or g.dtype) for g in grads])

    def apply(self, grads: list[Tensor], divisor: float | Tensor, skip: bool | Tensor) -> None:
        """Divide ``grads`` by ``divisor`` and update the parameters with them, unless ``skip``.

        Args:
            grads: What `gradients` returned.
            divisor: 0-D float32 where it is a tensor.
            skip: Where it is a tensor, 0-D float32, it is 0 or 1, and the host waits for it only if the
                optimizer has no fused form.
        """
        if skip is True:
            return
        found_inf = skip if isinstance(skip, Tensor) else None
        buckets = self._buckets(grads)
        if buckets is None:
            divide(grads, divisor)
            self._step(found_inf)
            return
        scale = self._as_scale(divisor)
        if scale is None:
            divide(grads, divisor)
        amount = 1 if found_inf is None else 1 - found_inf
        for bucket in buckets:
            for counts in bucket.counted:  # Before, since the update depends on it; not if it is skipped.
                counts.add_(amount)
            self._update(bucket, grads[bucket.places], scale, found_inf)
        self.optimizer._opt_called = True  # type: ignore[attr-defined]  # What torch's schedulers look for.

    def obstacle(self) -> str:
        """Return why `apply` must leave the update to ``optimizer.step()``; nothing where it need not."""
        optimizer, kind = self.optimizer, type(self.optimizer).__name__
        if self._call is None:
            return f"{kind} has no fused form here"
        if not all(map(_fits, self._groups)):
            return f"{kind} with these options has no fused form"
        if not self._has_one_device:
            return f"the parameters of {kind} are on several devices"
        if len(self.params) != len(self._listed):  # torch updates it twice.
            return f"a parameter of {kind} is listed twice"
        own = vars(optimizer).get("step")
        if (
            optimizer._optimizer_step_pre_hooks
            or optimizer._optimizer_step_post_hooks
            or _of_all._global_optimizer_pre_hooks
            or _of_all._global_optimizer_post_hooks
            # torch's schedulers put a wrapper there that only notes the call.
            or (own is not None and not hasattr(own, "_wrapped_by_lr_sched"))
        ):
            return f"the step of {kind} has hooks"
        return ""

    def identity(self) -> list[int]:
        """Return what differs when groups, parameters or state became others."""
        return [*map(id, (*self._groups, *self._listed, *self._holding()))]

    def waits(self) -> bool:
        """Return whether the host must know if an update is skipped, because the optimizer cannot look."""
        # By group: load_state_dict can turn fused off. Dampening spares the first update of a momentum,
        # which zeros as its start would not.
        fits = all(group.get("fused") and not group.get("dampening") for group in self._groups)
        return not (fits and getattr(self.optimizer, "_step_supports_amp_scaling", False))

    def constants(self) -> list[Any]:
        """Return all options but the learning rates: what a CUDA graph of the update has as constants."""
        names = ("params", "lr", "initial_lr")
        return [{k: v for k, v in group.items() if k not in names} for group in self._groups]

    def bind(self) -> None:
        """Begin and gather the state of what has a gradient now, so that the next `apply` need not."""
        self._buckets(self.gradients())

    def held(self) -> list[Any]:
        """Return what holds the memory that an update uses."""
        return [*self._listed, *self._holding(), self._scale, *self.lrs.values(), *self._bound.values()]

    def _gather(self) -> None:
        """Sort the parameters by group, dtype and device, each once; turn ``fused`` on where it may be."""
        if self._call is not None and all(map(_may_fuse, self._groups)):
            # A new group begins with the defaults.
            self._fused_here = [*self._groups, self.optimizer.defaults]
            for options in self._fused_here:
                options["fused"] = True
            self.optimizer._step_supports_amp_scaling = True  # type: ignore[attr-defined]
        kinds: dict[Any, tuple[dict[str, Any], dict[int, Tensor]]] = {}
        seen: set[int] = set()
        for group in self._groups:
            for p in group["params"]:
                if id(p) not in seen:  # One that is listed twice must not be divided twice.
                    seen.add(id(p))
                    kinds.setdefault((id(group), p.dtype, p.device), (group, {}))[1][id(p)] = p
        self._kinds = [(group, [*params.values()]) for group, params in kinds.values()]
        self.params = [p for _, params in self._kinds for p in params]
        self._bound.clear()
        dtypes = {p.dtype for p in self.params}
        self._has_double = torch.float64 in dtypes
        self._has_one_device = len({p.device for p in self.params}) == 1
        self._scale = torch.ones((), device=self.params[0].device)
        # The norm of halves ends at 65504.
        wide = torch.float64 if self._has_double else torch.float32
        self._norm_dtype = wide if any(dtype.itemsize == 2 for dtype in dtypes) else None

    def _unfuse(self) -> None:
        """Turn off what was turned on: torch's fused SGD takes no sparse gradients."""
        for options in self._fused_here:
            options["fused"] = None
        self._fused_here, self._call = [], None

    def _as_scale(self, divisor: float | Tensor) -> Tensor | None:
        """Return what the fused function divides by; None where it must not, or need not."""
        if self._has_double:  # It would divide by a float32.
            return None
        if isinstance(divisor, Tensor):
            return divisor.float()
        return self._scale.fill_(divisor) if divisor != 1 else None

    def _buckets(self, grads: list[Tensor]) -> list[_Bucket] | None:
        """Return what to call the fused function on; None where only ``optimizer.step()`` does it right."""
        if self.obstacle():
            return None
        which: tuple[int, ...] | None = None  # all
        if len(grads) != len(self.params):
            which = tuple(i for i, p in enumerate(self.params) if p.grad is not None)
        if not _are_same(self._holding(), self._held):
            self._bound.clear()
        if which not in self._bound:
            buckets = self._bind(None if which is None else set(which))
            held = self._holding()
            if not _are_same(held, self._held):
                self._held = held
                self._bound.clear()
            self._bound[which] = buckets
        return self._bound[which]

    def _holding(self) -> list[Any]:
        """Return what buckets are made from, to be compared by identity."""
        flags = (bool(group.get(name)) for group in self._groups for name in ("amsgrad", "momentum"))
        return [*chain.from_iterable(map(dict.values, self.optimizer.state.values())), *flags]

    def _bind(self, which: set[int] | None) -> list[_Bucket]:
        """Return the buckets of the parameters at ``which`` places; begin their state where there is none."""
        buckets = []
        start = place = 0
        for group, params in self._kinds:
            chosen = [p for i, p in enumerate(params, place) if which is None or i in which]
            place += len(params)
            if chosen:
                state, counted = self._state_of(group, chosen)
                buckets.append(_Bucket(group, chosen, slice(start, start + len(chosen)), state, counted))
                start += len(chosen)
        return buckets

    def _state_of(
        self, group: dict[str, Any], params: list[Tensor]
    ) -> tuple[list[list[Tensor]], list[Tensor]]:
        """Return lists of the state of ``params``, and the memory of their step counts."""
        names = _state_names(group)
        if not names:
            return [[]], []
        states = [self.optimizer.state[p] for p in params]
        for p, state in zip(params, states, strict=True):
            for name in names:
                # Zeros are what a first update starts from; also in SGD, where dampening is 0.
                if state.get(name) is None:
                    state[name] = torch.zeros_like(p, memory_format=torch.preserve_format)
        lists = [[state[name] for state in states] for name in names]
        if "betas" not in group:
            return lists, []
        steps = [state.get("step", 0.0) for state in states]
        if not _share_memory(steps):
            # Counted up by one operation instead of one each.
            counts = [torch.as_tensor(step, dtype=torch.float32, device=params[0].device) for step in steps]
            steps = list(torch.stack(counts).unbind())
            for state, step in zip(states, steps, strict=True):
                state["step"] = step
        whole = steps[0]._base
        counted = [whole] if whole is not None and whole.numel() == len(steps) else steps
        return [*lists, *([[]] if len(lists) == 2 else []), steps], counted

    def _update(
        self, bucket: _Bucket, grads: list[Tensor], scale: Tensor | None, found_inf: Tensor | None
    ) -> None:
        group = bucket.group
        options: dict[str, Any] = {"lr": self.lrs.get(id(group), group["lr"])}
        if "betas" in group:
            options["beta1"], options["beta2"] = group["betas"]
            options |= {"eps": group["eps"], "amsgrad": group["amsgrad"]}
        else:
            options |= {"momentum": group["momentum"], "nesterov": group["nesterov"]}
            options |= {"dampening": 0.0, "is_first_step": False}
        assert self._call is not None
        self._call(
            bucket.params, grads, *bucket.state, **options, weight_decay=group["weight_decay"],
            maximize=group["maximize"], grad_scale=scale, found_inf=found_inf,
        )  # fmt: skip

    def _step(self, found_inf: Tensor | None) -> None:
        """Let the optimizer step as it does without us, unless ``found_inf`` is 1."""
        if found_inf is not None and not self.waits():
            self._seed_momentum()
            self.optimizer.found_inf = found_inf  # type: ignore[attr-defined]
            self.optimizer.step()
            del self.optimizer.found_inf  # type: ignore[attr-defined]
        elif found_inf is None or not found_inf.item():  # The one wait.
            self.optimizer.step()

    def _seed_momentum(self) -> None:
        """Give a fused SGD the zeros that its first step needs: it would start from random memory."""
        for group in self._groups:  # Reproduced on torch 2.13; no other fused optimizer has momentum.
            for p in group["params"] if group.get("momentum") else ():
                if p.grad is not None and self.optimizer.state[p].get("momentum_buffer") is None:
                    self.optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p.grad)


def divide(grads: list[Tensor], divisor: float | Tensor) -> None:
    """Divide ``grads`` in place."""
    if grads and (isinstance(divisor, Tensor) or divisor != 1):
        torch._foreach_div_(grads, divisor)


def _state_names(group: dict[str, Any]) -> tuple[str, ...]:
    if "betas" not in group:
        return ("momentum_buffer",) if group["momentum"] else ()
    return ("exp_avg", "exp_avg_sq", "max_exp_avg_sq") if group["amsgrad"] else ("exp_avg", "exp_avg_sq")


def _share_memory(steps: Sequence[Any]) -> bool:
    """Return whether all counts are parts of one tensor, so that they need no new one."""
    bases = {id(getattr(step, "_base", None)) for step in steps}
    return len(bases) == 1 and getattr(steps[0], "_base", None) is not None


def _fits(group: dict[str, Any]) -> bool:
    return bool(
        group.get("fused")
        and not group.get("differentiable")
        and not group.get("dampening")
        and not any(isinstance(beta, Tensor) for beta in group.get("betas", ()))
    )


def _are_same(one: Sequence[Any], other: Sequence[Any]) -> bool:
    # == would compare tensors by their elements.
    return len(one) == len(other) and all(map(is_, one, other))


def _may_fuse(group: dict[str, Any]) -> bool:
    """Return whether nobody chose otherwise and torch's fused form takes the parameters."""
    chosen = any(group.get(name) for name in ("foreach", "capturable", "differentiable", "dampening"))
    return group["fused"] is None and not chosen and all(map(_is_ordinary, group["params"]))


def _is_ordinary(p: Tensor) -> bool:
    return p.device.type in _DEVICES and p.is_floating_point() and p.layout == torch.strided


def _fused_function(optimizer: Optimizer) -> Callable[..., None] | None:
    """Return torch's fused function for ``optimizer`` if this torch has it as it is called here."""
    name = _FUNCTIONS.get(type(optimizer), "")  # A subclass may do something else in its step.
    if not name or not hasattr(torch, name) or not hasattr(torch.ops.aten, name):
        return None
    known = [argument.name for argument in getattr(torch.ops.aten, name).default._schema.arguments]
    return getattr(torch, name) if known == _ARGUMENTS[name].split() else None


def _values(p: Tensor) -> Tensor:
    assert p.grad is not None
    if not p.grad.is_sparse:
        return p.grad
    p.grad = p.grad.coalesce()  # Rows that occur twice count once in a norm.
    return p.grad._values()
