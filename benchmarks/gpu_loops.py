"""The two things that are compared on a GPU: a plain loop at its best, and a trainer with all a run has."""

from __future__ import annotations

import itertools
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from benchmarks.contenders.framework import Empty
from hookline import HookBase, SimpleTrainer
from hookline.hooks import PeriodicWriter, Progress, Schedule, Timer
from hookline.schedules import Constant

__all__ = ["Framework", "Loop", "Plain", "Setup", "moved", "synchronize"]

NUM_PLUGINS = 20
LOG_PERIOD = 20


@dataclass(frozen=True)
class Setup:
    """How a model is trained, the same for both.

    Args:
        make: Returns a model and batches, always the same ones.
        compile: What ``torch.compile`` is given; None leaves the model as it is.
        kernel: The trainer's ``eager``, ``graph`` or ``auto``.
        prefetch: Whether the trainer sends batches to the device ahead.
        copies: How a plain loop brings a batch to the device: not at all, ``blocking`` or ``async``.
    """

    make: Callable[[], tuple[nn.Module, Sequence[Any]]]
    device: torch.device
    precision: str = "fp32"
    accumulate: int = 1
    clip_norm: float = 0.0
    compile: dict[str, Any] | None = None
    kernel: str = "eager"
    prefetch: bool = True
    copies: str = ""
    lr: float = 1e-4
    extra_hooks: Sequence[Any] = field(default_factory=tuple)


class Loop(Protocol):
    """Something that trains on where it stopped."""

    model: nn.Module

    def run(self, num_iters: int) -> float:
        """Train so many iterations more, and return the seconds that one took."""
        ...

    def note(self) -> str:
        """Return what a reader must know of how it ran."""
        ...


class Plain:
    """The loop that a good engineer writes: fused AdamW, a wait for the loss once in 20 iterations."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        torch.manual_seed(0)
        self.model, batches = setup.make()
        self.batches = itertools.cycle(batches)
        self.parameters = list(self.model.parameters())
        self.optimizer = torch.optim.AdamW(self.parameters, lr=setup.lr, fused=True)
        forward = self.model if setup.compile is None else torch.compile(self.model, **setup.compile)
        self.forward: Callable[[Any], Tensor] = forward
        self.scaler = torch.amp.GradScaler(setup.device.type, enabled=setup.precision == "fp16")
        self.losses: list[float] = []

    def run(self, num_iters: int) -> float:
        self.model.train()
        synchronize(self.setup.device)
        start = perf_counter()
        for iteration in range(num_iters):
            loss = self.iterate()
            if (iteration + 1) % LOG_PERIOD == 0:
                self.losses.append(loss.item())
        synchronize(self.setup.device)
        return (perf_counter() - start) / num_iters

    def note(self) -> str:
        return ""

    def iterate(self) -> Tensor:
        """Do one iteration; return its last loss, still on the device."""
        setup = self.setup
        for _ in range(setup.accumulate):
            with self._autocast():
                loss = self.forward(self._next_batch())
                if setup.accumulate > 1:  # Else two kernels more, for nothing.
                    loss = loss / setup.accumulate
            self.scaler.scale(loss).backward()
        if setup.clip_norm:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.parameters, setup.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def _autocast(self) -> Any:
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.setup.precision)
        return torch.autocast(self.setup.device.type, dtype=dtype) if dtype else nullcontext()

    def _next_batch(self) -> Any:
        batch = next(self.batches)
        if not self.setup.copies:
            return batch
        return moved(batch, self.setup.device, non_blocking=self.setup.copies == "async")


class _Clock(HookBase):
    """Waits for the device and looks at the clock as the run begins and as it ends, never between."""

    graph_safe = True

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.start = self.end = 0.0

    def before_step(self) -> None:
        if self.trainer.iter == self.trainer.start_iter:
            synchronize(self.device)
            self.start = perf_counter()

    def after_step(self) -> None:
        if self.trainer.iter + 1 == self.trainer.max_iter:
            synchronize(self.device)
            self.end = perf_counter()


class _Batches:
    """The same batches for ever, going on where an iterator before left off."""

    def __init__(self, batches: Sequence[Any]) -> None:
        self.batches = itertools.cycle(batches)

    def __iter__(self) -> Iterator[Any]:
        return self.batches


class Framework:
    """hookline's trainer with schedule, timer, progress, JSON, TensorBoard and 20 plugins that do nothing."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        torch.manual_seed(0)
        self.model, batches = setup.make()
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=setup.lr, fused=True)
        self.trainer = SimpleTrainer(self.model, _Batches(batches), optimizer, **self._options())
        self.trainer.log_period = LOG_PERIOD
        self._folder = tempfile.TemporaryDirectory(prefix="benchmarks-")
        self.trainer.run_dir = Path(self._folder.name)
        self._said = _Said()
        self.clock = _Clock(setup.device)
        empty = [Empty() for _ in range(NUM_PLUGINS)]
        hooks = [self.clock, Schedule(Constant()), Timer(), Progress(), PeriodicWriter(_writers())]
        self.trainer.register_hooks([*hooks, *empty, *setup.extra_hooks])

    def run(self, num_iters: int) -> float:
        trainer, logger = self.trainer, logging.getLogger("hookline")
        logger.addHandler(self._said)
        try:
            trainer.train(trainer.iter, trainer.iter + num_iters)
        finally:
            logger.removeHandler(self._said)
        return (self.clock.end - self.clock.start) / num_iters

    def note(self) -> str:
        """Return how the kernel ran, where it was asked for a graph."""
        if self.setup.kernel == "eager":
            return ""
        reasons = "; ".join(dict.fromkeys(self._said.lines))
        return f"ran as {self.trainer.kernel.mode or 'nothing'}{reasons and f' ({reasons})'}"

    def _options(self) -> dict[str, Any]:
        setup = self.setup
        return {
            "precision": setup.precision,
            "accumulate": setup.accumulate,
            "clip_norm": setup.clip_norm,
            "compile": False if setup.compile is None else setup.compile or True,
            "kernel": setup.kernel,
            "prefetch": setup.prefetch,
        }


class _Said(logging.Handler):
    """Keeps what the kernel says of its mode."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith("train.kernel: "):
            self.lines.append(record.getMessage().removeprefix("train.kernel: "))


def _writers() -> dict[str, Any]:
    from hookline_json import JSONWriter
    from hookline_tensorboard import TensorBoardWriter

    return {"json": JSONWriter(), "tensorboard": TensorBoardWriter()}


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def moved(batch: Any, device: torch.device, non_blocking: bool) -> Any:
    """Return a batch of tensors on ``device``."""
    if isinstance(batch, dict):
        return {name: tensor.to(device, non_blocking=non_blocking) for name, tensor in batch.items()}
    return tuple(tensor.to(device, non_blocking=non_blocking) for tensor in batch)
