"""The optimizer's update as one fused call, on lists that are gathered once.

::

    gradients ─▶ [ one call for each group, dtype and device: divide, update, or skip ] ─▶ parameters, state

``optimizer.step()`` looks for gradients and state anew each time, in Python; on a small model that takes
longer than the update itself. For torch's own Adam, AdamW and SGD the lists are kept here, and held in every
iteration against what the optimizer has: a state that was loaded, a new group, a frozen parameter are
noticed. The optimizer's state stays what it is without us: a plain loop can load it, and the other way round.
"""

from __future__ import annotations

from itertools import chain
from operator import attrgetter, itemgetter
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer
from torch.optim import optimizer as _of_all

from hookline.kernel.fused import (
    Bucket,
    bucket_of,
    fits,
    fused_function,
    is_ordinary,
    laid_as,
    may_fuse,
    option_names,
)
from hookline.kernel.identity import are_same

__all__ = ["Update"]

_MAX_BOUND = 16
_is_sparse, _stride = attrgetter("is_sparse"), Tensor.stride
# Up to so many elements, 512 KiB of float32, it is faster on a CPU to copy all of them into one tensor and
# take its norm than to take a norm of each: 6 instead of 12 µs for 6 of them, 29 instead of 55 for 32.
_MAX_FLAT = 2**17
_flat = getattr(torch._C._nn, "flatten_dense_tensors", None)


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
        self._bound: dict[tuple[int, ...] | None, list[Bucket]] = {}
        self._held: list[Any] = []
        self._strides: list[Any] = []
        self._call = fused_function(optimizer)
        self._options = itemgetter(*option_names(optimizer))
        self._obstacle = ""
        self._fused_here: list[dict[str, Any]] = []
        self._has_own_zero_grad = type(optimizer).zero_grad is not Optimizer.zero_grad
        self.begin()

    def refresh(self) -> None:
        """Notice which groups and parameters have come or gone, or have another layout in memory."""
        groups = self.optimizer.param_groups
        listed = [p for group in groups for p in group["params"]]
        if not are_same(groups, self._groups) or not are_same(listed, self._listed):
            self._groups, self._listed = list(groups), listed
            self._gather()
        strides = [*map(_stride, self.params)]
        if strides != self._strides:
            self._strides, self._held = strides, []

    def begin(self) -> None:
        """Drop all gradients, and `refresh`."""
        self.refresh()
        if self._has_own_zero_grad:
            self.optimizer.zero_grad(set_to_none=True)
        for p in self.params:
            p.grad = None

    def gradients(self) -> list[Tensor]:
        """Return dense tensors in the memory of all gradients; of a sparse one, its values."""
        if self._has_grad_hooks:
            self.lay_out()
        grads = [grad for p in self.params if (grad := p.grad) is not None]
        if any(map(_is_sparse, grads)):
            self._unfuse()
            return [_values(p) for p in self.params if p.grad is not None]
        return grads

    def lay_out(self) -> None:
        """Give each gradient that somebody put in its place the memory layout that backward would have."""
        for p in self.params:
            if p.grad is not None and not p.grad.is_sparse:
                p.grad = laid_as(p.grad, p)

    def norm(self, grads: list[Tensor]) -> Tensor:
        """Return the L2 norm of ``grads`` together, 0-D, float32 or more; not finite where one is not."""
        if not grads:
            return torch.zeros((), device=self.params[0].device)
        norm: Tensor
        if self._is_small and _flat is not None:
            norm = torch.linalg.vector_norm(_flat(grads), dtype=self._norm_dtype)
        elif self._has_one_device:
            norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads, 2, self._norm_dtype)))
        else:
            norm = torch.nn.utils.get_total_norm([g.to(self._norm_dtype or g.dtype) for g in grads])
        return norm

    def apply(self, grads: list[Tensor], divisor: float | Tensor, skip: bool | Tensor) -> None:
        """Divide ``grads`` by ``divisor`` and update the parameters with them, unless ``skip``.

        Args:
            grads: What `gradients` returned.
            divisor: 0-D float32 where it is a tensor.
            skip: Where it is a tensor, 0-D float32, it is 0 or 1, and the host waits for it only if the
                optimizer has no fused form.
        """
        # torch's schedulers look for it, and would warn of a step that was left out on purpose.
        self.optimizer._opt_called = True  # type: ignore[attr-defined]
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
            lr = self.lrs.get(id(bucket.group), bucket.group["lr"])
            part = grads[bucket.places] if len(buckets) > 1 else grads
            self._call(  # type: ignore[misc]
                bucket.params,
                part,
                *bucket.state,
                lr=lr,
                grad_scale=scale,
                found_inf=found_inf,
                **bucket.options,
            )

    def obstacle(self) -> str:
        """Return why `apply` must leave the update to ``optimizer.step()``; nothing where it need not."""
        kind = type(self.optimizer).__name__
        if self._call is None:
            return f"{kind} has no fused form here"
        if self._is_watched():
            return f"the step of {kind} has hooks"
        if not are_same(self._holding(), self._held):
            self._look()
        return self._obstacle

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
        own = (self._scale, *self.lrs.values(), *self._bound.values())
        return [*self._groups, *self._listed, *self._holding(), *own]

    def _gather(self) -> None:
        """Sort the parameters by group, dtype and device, each once; turn ``fused`` on where it may be."""
        for group in self._groups if self._fused_here else ():
            if not all(map(is_ordinary, group["params"])):  # It has the defaults, which are ours.
                group["fused"] = None
        if self._call is not None and all(map(may_fuse, self._groups)):
            # A new group begins with the defaults.
            self._fused_here = [*self._groups, self.optimizer.defaults]
            for options in self._fused_here:
                options["fused"] = True
            for p, state in self.optimizer.state.items():
                if isinstance(state.get("step"), Tensor):  # Without fused it is on the CPU.
                    state["step"] = state["step"].to(p.device, torch.float32)
        if self._call is not None and all(group.get("fused") for group in self._groups):
            # A copy of an optimizer lacks it.
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
        self._held = []
        dtypes = {p.dtype for p in self.params}
        self._has_double = torch.float64 in dtypes
        self._has_grad_hooks = any(getattr(p, "_post_accumulate_grad_hooks", None) for p in self.params)
        self._has_one_device = len({p.device for p in self.params}) == 1
        if not self.params:
            return
        self._scale = torch.ones((), dtype=torch.float32, device=self.params[0].device)
        num_elements = sum(p.numel() for p in self.params)
        self._is_small = len(self._kinds) == 1 and self._scale.is_cpu and num_elements <= _MAX_FLAT
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

    def _is_watched(self) -> bool:
        """Return whether somebody wants to know of each ``optimizer.step()``, or has replaced it."""
        optimizer = self.optimizer
        own = vars(optimizer).get("step")
        is_original = own is None or (
            # torch's schedulers put a wrapper there that only notes the call.
            hasattr(own, "_wrapped_by_lr_sched") and getattr(own, "__wrapped__", None) is type(optimizer).step
        )
        return bool(
            optimizer._optimizer_step_pre_hooks
            or optimizer._optimizer_step_post_hooks
            or _of_all._global_optimizer_pre_hooks
            or _of_all._global_optimizer_post_hooks
            or not is_original
        )

    def _holding(self) -> list[Any]:
        """Return what buckets are made from, to be compared by identity."""
        states = self.optimizer.state.values()
        return [*chain.from_iterable(map(dict.values, states)), *chain(*map(self._options, self._groups))]

    def _look(self) -> None:
        """Forget buckets, and find out whether these options and parameters may have any."""
        self._held = self._holding()
        self._bound.clear()
        kind, self._obstacle = type(self.optimizer).__name__, ""
        if not all(map(fits, self._groups)):
            self._obstacle = f"{kind} with these options has no fused form"
        elif not self._has_one_device:
            self._obstacle = f"the parameters of {kind} are on several devices"
        elif len(self.params) != len(self._listed):  # torch updates it twice.
            self._obstacle = f"a parameter of {kind} is listed twice"
        elif not all(map(is_ordinary, self.params)):
            self._obstacle = f"a parameter of {kind} is no plain tensor, or not dense in memory"

    def _buckets(self, grads: list[Tensor]) -> list[Bucket] | None:
        """Return what to call the fused function on; None where only ``optimizer.step()`` does it right."""
        if self.obstacle():
            return None
        which: tuple[int, ...] | None = None  # all
        if len(grads) != len(self.params):
            which = tuple(i for i, p in enumerate(self.params) if p.grad is not None)
        if which not in self._bound:
            if len(self._bound) >= _MAX_BOUND:  # Of a model that leaves out layers at random.
                self._bound.clear()
            buckets = self._bind(None if which is None else set(which))
            if not are_same(self._holding(), self._held):  # State was begun, or step counts moved.
                self._look()
            self._bound[which] = buckets
        return self._bound[which]

    def _bind(self, which: set[int] | None) -> list[Bucket]:
        """Return the buckets of the parameters at ``which`` places; begin their state where there is none."""
        buckets = []
        start = place = 0
        for group, params in self._kinds:
            chosen = [p for i, p in enumerate(params, place) if which is None or i in which]
            place += len(params)
            if chosen:
                buckets.append(bucket_of(self.optimizer, group, chosen, start))
                start += len(chosen)
        return buckets

    def _step(self, found_inf: Tensor | None) -> None:
        """Let the optimizer step as it does without us, unless ``found_inf`` is 1."""
        if found_inf is not None and not self.waits():
            self._seed_momentum()
            self.optimizer.found_inf = found_inf  # type: ignore[attr-defined]
            try:
                self.optimizer.step()
            finally:
                del self.optimizer.found_inf  # type: ignore[attr-defined]
        elif found_inf is None or not found_inf.item():  # The one wait.
            self.optimizer.step()

    def _seed_momentum(self) -> None:
        """Give a fused SGD the zeros that its first step needs: it would start from random memory."""
        if not isinstance(self.optimizer, SGD):
            return
        for group in self._groups:  # Reproduced on torch 2.13.
            for p in group["params"] if group["momentum"] else ():
                if p.grad is not None and self.optimizer.state[p].get("momentum_buffer") is None:
                    self.optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p.grad)


def divide(grads: list[Tensor], divisor: float | Tensor) -> None:
    """Divide ``grads`` in place."""
    if grads and (isinstance(divisor, Tensor) or divisor != 1):
        torch._foreach_div_(grads, divisor)


def _values(p: Tensor) -> Tensor:
    assert p.grad is not None
    if not p.grad.is_sparse:
        return p.grad
    p.grad = p.grad.coalesce()  # Rows that occur twice count once in a norm.
    return p.grad._values()
