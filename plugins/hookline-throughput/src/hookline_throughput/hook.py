"""Samples, tokens and model FLOPs per second of all processes together, and memory."""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import torch
import torch.distributed as dist
from pydantic import Field

from hookline import HookBase, Period, PluginError, SimpleTrainer, hookimpl, is_due
from hookline_throughput.batches import num_samples, num_tokens
from hookline_throughput.clock import Clock, Interval, clock_of
from hookline_throughput.flops import NotCountedError, count_flops
from hookline_throughput.peaks import known_peak

__all__ = ["Throughput"]

_log = logging.getLogger("hookline")


@dataclass
class _Window:
    """What the iterations of a period took and brought, on this process."""

    intervals: list[Interval] = field(default_factory=list)
    num_samples: int = 0
    num_tokens: int = 0


class Throughput(HookBase):
    """Puts how fast training goes as volatile scalars: means over the iterations of a period.

    ``samples_per_s`` and, with ``tokens``, ``tokens_per_s`` are those of all processes together.
    ``model_flops_per_s`` is that of one device, and ``mfu`` its share of what the device can do, model FLOPs
    utilisation. ``peak_memory_bytes`` is the most memory that tensors took on a CUDA device so far. The
    instance name comes before each: ``throughput/mfu``.

    An iteration lasts from ``before_step`` to ``after_step``: evaluations and checkpoints are left out, the
    loading of data is not. On CUDA the device's own clock is read when it is ready, so nothing waits for it,
    and a value may be put some iterations after its period has ended. Elsewhere the clock is the host's.

    Args:
        period: Put them every so many iterations, and at the end.
        warmup_iters: Iterations at the start that are left out, because they are not typical.
        batch_size: Samples in a batch of the loader, on one process; without it, the first dimension of the
            first tensor in it.
        tokens: What counts as tokens in a batch: the key of a tensor, whose elements are counted, or some
            dimensions of the first tensor, such as ``[0, 1]``, whose sizes are multiplied.
        flops_per_sample: FLOPs of forward and backward of one sample. ``count`` counts those of the first
            batch with torch's own counter, without computing anything; null leaves FLOPs out.
        peak_flops: FLOP/s that one device can do at most in the precision that is trained in; without it,
            those of the data sheet for well-known GPUs, and on others no ``mfu``.
    """

    observer = True
    graph_safe = True

    def __init__(
        self,
        period: Period = 20,
        warmup_iters: Annotated[int, Field(ge=0)] = 3,
        batch_size: Annotated[int, Field(ge=1)] | None = None,
        tokens: str | Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] | None = None,
        flops_per_sample: Annotated[float, Field(gt=0)] | Literal["count"] | None = "count",
        peak_flops: Annotated[float, Field(gt=0)] | None = None,
    ) -> None:
        if period == 0:
            raise ValueError("period: expected at least 1, got 0. Remove the hook to measure nothing.")
        self.period, self.warmup_iters, self.batch_size = period, warmup_iters, batch_size
        self.tokens, self.flops_per_sample, self.peak_flops = tokens, flops_per_sample, peak_flops

    def before_train(self, trainer: SimpleTrainer) -> None:
        """Choose a clock for the trainer's device."""
        if not hasattr(trainer, "microbatches"):
            raise PluginError(
                f"{self.name}: expected a SimpleTrainer, got {type(trainer).__name__}, whose batches are not "
                "known. Set self.microbatches in its run_step, or remove the hook."
            )
        self._device: torch.device = next(trainer.model.parameters()).device
        self._clock: Clock = clock_of(self._device)
        self._num_processes = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        self._flops = self.flops_per_sample if isinstance(self.flops_per_sample, (int, float)) else None
        self._peak = self.peak_flops
        self._peak_memory_bytes = 0
        self._window = _Window()
        self._unread: deque[_Window] = deque()

    @hookimpl(tryfirst=True)
    def before_step(self) -> None:
        """Note when the iteration begins."""
        self._start = self._clock.mark()

    @hookimpl(trylast=True)
    def after_step(self, trainer: SimpleTrainer) -> None:
        """Note when it ends; at the end of a period, put what is known by then."""
        end = self._clock.mark()
        batches = trainer.microbatches
        if trainer.iter == trainer.start_iter:
            self._look_at_model(trainer, batches[0])
        # In the first iterations, too: what is wrong with a batch is told at once.
        samples = sum(map(self._num_samples, batches))
        tokens = sum(map(self._num_tokens, batches))
        if trainer.iter >= trainer.start_iter + self.warmup_iters:
            window = self._window
            window.intervals.append((self._start, end))
            window.num_samples += samples
            window.num_tokens += tokens
            if is_due(trainer.iter, self.period):
                self._unread.append(window)
                self._window = _Window()
        self._put_what_is_known(trainer)

    def after_train(self, trainer: SimpleTrainer) -> None:
        """Put what is left, also of a period that is not over; here the device may be waited for."""
        if trainer.status == "failed":  # It may be the device that failed.
            return
        if self._window.intervals:
            self._unread.append(self._window)
        if self._unread:
            self._clock.wait()
            self._put_what_is_known(trainer)

    def _num_samples(self, batch: Any) -> int:
        return self.batch_size or num_samples(batch, self.name)

    def _num_tokens(self, batch: Any) -> int:
        return 0 if self.tokens is None else num_tokens(batch, self.tokens, self.name)

    def _put_what_is_known(self, trainer: SimpleTrainer) -> None:
        while self._unread:
            window = self._unread[0]
            duration_s = self._clock.seconds(window.intervals)
            if duration_s is None:
                return
            self._unread.popleft()
            if duration_s > 0:
                self._put(trainer, window, duration_s)

    def _put(self, trainer: SimpleTrainer, window: _Window, duration_s: float) -> None:
        values: dict[str, float] = {"samples_per_s": window.num_samples * self._num_processes / duration_s}
        if self.tokens is not None:
            values["tokens_per_s"] = window.num_tokens * self._num_processes / duration_s
        if self._flops is not None:
            values["model_flops_per_s"] = self._flops * window.num_samples / duration_s
            if self._peak is not None:
                values["mfu"] = values["model_flops_per_s"] / self._peak
        if self._device.type == "cuda":
            # The hook `memory`, for one, starts torch's own maximum anew.
            now = torch.cuda.max_memory_allocated(self._device)
            self._peak_memory_bytes = max(self._peak_memory_bytes, now)
            values["peak_memory_bytes"] = self._peak_memory_bytes
        for name, value in values.items():
            trainer.storage.put_scalar(f"{self.name}/{name}", value, smoothing_hint=False, volatile=True)

    def _look_at_model(self, trainer: SimpleTrainer, batch: Any) -> None:
        """Find out the FLOPs of a sample and the device's peak, as far as options do not say, and say so."""
        if self.flops_per_sample is None:
            return
        if self._flops is None:
            self._flops = self._count(trainer, batch)
            if self._flops is None:
                return
            _log.info("%s: %.4g FLOPs a sample, forward and backward.", self.name, self._flops)
        if self._peak is None:
            self._peak, device = known_peak(self._device, trainer.precision, trainer.model)
            if self._peak is None:
                _log.info("%s: no mfu, the peak of %s is not known. Set peak_flops.", self.name, device)

    def _count(self, trainer: SimpleTrainer, batch: Any) -> float | None:
        """Return the FLOPs of a sample; where they cannot be counted None, and say why."""
        why = "the first batch has no samples"
        if samples := self._num_samples(batch):
            try:
                return count_flops(trainer.model, batch, self._device, trainer.precision) / samples
            except NotCountedError as error:
                why = str(error)
            except Exception as error:  # Whatever it is: not to know the FLOPs is no reason to stop.
                why = f"counting failed ({type(error).__name__}: {error})".partition("\n")[0]
        _log.warning(
            "%s: FLOPs are not counted, because %s. Set flops_per_sample to the number, or to null.",
            self.name,
            why,
        )
        return None
