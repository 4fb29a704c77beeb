"""One cost, one optimizer, one data source: the iteration that most training needs."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from numbers import Integral, Real
from time import perf_counter
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.data import Dataset, IterableDataset

from hookline import distributed
from hookline.errors import CheckpointError, NonFiniteError, RunError, did_you_mean
from hookline.evaluation import evaluate
from hookline.events import Events
from hookline.kernel import GraphKernel, StepKernel
from hookline.prefetch import DeviceFeed
from hookline.trainer.base import TrainerBase
from hookline.trainer.forward_puts import ForwardPuts
from hookline.trainer.optimizer_state import (
    are_equal,
    check_optimizer_state,
    for_parameters,
    keep_types,
    parameter_names,
)
from hookline.trainer.source import Source
from hookline.trainer.sync_check import SyncCheckMode
from hookline.trainer.weights import load_weights

__all__ = ["SimpleTrainer"]

_MODES = ("eager", "graph", "auto")
_EVERY_ITERATION = ("before_step", "after_backward", "after_step")

_log = logging.getLogger(__name__)


class SimpleTrainer(TrainerBase):
    """Trains ``model`` with ``optimizer`` on batches of ``data_loader``.

    The model takes a batch and returns a loss, or a dict of losses whose sum is minimised. A dict may
    hold ``num_items``, the number of items its losses average over: microbatches are then weighted by it.

    Args:
        model: The model, on its device; `DistributedDataParallel` around it is fine.
        data_loader: Yields batches; begun anew when it ends. A resumed run goes on at the very next batch
            of one with ``state_dict`` and ``load_state_dict``, and of a DataLoader of torch.
        optimizer: Any torch optimizer that needs no closure.
        precision: ``fp32``, ``bf16``, or ``fp16`` with loss scaling.
        accumulate: Microbatches per iteration; the result is that of one big batch.
        clip_norm: Largest global gradient norm; 0 does not clip.
        max_skips: Updates in a row that may be skipped because a loss or gradient is not finite.
        compile: ``torch.compile`` the model; a mapping gives its arguments.
        kernel: ``eager``; ``graph``, which replays iterations as a CUDA graph where nothing forbids it, and
            says what does; or ``auto``, which measures first and keeps the faster of the two.
        prefetch: Send batches to a CUDA device beside what it computes; on a CPU there is nothing to send.
        sync_check: What happens when the host waits for a CUDA device; see ``TrainerBase.sync_check``.

    Attributes:
        microbatches: The batches of the iteration that runs, as the loader gave them; for hooks to look at.
        on_drawn: Called in order, each iteration, when these are drawn and nothing is done with them yet.
    """

    microbatches: Sequence[Any] = ()

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[Any],
        optimizer: torch.optim.Optimizer,
        *,
        precision: str = "fp32",
        accumulate: int = 1,
        clip_norm: float = 0.0,
        max_skips: int = 0,
        compile: bool | Mapping[str, Any] = False,
        kernel: Literal["eager", "graph", "auto"] = "eager",
        prefetch: bool = True,
        sync_check: SyncCheckMode = "off",
    ) -> None:
        super().__init__()
        self.sync_check = sync_check
        _require(
            _is_number(max_skips, Integral) and max_skips >= 0, "max_skips", "a whole number >= 0", max_skips
        )
        _require(_is_number(clip_norm, Real), "clip_norm", "a number >= 0, where 0 never clips", clip_norm)
        _require(isinstance(prefetch, bool), "prefetch", "True or False", prefetch)
        optimized = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        if optimized.isdisjoint(map(id, model.parameters())):
            raise RunError(
                f"optimizer: expected one for parameters of {type(model).__name__}, got one for others. "
                "Build it from this model's parameters()."
            )
        self.model: nn.Module = getattr(model, "module", model) if _is_ddp(model) else model
        self.data_loader = _of_batches(data_loader)
        self._source = Source(self.data_loader)
        self.optimizer = optimizer
        self.precision = precision
        self.accumulate = accumulate
        self.max_skips = max_skips
        options = {
            "precision": precision,
            "accumulate": accumulate,
            "clip_norm": clip_norm,
            "compile": compile,
        }
        self.kernel = _kernel(kernel, model, optimizer, options)
        on_cuda = prefetch and self.kernel.device.type == "cuda"
        self._feed = DeviceFeed(self.kernel.device) if on_cuda else None
        self._batches: Iterator[Any] | None = None
        self._told_of: Source | None = None
        self._saved_place: Mapping[str, Any] | None = None
        self.on_drawn: list[Callable[[], None]] = []
        self._num_skipped = 0
        self._configured = _hyperparameters(optimizer)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @property
    def is_data_resumable(self) -> bool:
        """Whether a resumed run goes on at the very next batch."""
        return self._current_source().is_resumable

    def train(self, start_iter: int, max_iter: int) -> None:
        """See `TrainerBase.train`; the model is in training mode from the first iteration."""
        self.model.train()
        self.kernel.after_backward = self.after_backward if self.hooks.implements("after_backward") else None
        if isinstance(self.kernel, GraphKernel):
            self.kernel.forbidden = self._unsafe_plugins()
        super().train(start_iter, max_iter)

    def run_step(self) -> None:
        """Do one iteration with the kernel, and put its losses, ``grad_norm`` and ``data_time``."""
        start = perf_counter()
        self.microbatches = [self._next_batch() for _ in range(self.accumulate)]
        waited_s = perf_counter() - start
        for tell in self.on_drawn:
            tell()
        batches = self.microbatches
        if self._feed is not None:
            batches = [self._feed(batch) for batch in batches]
        metrics: dict[str, Any] = self.kernel.step(batches)
        data_time: Any = waited_s
        if self._num_ranks > 1:
            metrics = distributed.reduce_metrics(metrics, {"data_time": waited_s})
            data_time = metrics.pop("data_time")
        self.storage.put_scalar("data_time", data_time, volatile=True)
        self.storage.put_scalars(metrics)

    def reset_data_loader(self, build: Callable[[], Iterable[Any]]) -> None:
        """Replace the data loader by what ``build`` returns; the next iteration draws from it.

        Before the first batch of a run that goes on, as in ``before_train``, the new one goes to the place
        that was saved.
        """
        self._batches = None
        self.data_loader = _of_batches(build())

    def eval_data(self, data: Any) -> Iterable[Any]:
        """Return the batches that ``data`` means: here, ``data`` itself.

        Raises:
            RunError: If it is a name, which only a trainer with a config knows.
        """
        if isinstance(data, str):
            raise RunError(
                f"evaluate: expected batches, got the name {data!r}. Only DefaultTrainer has names."
            )
        batches: Iterable[Any] = data
        return batches

    def evaluate(
        self, data: Iterable[Any], metrics: Mapping[str, Any] | None = None, max_batches: int = 0
    ) -> dict[str, float]:
        """Return the mean losses and ``metrics`` of the model on ``data``, by flat name; see `evaluate`."""
        # Each rank's batch norm has seen other batches; what is measured is the model that is saved.
        distributed.share(self.model.buffers())
        return evaluate(
            self.model,
            self.eval_data(data),
            metrics or {},
            device=self.device,
            precision=self.precision,
            max_batches=max_batches,
        )

    def accept(self, events: Sequence[Events]) -> None:
        """Count updates that were skipped in a row, and end the run when there are too many.

        Raises:
            NonFiniteError: With the iteration and its losses, on every rank.
        """
        for event in events:
            # The kernel reports a NaN norm, on every rank, exactly when it skipped for good reason.
            if not math.isnan(event.values.get("grad_norm", 0.0)):
                self._num_skipped = 0
                continue
            values = {name: scalar.value for name, scalar in event.scalars.items() if not scalar.volatile}
            self._num_skipped += 1
            if self._num_skipped > self.max_skips:
                shown = {name: values[name] for name in values if "loss" in name or name == "grad_norm"}
                raise NonFiniteError(event.iteration, shown, self._num_skipped)
            _say(f"Iteration {event.iteration}: loss or gradient not finite, update skipped.")

    def state_dict(self) -> dict[str, Any]:
        """Return the state after iteration ``iter``: the base's, model, optimizer, kernel and data."""
        state = super().state_dict()
        state["model"] = self.model.state_dict()
        state["optimizer"] = self.optimizer.state_dict()
        state["trainer"] |= {"num_skipped": self._num_skipped, "configured": self._configured}
        state["trainer"]["optimizer"] = type(self.optimizer).__name__
        state["trainer"]["parameters"] = parameter_names(self.model, self.optimizer)
        state["kernel"] = self.kernel.state_dict()
        source = self._current_source()
        state["data"] = {"ranks": distributed.gather(source.state_dict())}
        self._tell_what_is_lost(source)
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned; options of the optimizer that were changed since stay changed.

        Raises:
            CheckpointError: If it is the state of another model, optimizer or loader.
        """
        load_weights(self.model, state["model"], "checkpoint", exact=True)
        try:
            self._load_optimizer(state["optimizer"], state["trainer"])
        except ValueError as error:
            raise CheckpointError(
                f"checkpoint: expected the state of this optimizer, got: {error}. "
                "Use the config it was saved with, or --weights, which loads the model alone."
            ) from error
        self.kernel.load_state_dict(state["kernel"])
        self._num_skipped = state["trainer"]["num_skipped"]
        self._load_data(state["data"]["ranks"])
        super().load_state_dict(state)

    def _before_first_save(self) -> None:
        self._tell_what_is_lost(self._current_source())
        super()._before_first_save()

    def _tell_what_is_lost(self, source: Source) -> None:
        """Say, once of a loader, what of it no checkpoint holds."""
        if source is not self._told_of:
            self._told_of = source
            if lost := source.what_is_lost():
                _say(f"data loader: {lost}")

    def _unsafe_plugins(self) -> str:
        """Return which plugins take part in an iteration in a way that no graph allows."""
        implementing = {hook: self.hooks.implements(hook) for hook in _EVERY_ITERATION}
        called = set().union(*implementing.values())
        unsafe = [
            name
            for name in self.hooks.names()
            if name in called and not getattr(self.hooks.get_plugin(name), "graph_safe", False)
        ]
        for names, what in (
            (implementing["after_backward"], "implements after_backward"),
            (unsafe, "does not declare graph_safe"),
        ):
            if names:
                listed = ", ".join(f"{name!r} ({self.hooks.sources[name]})" for name in names)
                return f"a plugin {what}: {listed}"
        return ""

    def _next_batch(self) -> Any:
        if self._batches is not None:
            try:
                return next(self._batches)
            except StopIteration:
                pass
        self._batches = iter(self._current_source())
        self._saved_place = None
        try:
            return next(self._batches)
        except StopIteration:
            raise RunError(
                f"data_loader: expected at least one batch, got none from {type(self.data_loader).__name__}. "
                "Check its length and batch size."
            ) from None

    def _current_source(self) -> Source:
        """Return the place in the loader that is the trainer's now; anybody may have given it another one."""
        if self._source.loader is not self.data_loader:
            self._source = Source(self.data_loader)
            if self._saved_place is not None:
                self._source.load_state_dict(self._saved_place)
        return self._source

    def _load_data(self, ranks: Sequence[Mapping[str, Any]]) -> None:
        """Go to this rank's place in the data; to that of rank 0 where there are other ranks now."""
        is_same = len(ranks) == distributed.world_size()
        place = ranks[distributed.rank()] if is_same else {**ranks[0], "generators": {}}
        self._current_source().load_state_dict(place)
        self._batches, self._saved_place = None, place

    def _load_optimizer(self, state: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
        """Load ``state``, then change what is configured otherwise now than when it was saved."""
        if saved["optimizer"] != type(self.optimizer).__name__:
            raise ValueError(f"that of {saved['optimizer']} for {type(self.optimizer).__name__}")
        configured, now = saved["configured"], self._configured
        if "parameters" in saved:
            state = for_parameters(state, saved["parameters"], parameter_names(self.model, self.optimizer))
        check_optimizer_state(self.optimizer, state)
        self.optimizer.load_state_dict(dict(state))
        keep_types(self.optimizer, state)
        for group, before, after in zip(self.optimizer.param_groups, configured, now, strict=True):
            # Copies, as a rate that is a tensor may be changed in place.
            changed = {
                key: copy.deepcopy(value)
                for key, value in after.items()
                if not are_equal(before.get(key), value)
            }
            if "lr" in changed and before["lr"]:
                # A schedule may have moved the rate since: keep its factor, change what it is a factor of.
                group["lr"] *= changed["lr"] / before["lr"]
                group["initial_lr"] = changed.pop("lr")
            group.update(changed)


def _of_batches(data_loader: Iterable[Any]) -> Iterable[Any]:
    """Return ``data_loader``; refuse a dataset, which Python would iterate over too: by samples."""
    is_dataset = isinstance(data_loader, Dataset) and not isinstance(data_loader, IterableDataset)
    if is_dataset and not hasattr(data_loader, "__iter__"):
        raise RunError(
            f"data_loader: expected batches, got the dataset {type(data_loader).__name__}. "
            "Use hookline.Loader(dataset, batch_size=…), "
            "or torch's DataLoader(dataset, batch_size=None) if its items are batches."
        )
    return data_loader


def _is_number(value: object, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _require(is_so: bool, where: str, rule: str, got: object) -> None:
    if not is_so:
        raise RunError(f"{where}: expected {rule}, got {got!r}.")


def _kernel(
    mode: str, model: nn.Module, optimizer: torch.optim.Optimizer, options: Mapping[str, Any]
) -> StepKernel:
    """Return the kernel for ``mode``."""
    if mode not in _MODES:
        hint = did_you_mean(str(mode), _MODES)
        raise RunError(f"kernel: expected 'eager', 'graph' or 'auto', got {mode!r}. {hint}".rstrip())
    try:  # The kernel knows torch and nothing else, not even our exceptions.
        if mode == "eager":
            return StepKernel(model, optimizer, **options)
        kernel = GraphKernel(model, optimizer, choose=mode == "auto", say=_say, **options)
    except ValueError as error:
        raise RunError(str(error)) from error
    kernel.watch = ForwardPuts(kernel.device)
    return kernel


def _say(line: str) -> None:
    # It is so on every rank; a person need not read it more than once.
    _log.log(logging.WARNING if distributed.is_main() else logging.INFO, "%s", line)


def _hyperparameters(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    return [
        {key: copy.deepcopy(value) for key, value in group.items() if key not in ("params", "initial_lr")}
        for group in optimizer.param_groups
    ]


def _is_ddp(model: nn.Module) -> bool:
    return isinstance(model, nn.parallel.DistributedDataParallel)
