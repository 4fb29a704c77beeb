"""A config becomes a running trainer, each part built by a method that a subclass can replace."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hookline import checkpoint, distributed, fingerprint, lock
from hookline.attempt import attempt, may_lack_its_end
from hookline.config import Config, load_config, resolve_target, to_iterations
from hookline.config.lengths import Epochs
from hookline.data import build_loader, iterations_per_epoch
from hookline.delivery import check_journals
from hookline.environment import on_all_ranks, set_up
from hookline.errors import CheckpointError, ConfigError, HooklineError, Problem, RunError
from hookline.evaluation import check_metrics, evaluation_state, load_evaluation_state
from hookline.events import EventStorage, EventWriter
from hookline.hooks import Checkpoint, Evaluate
from hookline.parameter_groups import parameter_groups
from hookline.plan import Plan, PlannedPlugin
from hookline.plugins import lint_writer
from hookline.resuming import to_resume
from hookline.run_logs import collected_logs
from hookline.rundir import RunDir
from hookline.trainer import SimpleTrainer, find_weights, load_weights, restoring, say_if_exit, weights_in

__all__ = ["DefaultTrainer", "trainer_class"]

_log = logging.getLogger(__name__)

_SMOKE_ITERS = 3
_NO_PLUGINS = ("schedule",)  # without it the run would not do what its config says


class DefaultTrainer(SimpleTrainer):
    """Trains what a config describes: ``DefaultTrainer("run.yaml").train()``.

    Everything that the config names is imported and checked before anything is built, and every problem
    is reported at once. To change a part, override the method that builds it.

    Args:
        config: A YAML file, the same as a dict, or a `Config`.
        overrides: Such as ``train.max_iter=500``, applied left to right.
        plugins: False leaves out every hook but the schedule, and every writer.
        smoke: Three iterations, one evaluation of three batches, one checkpoint.

    Raises:
        ConfigError: If anything in the config is wrong.
    """

    resumed_from: Path | None = None
    """The checkpoint that `resume` loaded."""
    asked_to_resume: str | None = None
    """What `resume` was called with."""
    weights_from: tuple[str, str | None] | None = None
    """What `load_weights` loaded: where, and whose."""
    _weights_at: Path | None = None
    _run: RunDir | None = None
    _is_done = False
    _next_iter = 0
    _fingerprint: Mapping[str, Any]
    _saved_evaluations: dict[str, Any]

    def __init__(
        self,
        config: Config | str | Path | Mapping[str, Any],
        overrides: Sequence[str] = (),
        *,
        plugins: bool = True,
        smoke: bool = False,
    ) -> None:
        if not isinstance(config, Config):
            config = load_config(config, overrides, also=lambda found: self.planned(found, plugins).problems)
        self.config, self.smoke, self.has_plugins = config, smoke, plugins
        self.plan = self.planned(config, plugins)
        if self.plan.problems:
            raise ConfigError(self.plan.problems)
        with collected_logs() as self._early_records:
            self._build()

    # ---- the parts; override what should be different

    def build_model(self) -> nn.Module:
        """Return the model, on any device."""
        model = self._make("model")
        if not isinstance(model, nn.Module):
            raise ConfigError([Problem("model.target", "a torch.nn.Module", type(model).__name__)])
        return model

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Return the optimizer of ``model``, with the config's parameter groups."""
        optimizer = self._make("optimizer", params=parameter_groups(model, self.config))
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise ConfigError([Problem("optimizer.target", "a torch optimizer", type(optimizer).__name__)])
        return optimizer

    def build_schedule(self, optimizer: torch.optim.Optimizer) -> Any:
        """Return a schedule of `hookline.schedules`, a torch scheduler, or None to keep the rate."""
        if "schedule" not in self.plan:
            return None
        given = {"optimizer": optimizer} if self.plan.wants("schedule", "optimizer") else {}
        return self._make("schedule", **given)

    def build_train_loader(self) -> Iterable[Any]:
        """Return the loader of training batches."""
        return self._build_loader("train", pad=True)

    def build_eval_loader(self, name: str) -> Iterable[Any]:
        """Return the loader of ``data.<name>``; called once a name."""
        return self._build_loader(name, pad=False)

    def build_evaluator(self, name: str) -> Mapping[str, Any]:
        """Return what to measure on ``data.<name>``: objects with ``update``, ``compute``, ``reset``."""
        prefix = f"data.{name}.metrics."
        return {key.removeprefix(prefix): self._make(key) for key in self.plan.keys if key.startswith(prefix)}

    def build_hooks(self) -> None:
        """Register the config's hooks, in its order."""
        for plan in self.plan.hooks:
            hook = plan.make(**self._lengths(plan))
            self.register_hook(hook, plan.name, plan.loaded.source, plan.on_error)

    def build_writers(self) -> Mapping[str, EventWriter]:
        """Return the config's writers by instance name."""
        writers = {plan.name: plan.make(**self._lengths(plan)) for plan in self.plan.writers}
        for plan in self.plan.writers:
            lint_writer(writers[plan.name], plan.name, plan.loaded.source)
        return writers

    def evaluate(
        self,
        data: str | Iterable[Any] = "eval",
        metrics: Mapping[str, Any] | None = None,
        max_batches: int = 0,
    ) -> dict[str, float]:
        """Return losses and metrics of the model on ``data``, a key of the config's ``data`` or batches."""
        if isinstance(data, str):
            batches = self.eval_data(data)
            metrics = self._evaluators[data] if metrics is None else metrics
            data = batches
        return super().evaluate(data, metrics, max_batches=max_batches or _SMOKE_ITERS * self.smoke)

    def eval_data(self, data: Any) -> Iterable[Any]:
        """Return the batches that ``data`` means: a key of the config's ``data``, or batches themselves."""
        if not isinstance(data, str):
            return super().eval_data(data)
        if data not in self._eval_loaders:
            metrics = self.build_evaluator(data)
            check_metrics(metrics, self.precision, f"data.{data}.metrics")
            self._evaluators[data], self._eval_loaders[data] = metrics, self.build_eval_loader(data)
            self._restore_evaluation(data)
        return self._eval_loaders[data]

    # ---- running

    def train(self, start_iter: int | None = None, max_iter: int | None = None) -> None:
        """Train from where the run stands to the config's ``train.max_iter``; may be called again.

        Does nothing where `resume` found that the job has already trained the run to its end. See
        `TrainerBase.train` for what it raises.
        """
        if self._is_done and start_iter is None and max_iter is None:
            return
        first = self._next_iter if start_iter is None else start_iter
        last = self.max_iter if max_iter is None else max_iter
        if first > last or (first == last and not may_lack_its_end(self)):
            where = self.config.where("train.max_iter")
            raise RunError(f"{where}: expected more than the {first} iterations done, got {last}. Raise it.")
        if self.stop_at is not None and self.stop_at <= first:
            where = self.config.where("train.stop_at")
            rule = f"more than the {first} iterations done, or nothing"
            raise RunError(
                str(Problem(where, rule, self.stop_at, fix="Raise it, or take it out with train.stop_at="))
            )
        with self._interrupts:  # until the run's files say how it ended
            run = self._open_run()
            self.start_iter, self.max_iter = first, last
            with attempt(self, run):
                try:
                    super().train(first, last)
                finally:
                    self._next_iter = self.iter

    def resume(
        self, run: str = "latest", *, weights: str | Path | None = None, weights_of: str | None = None
    ) -> None:
        """Go on, at the next `train`, where the run stopped; it stays in its directory.

        Args:
            run: A run directory, a checkpoint in one, ``latest``: the newest run of this name, or ``auto``:
                the newest that is neither finished nor stopped, from iteration 0 if it has no checkpoint yet,
                and a new run if there is none. Where torchrun or SLURM starts a job again that has trained
                the newest one to its end, ``auto`` is that, and `train` does nothing.
            weights: Loaded as by `load_weights` if iteration 0 begins now. A run that begins again loads
                those that it began with, unless others are given.
            weights_of: See `load_model`.

        Raises:
            RunError: If there is no such run, or another process trains in that of ``auto``.
            CheckpointError: If it has no undamaged checkpoint, or the one named is damaged, or the weights
                that it began with cannot be loaded.
            PluginError: If its plugins were others, and ``plugins.on_change`` is against that.
        """
        self.asked_to_resume = run
        with collected_logs() as records:
            # Each for itself might find another one, while a run is begun or a disk fails.
            found, path, self._is_done, seen = distributed.from_main(lambda: to_resume(run, self.config))
            if path is not None:
                with restoring(path):
                    self.load_state_dict(checkpoint.load(path))
                self.resumed_from, self._next_iter = path, self.iter
            if found is not None:  # a run that was refused is not this trainer's
                self._run, self.run_dir, self.generation = RunDir(found), found, seen
                self.status = self._run.status["state"] if self._is_done else self.status
            if path is not None:
                try:
                    self.hooks.call("after_load", trainer=self, path=path)
                except BaseException as error:
                    say_if_exit(error)
                    raise
                if weights or self.weights_from:
                    _log.info("%s has weights of its own: no others are loaded.", found)
            elif not self._is_done:
                self._load_first_weights(weights, weights_of)
        self._early_records += records

    def state_dict(self) -> dict[str, Any]:
        """Return the state after the last complete iteration, and with what it was made."""
        evaluations = {
            name: evaluation_state(loader, self._evaluators[name])
            for name, loader in self._eval_loaders.items()
        }
        return {
            **super().state_dict(),
            "evaluations": {"ranks": distributed.gather({**self._saved_evaluations, **evaluations})},
            "plugins": self._plugins_now(),
            "fingerprint": self._fingerprint,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned, and tell what is different now from when it was made.

        Plugins that are others now are told of, or refused, as the config's ``plugins.on_change`` says; by
        default nothing is refused to a trainer that was asked for without plugins.

        Raises:
            CheckpointError: If it is the state of another model, optimizer or loader.
            PluginError: If it was made with other plugins, and ``plugins.on_change`` is against that.
        """
        if "fingerprint" in state:
            fingerprint.tell(state["fingerprint"], self._fingerprint, self.config)
        chosen = self.config.plugins.on_change
        where = self.config.where("plugins.on_change") if chosen else "plugins.on_change (default)"
        policy = chosen or (None if self.has_plugins else "warn")
        super().load_state_dict(lock.agreed(state, self._plugins_now(), where, policy))
        ranks = state.get("evaluations", {"ranks": []})["ranks"]
        is_same = len(ranks) == distributed.world_size()
        self._saved_evaluations = dict(ranks[distributed.rank()]) if is_same else {}
        for name in self._eval_loaders:
            self._restore_evaluation(name)

    def _restore_evaluation(self, name: str) -> None:
        if name in self._saved_evaluations:
            saved = self._saved_evaluations.pop(name)
            load_evaluation_state(self._eval_loaders[name], self._evaluators[name], saved)

    def _plugins_now(self) -> dict[str, Any]:
        return lock.record(self.config, self.hooks, self.writers)

    def load_weights(self, source: str | Path, weights_of: str | None = None) -> None:
        """Load the model's weights, and nothing else, from a run, a checkpoint or a ``.safetensors`` file.

        See `load_model` for ``weights_of``.
        """
        path = find_weights(Path(source))
        load_weights(self.model, weights_in(path, weights_of), str(source))
        self.weights_from, self._weights_at = (str(source), weights_of), path.resolve()

    def _load_first_weights(self, source: str | Path | None, weights_of: str | None) -> None:
        """Load what a run is to begin with: ``source``, what was loaded before, or what it had begun with."""
        if source is not None:
            self.load_weights(source, weights_of)
        elif self.weights_from is None and (run := self._run) is not None:
            begun_with = distributed.from_main(lambda: run.begun_with)
            if begun_with is None:
                return
            _log.info("It begins again with the weights of %s.", begun_with[0])
            try:
                self.load_weights(*begun_with)
            except HooklineError as error:
                raise CheckpointError(
                    f"{run.path}: expected to begin again with the weights of {begun_with[0]}, got: {error} "
                    "Put them back, or name others with --weights."
                ) from error

    # ---- how it works

    def _build(self) -> None:
        """Build every part, in the order in which they need each other."""
        train = self.config.train
        target_device = set_up(self.config)
        model = self.build_model().to(target_device)
        optimizer = self.build_optimizer(model)
        super().__init__(
            on_all_ranks(model, target_device),
            self.build_train_loader(),
            optimizer,
            precision=train.precision,
            accumulate=train.accumulate,
            clip_norm=train.clip_norm,
            max_skips=train.max_skips,
            compile=train.compile,
            kernel=train.kernel,
            prefetch=train.prefetch,
            sync_check=train.sync_check,
        )
        self.max_iter = self._iterations("train.max_iter", train.max_iter)
        self.log_period = train.log_period
        self.storage = EventStorage(period=train.log_period)
        self.stop_at, self.time_limit_s = train.stop_at, train.time_limit
        self.schedule = self.build_schedule(optimizer)
        self.writers: Mapping[str, EventWriter] = self.build_writers()
        check_journals(self.writers.items())
        self.writer_policies = {
            writer.name: writer.on_error for writer in self.config.writers if writer.on_error
        }
        self.writer_periods = {
            writer.name: self._iterations(f"writers.{writer.name}.period", writer.period)
            for writer in self.config.writers
            if writer.period is not None
        }
        self._eval_loaders: dict[str, Iterable[Any]] = {}
        self._evaluators: dict[str, Mapping[str, Any]] = {}
        self._saved_evaluations = {}
        self._fingerprint = fingerprint.record(self.config, type(self), target_device)
        self.build_hooks()
        if self.smoke:
            self._complete_smoke()

    @classmethod
    def planned(cls, config: Config, plugins: bool = True) -> Plan:
        """Return what this class would build of ``config``, imported and checked; see `Plan.problems`."""
        own = vars(DefaultTrainer)
        builders = {"model": "build_model", "data.train": "build_train_loader"}
        required = [key for key, name in builders.items() if getattr(cls, name) is own[name]]
        hooks, writers = config.hooks or [], config.writers or []
        if not plugins:
            hooks, writers = [hook for hook in hooks if hook is not None and hook.use in _NO_PLUGINS], []
        plan = Plan(config, hooks, writers, required)
        if cls.build_eval_loader is DefaultTrainer.build_eval_loader:
            plan.require_data("evaluate")
        return plan

    def _complete_smoke(self) -> None:
        """Evaluate and save once, also where the config does not ask for it."""
        used = {hook.use for hook in self.config.hooks}
        if "evaluate" not in used and "eval" in self.config.data:
            self.register_hook(Evaluate(), "evaluate")
        if "checkpoint" not in used:
            self.register_hook(Checkpoint(), "checkpoint")

    def _make(self, key: str, **given: Any) -> Any:
        if key not in self.plan:
            raise ConfigError(
                [Problem(key, "a target in the config", missing=True, fix=f"Add it, or override build_{key}")]
            )
        return self.plan.make(key, **given)

    def _build_loader(self, name: str, pad: bool) -> Iterable[Any]:
        key = f"data.{name}"
        if key not in self.plan:
            exists = f"There is: {', '.join(self.config.data)}"
            raise ConfigError(
                [Problem(key, "data in the config", missing=True, exists=exists, fix=f"Add {key}")]
            )
        spec = self.config.data[name].loader
        options = None if spec is None else dict(vars(spec))
        return build_loader(
            self._make(key),
            options,
            seed=self.config.run.seed,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
            pad=pad,
            where=key,
        )

    def _iterations(self, key: str, length: int | Epochs) -> int:
        per_epoch = (
            iterations_per_epoch(self.data_loader, self.accumulate) if isinstance(length, Epochs) else None
        )
        iterations = to_iterations(length, per_epoch, self.config.where(key))
        return min(iterations, _SMOKE_ITERS) if self.smoke and key == "train.max_iter" else iterations

    def _lengths(self, plan: PlannedPlugin) -> dict[str, int]:
        """Return those of a plugin's options that are in epochs, in iterations."""
        return {
            name: self._iterations(f"{plan.key}.{name}", value)
            for name, value in plan.options.items()
            if isinstance(value, Epochs)
        }

    def _open_run(self) -> RunDir:
        """Return the run's directory, made by rank 0 if the run is new."""
        if self._run is None:
            name = self.config.run.name + ("-smoke" if self.smoke else "")  # never what `latest` means
            parent = Path(self.config.run.dir)
            self._run = RunDir.open(distributed.from_main(lambda: RunDir.create(parent, name).path))
        self.run_dir = self._run.path
        return self._run


def trainer_class(config: Config) -> type[DefaultTrainer]:
    """Return the class that the config's ``trainer`` names.

    Raises:
        ConfigError: If it is no subclass of `DefaultTrainer`.
    """
    if config.trainer is None:
        return DefaultTrainer
    where = config.where("trainer.target")
    found: Any = resolve_target(config.trainer.target, config.base, where)
    if not (isinstance(found, type) and issubclass(found, DefaultTrainer)):
        raise ConfigError([Problem(where, "a subclass of hookline.DefaultTrainer", found)])
    if config.trainer.options:
        raise ConfigError([Problem(where, "no options beside target", config.trainer.options)])
    return found
