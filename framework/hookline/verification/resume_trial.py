"""One run of a check of the resume, in a process of its own, and all that it was, step by step."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hookline.checkpoint import rng
from hookline.config import Config
from hookline.config.instances import name_in
from hookline.config.schema import PluginSpec
from hookline.default import DefaultTrainer
from hookline.plugins import HookCall, is_stateful
from hookline.purity import Records, digests, fingerprint, records_of
from hookline.trainer import SimpleTrainer
from hookline.verification.adapted import adapted, changed_options, checked
from hookline.verification.apart import Ended, apart
from hookline.verification.attributes import Attributes, attributes_of

__all__ = ["Cast", "Point", "ResumeOutcome", "ResumeTrial", "run_resume"]

State = dict[str, str]

_KEEP = 1000  # all of them


@dataclass(frozen=True)
class ResumeTrial:
    """What to train.

    Args:
        config: A YAML file.
        overrides: What is changed of it.
        num_iters: Where training ends.
        half: Periods are at most this long.
        cuts: After so many iterations attributes are noted, and a checkpoint is saved where it is to stop.
        stop_at: Pause after so many iterations.
        resume: A run directory and the name of a checkpoint in it: a copy of the run goes on from there.
        traced: The iteration in which each step is looked at.
    """

    config: str
    overrides: tuple[str, ...]
    num_iters: int
    half: int
    cuts: tuple[int, ...]
    stop_at: int | None = None
    resume: tuple[str, str] | None = None
    traced: int | None = None


@dataclass(frozen=True)
class Cast:
    """Who takes part, for messages: the classes, and which plugins have a state.

    Attributes:
        source: Of each plugin where it came from, by instance name.
        stateful: The plugins with ``state_dict`` and ``load_state_dict``.
        is_own_step: Whether the trainer has a ``run_step`` of its own.
    """

    model: str
    optimizer: str
    loader: str
    dataset: str
    is_resumable_loader: bool
    num_workers: int
    source: dict[str, str]
    stateful: frozenset[str]
    observers: frozenset[str]
    saved: frozenset[str]
    """What is in the model's state dict."""
    trainer: str
    is_own_step: bool


@dataclass(frozen=True)
class Point:
    """What all was at one moment of an iteration.

    Args:
        after: What had just happened: a plugin's call, ``plugin`` and ``hook``, or a step of the trainer.
        state: Digests of it.
        put: Names of the scalars put in the iteration so far.
    """

    after: tuple[str, str]
    state: State
    put: frozenset[str]


@dataclass
class ResumeOutcome(Ended):
    """What became of a trial.

    Attributes:
        run_dir: Where it wrote.
        states: Digests of everything as it was built or loaded (at -1), then before each iteration's data.
        end: The same when all was over.
        records: What was put.
        attributes: What objects remember, before the first iteration and after each of the cuts.
        points: The steps of the iteration that was traced, in order.
    """

    run_dir: str = ""
    cast: Cast | None = None
    states: dict[int, State] = field(default_factory=dict)
    end: State | None = None
    records: Records = field(default_factory=dict)
    attributes: dict[int, Attributes] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)
    num_iters: int = 0
    status: str = ""
    reason: str = ""


def run_resume(trial: ResumeTrial, folder: Path) -> ResumeOutcome:
    """Run ``trial`` in a process that nothing ran in before, with its files in ``folder``."""
    return apart(_train, ResumeOutcome(), trial, folder)


def _train(trial: ResumeTrial, folder: Path, outcome: ResumeOutcome) -> None:
    config, build = checked(trial.config, trial.overrides)
    options = changed_options(config, trial.half)
    trainer = build(_saving(adapted(config, folder, trial.num_iters, options)))
    trainer.smoke = True  # evaluations of a few batches show as much
    trainer.stop_at = trial.stop_at
    if trial.resume is not None:
        trainer.resume(str(_copied(*trial.resume, folder)))
    outcome.cast = _cast(trainer)
    outcome.states[-1] = _state(trainer)
    recorder = _Recorder(trainer, trial, outcome)
    trainer.storage.attach(lambda events: outcome.records.update(records_of(events)))
    try:
        trainer.train()
        outcome.end = _state(trainer)
    finally:
        outcome.run_dir = str(trainer.run_dir)
        outcome.num_iters, outcome.status, outcome.reason = trainer.iter, trainer.status, trainer.reason
        outcome.points = recorder.points


def _saving(config: Config) -> Config:
    """Return ``config`` with a hook that saves, at its end and whenever it is asked to, and keeps all."""
    saving = [spec for spec in config.hooks if name_in(spec.use) == "checkpoint"]
    if not saving:
        added = PluginSpec("verify-resume", "hookline:checkpoint", options={"keep": _KEEP})
        return replace(config, hooks=[*config.hooks, added])
    hooks = [
        replace(spec, options={**spec.options, "keep": _KEEP}) if spec in saving else spec
        for spec in config.hooks
    ]
    return replace(config, hooks=hooks)


def _copied(run_dir: str, name: str, folder: Path) -> Path:
    """Return the checkpoint ``name`` in a copy of the run, which may be resumed more than once."""
    source = Path(run_dir)
    copy = folder / source.parent.name / source.name
    shutil.copytree(source, copy, symlinks=True)
    return copy / "checkpoints" / name


def _cast(trainer: DefaultTrainer) -> Cast:
    loader: Any = trainer.data_loader
    plugins = {name: trainer.hooks.get_plugin(name) for name in trainer.hooks.names()}
    return Cast(
        model=type(trainer.model).__name__,
        optimizer=type(trainer.optimizer).__name__,
        loader=type(loader).__name__,
        dataset=type(getattr(loader, "dataset", loader)).__name__,
        is_resumable_loader=trainer.is_data_resumable,
        num_workers=getattr(loader, "num_workers", 0),
        source=dict(trainer.hooks.sources),
        stateful=frozenset(name for name, plugin in plugins.items() if is_stateful(plugin)),
        observers=frozenset(name for name, plugin in plugins.items() if getattr(plugin, "observer", False)),
        saved=frozenset(trainer.model.state_dict()),
        trainer=type(trainer).__name__,
        is_own_step=type(trainer).run_step is not SimpleTrainer.run_step,
    )


def _state(trainer: DefaultTrainer) -> State:
    """Return digests of all that training depends on, and of every plugin's state."""
    found = fingerprint(trainer)
    leaves: dict[str, Any] = {}
    with rng.forked_rng():  # whatever is asked for its state could draw
        for name in trainer.hooks.names():
            plugin: Any = trainer.hooks.get_plugin(name)
            if is_stateful(plugin):
                leaves |= _leaves(plugin.state_dict(), f"plugin state/{name}")
    return found | digests(leaves)


def _leaves(state: Any, path: str) -> dict[str, Any]:
    if isinstance(state, Mapping):
        found: dict[str, Any] = {}
        for key, value in state.items():
            found |= _leaves(value, f"{path}.{key}")
        return found
    return {path: state}


class _Recorder:
    """Takes note of everything before each iteration, and of each step of the one that is traced."""

    def __init__(self, trainer: DefaultTrainer, trial: ResumeTrial, outcome: ResumeOutcome) -> None:
        self._trainer, self._trial, self._outcome = trainer, trial, outcome
        self._first = trainer.iter if trial.resume is not None else 0
        self.points: list[Point] = []
        # Not by a hook of our own: it would take part in the order of the others.
        self._replace(trainer, "run_step", self._run_step)
        if trial.traced is not None:
            trainer.hooks.watch(self._around)
            if hasattr(getattr(trainer, "kernel", None), "step"):
                self._replace(trainer.kernel, "step", self._kernel_step)

    @staticmethod
    def _replace(owner: Any, name: str, replacement: Callable[..., Any]) -> None:
        original = getattr(owner, name)
        setattr(owner, name, lambda *given, **named: replacement(original, *given, **named))

    def _run_step(self, run_step: Callable[[], None]) -> None:
        trainer, iteration = self._trainer, self._trainer.iter
        self._outcome.states[iteration] = _state(trainer)
        if iteration in (self._first, *self._trial.cuts):
            self._outcome.attributes[iteration] = attributes_of(trainer)
        if self._trial.stop_at is not None and iteration + 1 in self._trial.cuts:
            trainer.request_checkpoint()
        self._note("", "begin")
        run_step()
        self._note("", "run_step")

    def _kernel_step(self, step: Callable[[Any], Any], batches: Any) -> Any:
        self._note("", "batch")
        return step(batches)

    @contextmanager
    def _around(self, call: HookCall) -> Iterator[None]:
        self._note("", "")
        yield
        self._note(call.plugin, call.hook)

    def _note(self, plugin: str, hook: str) -> None:
        if self._trainer.iter != self._trial.traced:
            return
        latest = self._trainer.storage.latest().items()
        put = frozenset(name for name, (_, iteration) in latest if iteration == self._trainer.iter)
        self.points.append(Point((plugin, hook), _state(self._trainer), put))
