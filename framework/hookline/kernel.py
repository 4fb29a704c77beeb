"""One iteration on the device: k forwards and backwards, then one optimizer update, or none.

::

    microbatches ─▶ [ forward ─▶ backward ] · k ─▶ finish gradients ─▶ after_backward ─▶ norm, finite?
                                                                                               │
      0-D tensors, still on the device ◀─ restore buffers ◀─ clip, and update if all ranks are finite

Three things are decided here and nowhere else: that k microbatches on several ranks give the loss and the
gradients of one big batch; that nothing non-finite reaches weights, optimizer state or buffers; and that the
host need not wait for that: whether to skip is a tensor, and fused optimizers read it on the device.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import fields, is_dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

__all__ = ["AUTOCAST_DTYPES", "StepKernel", "to_device"]

AUTOCAST_DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
_RESERVED_NAMES = {"total_loss", "grad_norm", "loss_scale"}
_CLIP_EPS = 1e-6  # Source: torch.nn.utils.clip_grad_norm_.
# Dynamic loss scaling: first scale, then growth factor, backoff factor and growth interval, iterations.
_INITIAL_SCALE, _SCALE_RULE = 65536.0, (2.0, 0.5, 2000)  # Source: defaults of torch.amp.GradScaler (2.13).
_MIN_SCALE = 2.0**-24  # Smallest positive float16. GradScaler falls on to 0, and then skips for ever.


class StepKernel:
    """Run one iteration a call; each is applied whole, or not at all where anything was not finite.

    It owns backward and the optimizer, and calls neither ``train()`` nor a schedule. The host waits only for
    an optimizer that cannot skip on the device: once an iteration, at the end of ``step``.

    Args:
        model: ``model(batch)`` returns a 0-D loss, or a dict of them to be summed. The dict may hold
            ``num_items``, how many items its losses are means over (int or 0-D tensor; at 0 they must be
            finite all the same): microbatches and ranks are weighted by it. May be wrapped in DDP.
        optimizer: Any whose ``step()`` needs no closure. Its parameters are those whose norm is taken.
        device: Where batches are sent; None: where the optimizer's first parameter is.
        precision: ``fp32``, or autocast in ``bf16`` or ``fp16``; fp16 scales the loss dynamically.
        accumulate: Most microbatches of an iteration, >= 1.
        clip_norm: Largest global gradient norm, >= 0; 0 never clips.
        compile: True, or the keyword arguments of ``torch.compile``: compiles the forward.
        process_group: Ranks over which backward averages gradients; None: those of a DDP model, or no others.

    Raises:
        ValueError: If an option is out of range, or does not suit the optimizer.
    """

    #: Called once an iteration, also one to be skipped, with gradients averaged over microbatches and ranks,
    #: unscaled, not yet clipped. It may change them: finiteness and norm are judged after it.
    after_backward: Callable[[], None] | None = None

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        device: torch.device | str | None = None,
        precision: str = "fp32",
        accumulate: int = 1,
        clip_norm: float = 0.0,
        compile: bool | Mapping[str, Any] = False,
        process_group: dist.ProcessGroup | None = None,
    ) -> None:
        _require(precision in AUTOCAST_DTYPES, "precision", f"one of {[*AUTOCAST_DTYPES]}", precision)
        _require(type(accumulate) is int and accumulate >= 1, "accumulate", "an int >= 1", accumulate)
        _require(clip_norm >= 0, "clip_norm", "a number >= 0, where 0 never clips", clip_norm)
        closure = inspect.signature(type(optimizer).step).parameters.get("closure")
        can_step = closure is None or closure.default is not closure.empty
        _require(can_step, "optimizer", "one whose step() needs no closure", type(optimizer).__name__)
        self.model, self.optimizer, self.precision = model, optimizer, precision
        self.accumulate, self.clip_norm = accumulate, clip_norm
        self.device = torch.device(device or _parameters(optimizer)[0].device)
        # Beside the model, not instead of it: the names in its state_dict stay as they are.
        options = compile if isinstance(compile, Mapping) else {}
        self._forward = model if compile is False else torch.compile(model, **options)
        self._ddp = model if isinstance(model, DistributedDataParallel) else None
        self._group = self._ddp.process_group if self._ddp and process_group is None else process_group
        self._where = f"{type(self._ddp.module if self._ddp else model).__name__}(batch)"
        self._scale: Tensor | None = None  # 0-D float32 with fp16.
        if precision == "fp16":
            # Source: GradScaler refuses them too. Their gradients would underflow when unscaled.
            dtypes = {p.dtype for p in _parameters(optimizer)}
            _require(torch.float16 not in dtypes, "precision", "no float16 parameters with fp16", dtypes)
            self._scale = torch.full((), _INITIAL_SCALE, device=self.device)
            self._growth_tracker = torch.zeros((), dtype=torch.int32, device=self.device)

    def step(self, microbatches: Sequence[Any]) -> dict[str, Tensor]:
        """Run one iteration and return what it measured.

        A skipped update leaves parameters, optimizer state and buffers bit for bit as before; only a fused
        optimizer may have created its state, all zeros. Gradients can be read until the next call.

        Args:
            microbatches: A list of 1 to ``accumulate`` batches: tensors, or objects with ``to(device)``, in
                any nesting of dicts, lists, tuples and dataclasses. They are not changed.

        Returns:
            0-D, detached, on the device, in memory of their own; float32, or float64 where the model is:
            ``total_loss`` and each of several losses, means over this rank's items; ``grad_norm``, global,
            L2, before clipping; with fp16 ``loss_scale``, the one used. If a loss or a gradient of any rank
            was not finite, ``grad_norm`` is NaN on every rank. Gradients that overflow under an fp16 scale
            give inf instead: that is ordinary, the scale is lowered and training goes on.

        Raises:
            ValueError: If ``microbatches`` is no such list, or the model returns no such losses.
        """
        fits = isinstance(microbatches, (list, tuple)) and 1 <= len(microbatches) <= self.accumulate
        _require(fits, "step", f"a list of 1 to {self.accumulate} microbatches, as in [batch]", microbatches)
        # All buffers: batch norm changes its running statistics without counting up their _version.
        before = {name: b.detach().clone() for name, b in self.model.named_buffers() if _is_writable(b)}
        # At the start, so that an after_step hook still finds the gradients.
        self.optimizer.zero_grad(set_to_none=True)
        sums, num_items = self._forward_backward(microbatches)
        self._finish_gradients(sums["total_loss"], num_items)
        if self.after_backward is not None:
            self.after_backward()
        metrics = {name: total / num_items for name, total in sums.items()}
        if self._scale is not None:
            metrics["loss_scale"] = self._scale.clone()  # _update changes it in place.
        metrics["grad_norm"], skip = self._judge(sums["total_loss"])
        self._update(skip)
        with torch.no_grad():  # By name: a forward may assign a new tensor; one of a new shape stays.
            for name, now in self.model.named_buffers():
                if name in before and before[name].shape == now.shape:
                    now.copy_(torch.where(skip > 0, before[name], now))  # Arithmetic would pass NaN on.
        return metrics

    def state_dict(self) -> dict[str, Tensor]:
        """Return copies of what later iterations depend on: the loss scale with fp16, else nothing."""
        if self._scale is None:
            return {}
        return {"scale": self._scale.clone(), "growth_tracker": self._growth_tracker.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from ``state``; one of another precision is accepted and leaves the loss scale as it is."""
        if self._scale is not None and state:
            _require({"scale", "growth_tracker"} == state.keys(), "kernel state", "a loss scale", [*state])
            self._scale.copy_(state["scale"])
            self._growth_tracker.copy_(state["growth_tracker"])

    def _forward_backward(self, microbatches: Sequence[Any]) -> tuple[dict[str, Tensor], int | Tensor]:
        """Add up losses and gradients, each times its items; return this rank's loss sums and items."""
        sums: dict[str, Tensor] = {}
        num_items: int | Tensor = 0
        dtype = AUTOCAST_DTYPES[self.precision]
        # One region for all microbatches: weights are cast once an iteration.
        with torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None):
            for index, microbatch in enumerate(microbatches):
                # DDP averages all that .grad has gathered over ranks, unless told not yet: once is enough.
                with self._ddp.no_sync() if self._ddp and index + 1 < len(microbatches) else nullcontext():
                    output = self._forward(to_device(microbatch, self.device))
                    losses, weight = _losses(output, self._where)
                    # Means cannot be added, sums can: a mean times its items, divided once at the end.
                    factor = weight if self._scale is None else weight * self._scale
                    # Backward repeats the dtypes of forward; an active autocast would change some.
                    with torch.autocast(self.device.type, enabled=False):
                        (losses["total_loss"] * factor).backward()  # type: ignore[no-untyped-call]
                for name, loss in losses.items():  # A product is new memory, the loss may be the model's.
                    sums[name] = sums.get(name, 0.0) + loss.detach() * weight
                num_items = num_items + weight
        return sums, num_items

    def _finish_gradients(self, total_loss: Tensor, num_items: int | Tensor) -> None:
        """Divide every gradient once, by the items of all microbatches and ranks and by the loss scale."""
        divisor: float | Tensor = num_items
        if self._group is not None:
            # The mean over ranks that backward took is a sum over ranks already divided by their number.
            items = total_loss.new_zeros(()).add_(num_items)
            dist.all_reduce(items, group=self._group)
            divisor = items / self._group.size()
        divisor = divisor if self._scale is None else divisor * self._scale
        gradients = _gradients(self.optimizer)
        if gradients and (isinstance(divisor, Tensor) or divisor != 1):
            torch._foreach_div_(gradients, divisor)

    def _judge(self, total_loss: Tensor) -> tuple[Tensor, Tensor]:
        """Clip the gradients; return the norm to report, and whether to skip: 0-D float32, 0 or 1."""
        gradients = _gradients(self.optimizer)  # Anew: after_backward may have assigned a .grad.
        wide = [g.float() if g.itemsize == 2 else g for g in gradients]  # A float16 norm ends at 65504.
        norm = nn.utils.get_total_norm(wide) if wide else torch.zeros((), device=self.device)
        # A sum and a norm hand on every NaN and inf, so these two numbers speak for all others.
        flags = torch.stack([~torch.isfinite(total_loss), ~torch.isfinite(norm)]).float()
        if self._group is not None:  # A rank that skips alone would differ from the others ever after.
            dist.all_reduce(flags, op=dist.ReduceOp.MAX, group=self._group)
        if self.clip_norm > 0 and gradients:
            torch._foreach_mul_(gradients, (self.clip_norm / (norm + _CLIP_EPS)).clamp(max=1.0))
        overflow: float | Tensor = torch.nan
        if self._scale is not None:  # Where nothing is left to lower, the scale is not to blame.
            overflow = torch.where(self._scale > _MIN_SCALE, torch.inf, torch.nan)
        reported = torch.where(flags[1] > 0, overflow, norm)
        return torch.where(flags[0] > 0, torch.nan, reported), flags.amax()

    def _update(self, skip: Tensor) -> None:
        """Step the optimizer unless ``skip`` is 1, then adapt the loss scale."""
        if _skips_on_device(self.optimizer):
            _seed_momentum(self.optimizer)
            self.optimizer.found_inf = skip  # type: ignore[attr-defined]
            self.optimizer.step()
            del self.optimizer.found_inf  # type: ignore[attr-defined]
        elif not skip.item():  # The one wait: nothing but the host keeps this optimizer from stepping.
            self.optimizer.step()
        if self._scale is not None:
            torch._amp_update_scale_(self._scale, self._growth_tracker, skip, *_SCALE_RULE)
            self._scale.clamp_(min=_MIN_SCALE)


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    # Each once: one that a group lists twice must not be divided twice.
    return list(dict.fromkeys(p for group in optimizer.param_groups for p in group["params"]))


def _gradients(optimizer: Optimizer) -> list[Tensor]:
    """Return dense tensors in the memory of all gradients; of a sparse one, its values."""
    grads = []
    for parameter in _parameters(optimizer):
        if parameter.grad is not None and parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()  # Rows that occur twice count once in a norm.
            grads.append(parameter.grad._values())
        elif parameter.grad is not None:
            grads.append(parameter.grad)
    return grads


def _skips_on_device(optimizer: Optimizer) -> bool:
    """Whether ``step()`` obeys ``found_inf``: torch's fused optimizers do, the others refuse it."""
    # By group: load_state_dict can turn fused off. Dampening spares the first update of a momentum, which
    # zeros as its start (_seed_momentum) would not.
    fits = all(group.get("fused") and not group.get("dampening") for group in optimizer.param_groups)
    return fits and getattr(optimizer, "_step_supports_amp_scaling", False)


def _seed_momentum(optimizer: Optimizer) -> None:
    """Give a fused SGD the zeros that its first step needs: it would start from, and keep, random memory."""
    for group in optimizer.param_groups:  # Reproduced on torch 2.13; no other fused optimizer has momentum.
        for p in group["params"] if group.get("momentum") else ():
            if p.grad is not None and optimizer.state[p].get("momentum_buffer") is None:
                optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p.grad)


def _is_writable(buffer: Tensor) -> bool:
    # A sparse buffer, or one made by expand(), cannot be restored in place; nor can a forward change it so.
    overlaps = any(step == 0 and size > 1 for size, step in zip(buffer.shape, buffer.stride(), strict=True))
    return buffer.layout == torch.strided and not overlaps


def to_device(value: Any, device: torch.device) -> Any:
    """Return ``value`` with all its tensors on ``device``; containers are copied, not changed."""
    if callable(getattr(value, "to", None)):  # Also a PackedSequence, which keeps lengths on the host.
        return value.to(device, non_blocking=True)
    if isinstance(value, (list, tuple)):
        items = [to_device(item, device) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, dict):
        moved = copy.copy(value)  # An OrderedDict or a defaultdict stays one.
        moved.update((key, to_device(item, device)) for key, item in value.items())
        return moved
    if is_dataclass(value) and not isinstance(value, type):
        clone: Any = copy.copy(value)  # Not replace(), which runs __post_init__ again.
        for field in fields(value):
            object.__setattr__(clone, field.name, to_device(getattr(value, field.name), device))
        return clone
    return value


def _losses(output: Any, where: str) -> tuple[dict[str, Tensor], int | Tensor]:
    """Check what a model returned; return its losses, at least float32, their sum, and its items."""
    losses = dict(output) if isinstance(output, Mapping) else {"total_loss": output}
    num_items = losses.pop("num_items", 1)
    fits = len(losses) == 1 or (len(losses) > 1 and not _RESERVED_NAMES & losses.keys())
    _require(fits, where, f"losses not named like {sorted(_RESERVED_NAMES)}", [*losses])
    for name, loss in losses.items():
        fits = isinstance(loss, Tensor) and loss.ndim == 0 and loss.is_floating_point()
        _require(fits, f"{where} {name}", "a 0-D floating-point loss, as loss.mean() is", loss)
        losses[name] = loss.to(torch.promote_types(loss.dtype, torch.float32))  # Scaled halves overflow.
    fits = isinstance(num_items, int) or (isinstance(num_items, Tensor) and num_items.ndim == 0)
    _require(fits, f"{where} num_items", "an int or a 0-D tensor", num_items)
    first, *others = losses.values()
    total = sum(others, first)
    _require(total.requires_grad, where, "a loss that depends on a trainable parameter", total)
    return {"total_loss": total, **(losses if len(losses) > 1 else {})}, num_items


def _require(holds: bool, where: str, rule: str, value: Any) -> None:
    if not holds:  # The elements of a tensor would have to be waited for.
        shown = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)[:80]
        raise ValueError(f"{where}: expected {rule}, got {shown}.")
