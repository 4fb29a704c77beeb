"""One iteration on the device: k forwards and backwards, then one optimizer update, or none.

::

    microbatches ─▶ [ forward ─▶ backward ] · k ─▶ after_backward ─▶ norm, finite?
                                                                           │
      0-D tensors, still on the device ◀─ restore buffers ◀─ divide, clip and update, if all ranks are finite

Three things are decided here and nowhere else: that k microbatches on several ranks give the loss and the
gradients of one big batch; that nothing non-finite reaches weights, optimizer state or buffers; and that the
host need not wait for that: whether to skip is a tensor, and fused optimizers read it on the device.

Gradients are the sums that backward gathers until the update, which divides them once by everything at hand:
items, ranks, loss scale and clipping. Only for ``after_backward`` they are finished before.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from hookline.kernel.backward import backward_function
from hookline.kernel.buffers import Buffers
from hookline.kernel.losses import require, split_losses
from hookline.kernel.update import Update, divide
from hookline.nesting import to_device

__all__ = ["AUTOCAST_DTYPES", "StepKernel"]

AUTOCAST_DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
_HOST_DEVICES = ("cpu",)  # Reading a value there is no wait.
_NOTHING = nullcontext()
_CLIP_EPS = 1e-6  # Source: torch.nn.utils.clip_grad_norm_.
# Dynamic loss scaling: first scale, then growth factor, backoff factor and growth interval, iterations.
_INITIAL_SCALE, _SCALE_RULE = 65536.0, (2.0, 0.5, 2000)  # Source: defaults of torch.amp.GradScaler (2.13).
_MIN_SCALE = 2.0**-24  # Smallest positive float16. GradScaler falls on to 0, and then skips for ever.


class StepKernel:
    """Run one iteration a call; each is applied whole, or not at all where anything was not finite.

    It owns backward and the optimizer, and calls neither ``train()`` nor a schedule. The host waits only for
    an optimizer that cannot skip on the device: once an iteration, at the end of ``step``. torch's Adam,
    AdamW and SGD can, and are made to unless ``fused`` or ``foreach`` was chosen for them.

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
        require(precision in AUTOCAST_DTYPES, "precision", f"one of {[*AUTOCAST_DTYPES]}", precision)
        require(type(accumulate) is int and accumulate >= 1, "accumulate", "an int >= 1", accumulate)
        require(clip_norm >= 0, "clip_norm", "a number >= 0, where 0 never clips", clip_norm)
        closure = inspect.signature(type(optimizer).step).parameters.get("closure")
        can_step = closure is None or closure.default is not closure.empty
        require(can_step, "optimizer", "one whose step() needs no closure", type(optimizer).__name__)
        self.model, self.optimizer, self.precision = model, optimizer, precision
        self.accumulate, self.clip_norm = accumulate, clip_norm
        self._update, self._buffers = Update(optimizer), Buffers(model)
        require(bool(self._update.params), "optimizer", "one with parameters", type(optimizer).__name__)
        self.device = torch.device(device or self._update.params[0].device)
        if self.device.type == "cuda" and self.device.index is None:
            self.device = torch.device("cuda", torch.cuda.current_device())
        self._reads = self.device.type in _HOST_DEVICES
        self._ones: dict[torch.dtype, Tensor] = {}
        self._run_backward = backward_function(self.device)
        self._forward = model if compile is False else _compiled(model, compile)
        self._ddp = model if isinstance(model, DistributedDataParallel) else None
        self._group = self._ddp.process_group if self._ddp and process_group is None else process_group
        self._where = f"{type(self._ddp.module if self._ddp else model).__name__}(batch)"
        self._scale: Tensor | None = None  # 0-D float32 with fp16.
        if precision == "fp16":
            # Source: GradScaler refuses them too. Their gradients would underflow when unscaled.
            dtypes = {p.dtype for p in self._update.params}
            require(torch.float16 not in dtypes, "precision", "no float16 parameters with fp16", dtypes)
            self._scale = torch.full((), _INITIAL_SCALE, dtype=torch.float32, device=self.device)
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
        if not (isinstance(microbatches, (list, tuple)) and 1 <= len(microbatches) <= self.accumulate):
            rule = f"a list of 1 to {self.accumulate} microbatches, as in [batch]"
            require(False, "step", rule, microbatches)
        self._buffers.save()
        # At the start, so that an after_step hook still finds the gradients.
        self._update.begin()
        metrics, num_items = self._forward_backward(microbatches)
        is_enabled = torch.is_grad_enabled()
        torch._C._set_grad_enabled(False)  # What no_grad does, without what it costs around it.
        try:
            return self._finish(metrics, num_items)
        finally:
            torch._C._set_grad_enabled(is_enabled)

    def state_dict(self) -> dict[str, Any]:
        """Return copies of what later iterations depend on: the loss scale with fp16, else nothing."""
        if self._scale is None:
            return {}
        return {"scale": self._scale.clone(), "growth_tracker": self._growth_tracker.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``; one of another precision is accepted and leaves the loss scale as it is."""
        names = state.keys() - {"mode"}  # That of a GraphKernel: how it is done, not what.
        if self._scale is not None and names:
            require({"scale", "growth_tracker"} == names, "kernel state", "a loss scale", sorted(names))
            self._scale.copy_(state["scale"])
            self._growth_tracker.copy_(state["growth_tracker"])

    def state_tensors(self) -> list[Tensor]:
        """Return the memory of the loss scale, which each iteration changes in place."""
        return [] if self._scale is None else [self._scale, self._growth_tracker]

    def _forward_backward(self, microbatches: Sequence[Any]) -> tuple[dict[str, Tensor], int | Tensor]:
        """Add up losses and gradients, each times its items; return this rank's loss sums and items."""
        sums: dict[str, Tensor] = {}
        num_items: int | Tensor = 0
        is_only = len(microbatches) == 1 and self._group is None
        with self._autocast():  # One region for all microbatches: weights are cast once an iteration.
            for index, microbatch in enumerate(microbatches):
                # DDP averages all that .grad has gathered over ranks, unless told not yet: once is enough.
                with self._ddp.no_sync() if self._ddp and index + 1 < len(microbatches) else _NOTHING:
                    batch = microbatch if self._reads else to_device(microbatch, self.device)
                    output = self._forward(batch)
                    losses, weight = split_losses(output, self._where)
                    if is_only and type(weight) is int and weight > 0:
                        weight = 1  # A mean is what is wanted.
                    self._backward(losses["total_loss"], weight)
                for name, loss in losses.items():
                    # Means cannot be added, sums can: a mean times its items, divided once at the end.
                    part = loss.detach() if type(weight) is int and weight == 1 else loss.detach() * weight
                    if name in sums:
                        part = sums[name] + part
                    elif loss.is_leaf or loss._is_view() or self._forward is not self.model:
                        # Else nobody changes it; compiled code may use its memory again.
                        part = part.clone()
                    sums[name] = part
                num_items = num_items + weight
            if AUTOCAST_DTYPES[self.precision] is not None:
                torch.clear_autocast_cache()  # In somebody's own region it would outlive the weights.
        return sums, num_items

    def _finish(self, metrics: dict[str, Tensor], num_items: int | Tensor) -> dict[str, Tensor]:
        """Judge and apply the gradients; return the metrics, divided and with what was found."""
        total_loss = metrics["total_loss"]
        divisor = self._divisor(total_loss, num_items)
        if self.after_backward is not None:
            divide(self._update.gradients(), divisor)
            divisor = 1.0
            with torch.enable_grad():
                self.after_backward()
            self._update.lay_out()
        if isinstance(num_items, Tensor) or num_items != 1:
            metrics = {name: total / num_items for name, total in metrics.items()}
        if self._scale is not None:
            metrics["loss_scale"] = self._scale.clone()  # Below it is changed in place.
        grads = self._update.gradients()
        norm = self._update.norm(grads)
        norm = norm / divisor if isinstance(divisor, Tensor) or divisor != 1 else norm
        metrics["grad_norm"], skip = self._judge(total_loss, norm)
        if self.clip_norm > 0:
            excess = self._excess(norm)
            divisor = divisor * excess if isinstance(divisor, Tensor) or divisor != 1 else excess
        self._update.apply(grads, divisor, skip)
        self._buffers.restore(skip)
        self._adapt_scale(skip)
        return metrics

    def _autocast(self) -> AbstractContextManager[Any]:
        dtype, kind = AUTOCAST_DTYPES[self.precision], self.device.type
        if dtype is None and not torch.is_autocast_enabled(kind):
            return _NOTHING
        return torch.autocast(kind, dtype=dtype, enabled=dtype is not None)

    def _backward(self, loss: Tensor, weight: int | Tensor) -> None:
        """Add the gradients of ``loss`` times ``weight`` and the loss scale."""
        one = self._ones.get(loss.dtype)
        if one is None or one.device != loss.device:
            one = self._ones[loss.dtype] = torch.ones_like(loss, requires_grad=False)
        factor = one.clone()  # A parameter may take it as its gradient, in which others write.
        if type(weight) is not int or weight != 1:
            factor = factor * weight
        if self._scale is not None:
            factor = factor * self._scale
        # Backward repeats the dtypes of forward; an active autocast would change some.
        is_casting = AUTOCAST_DTYPES[self.precision] is not None
        with torch.autocast(self.device.type, enabled=False) if is_casting else _NOTHING:
            self._run_backward(loss, factor)

    def _divisor(self, total_loss: Tensor, num_items: int | Tensor) -> float | Tensor:
        """Return what gradients are sums over: all items of all ranks, times the loss scale."""
        divisor: float | Tensor = num_items
        if self._group is not None:
            # The mean over ranks that backward took is a sum over ranks already divided by their number.
            items = total_loss.new_zeros(()).add_(num_items)
            dist.all_reduce(items, group=self._group)
            divisor = items / self._group.size()
        if self._scale is not None:
            divisor = divisor * self._scale
        is_on_host = isinstance(divisor, Tensor) and divisor.is_cpu and not total_loss.is_cpu
        if self._reads or is_on_host or not isinstance(divisor, Tensor):
            return float(divisor)
        return divisor.to(total_loss.dtype)

    def _judge(self, total_loss: Tensor, norm: Tensor) -> tuple[Tensor, bool | Tensor]:
        """Return the norm to report, and whether to skip: on every rank the same."""
        if self._group is None and self._scale is None:
            if self._reads:
                is_finite = math.isfinite(norm.item()) and math.isfinite(total_loss.item())
                return norm if is_finite else torch.full_like(norm, torch.nan), not is_finite
            # A sum and a norm hand on every NaN and inf, so these two speak for all others: 0, or NaN.
            both = norm + total_loss.to(norm.device)
            zero = both - both
            return (norm + zero).to(norm.dtype), (zero != 0).float()
        flags = torch.stack([~torch.isfinite(total_loss), ~torch.isfinite(norm)]).float()
        if self._group is not None:  # A rank that skips alone would differ from the others ever after.
            dist.all_reduce(flags, op=dist.ReduceOp.MAX, group=self._group)
        overflow: float | Tensor = torch.nan
        if self._scale is not None:  # Where nothing is left to lower, the scale is not to blame.
            overflow = torch.where(self._scale > _MIN_SCALE, torch.inf, torch.nan)
        reported = torch.where(flags[1] > 0, overflow, norm)
        skip = flags.amax()
        return torch.where(flags[0] > 0, torch.nan, reported), bool(skip.item()) if self._reads else skip

    def _excess(self, norm: Tensor) -> float | Tensor:
        """Return how many times longer than they may be the gradients are; 1 where they may."""
        if self._reads:
            return max((norm.item() + _CLIP_EPS) / self.clip_norm, 1.0)
        return ((norm + _CLIP_EPS) / self.clip_norm).clamp(min=1.0)

    def _adapt_scale(self, skip: bool | Tensor) -> None:
        if self._scale is not None:
            found_inf = skip if isinstance(skip, Tensor) else torch.full_like(self._scale, float(skip))
            torch._amp_update_scale_(self._scale, self._growth_tracker, found_inf, *_SCALE_RULE)
            self._scale.clamp_(min=_MIN_SCALE)


def _compiled(model: nn.Module, options: bool | Mapping[str, Any]) -> Any:
    """Return what stands beside the model: the names in its state_dict stay as they are."""
    require(options is True or isinstance(options, Mapping), "compile", "True, False or options", options)
    try:
        return torch.compile(model, **(options if isinstance(options, Mapping) else {}))
    except Exception as error:  # It has many of its own.
        said = f"{type(error).__name__}: {str(error)[:200]}"
        raise ValueError(f"compile: expected options of torch.compile, got {options!r}. {said}") from error
