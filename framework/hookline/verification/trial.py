"""One run of a few iterations in a process of its own, and what became of it, step by step."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from hookline.config import Config, describe_options, load_config
from hookline.config.lengths import Epochs
from hookline.default import DefaultTrainer, trainer_class
from hookline.errors import HooklineError, notes
from hookline.plan import PlannedPlugin
from hookline.plugins import HookCall
from hookline.plugins.lint import HOOK_NAMES
from hookline.processes import fresh_processes
from hookline.purity import Change, fingerprint, observe

__all__ = ["Outcome", "Registered", "Trial", "run"]

_Options = dict[str, dict[str, Any]]

_REST_S = 5.0  # what a process is given to end by itself when it has told all


@dataclass(frozen=True)
class Trial:
    """What to train.

    Args:
        config: A YAML file.
        overrides: What is changed of it.
        num_iters: How long.
        off: Instance names of the hooks that are left out.
        watched: Instance names of the hooks whose calls are compared; None: of all observers.
    """

    config: str
    overrides: tuple[str, ...]
    num_iters: int
    off: frozenset[str] = frozenset()
    watched: frozenset[str] | None = None


@dataclass(frozen=True)
class Registered:
    """A hook plugin of the run, as it was registered."""

    name: str
    source: str
    observer: bool
    hooks: tuple[str, ...]
    from_config: bool
    period: tuple[str, int] | None = None
    """Its period, and the one it had here, where nothing would have been due in its own."""


@dataclass
class Outcome:
    """What became of a trial.

    Attributes:
        plugins: Every hook plugin that took part, in call order; none if nothing could be built.
        states: A fingerprint of the trainer as it was built (at -1), then before each iteration's data.
        end: The fingerprint when all was over, by the number of iterations done; None if it was not reached.
        calls: How often each watched plugin's hooks were called.
        changes: What calls of watched plugins changed.
        providers: Plugins that others build upon: they offer an evaluation, or save checkpoints.
        error: Why it did not come to its end.
        is_explained: True if the error is hookline's own, which says what to do.
    """

    plugins: list[Registered] = field(default_factory=list)
    states: dict[int, dict[str, str]] = field(default_factory=dict)
    num_iters: int = 0
    end: dict[str, str] | None = None
    status: str = ""
    reason: str = ""
    calls: Counter[tuple[str, str]] = field(default_factory=Counter)
    changes: list[Change] = field(default_factory=list)
    providers: set[str] = field(default_factory=set)
    error: str = ""
    is_explained: bool = False


def run(trial: Trial, folder: Path) -> Outcome:
    """Run ``trial`` in a process that nothing ran in before, with its files in ``folder``.

    So nothing that a plugin does to its process reaches another trial, and one that ends it is an error.
    """
    # The optimizers of torch import torch._dynamo when they are first used.
    context = fresh_processes([__name__, "torch._dynamo"])
    mine, theirs = context.Pipe(duplex=False)
    # Children have the method of this process, as those of a run have: loaders start workers by it.
    methods = multiprocessing.get_all_start_methods()
    method = multiprocessing.get_start_method(allow_none=True) or methods[0]
    process = context.Process(target=_be_trial, args=(trial, folder, theirs, method))
    _start(process, context.get_start_method())
    theirs.close()
    try:
        outcome: Outcome = mine.recv()
        process.join(_REST_S)  # a thread of a plugin may keep it
    except EOFError:
        process.join()
        outcome = Outcome(error=f"Its process ended by {_described(process.exitcode)}.")
    finally:
        process.kill()
        process.join()
    return outcome


def _start(process: Any, method: str) -> None:
    """Start ``process`` deaf to Ctrl-C: this one hears it, too, ends the other, and tells what there is."""
    if threading.current_thread() is not threading.main_thread():
        process.start()
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # processes inherit it
    try:
        if method == "forkserver":
            from multiprocessing import forkserver  # there is none on Windows

            forkserver.ensure_running()  # its forks inherit it, too, and waiting for one takes seconds
        else:
            process.start()
    finally:
        signal.signal(signal.SIGINT, before)
    if method == "forkserver":
        process.start()


def _described(exit_code: int) -> str:
    return signal.Signals(-exit_code).name if exit_code < 0 else f"exit code {exit_code}"


def _be_trial(trial: Trial, folder: Path, parent: Connection, start_method: str) -> None:
    multiprocessing.set_start_method(start_method, force=True)
    with open(os.devnull, "w") as nowhere:
        sys.stdout.flush()
        for descriptor in (1, 2):
            os.dup2(nowhere.fileno(), descriptor)
    outcome = Outcome()
    try:
        _train(trial, folder, outcome)
    except BaseException as error:
        outcome.error, outcome.is_explained = _message(error), isinstance(error, HooklineError)
    parent.send(outcome)
    parent.close()


def _message(error: BaseException) -> str:
    """Return what a person needs of ``error``: all of one of ours, type and place of another."""
    if isinstance(error, HooklineError):
        return "\n".join([str(error), *notes(error)])
    at = traceback.extract_tb(error.__traceback__)[-1]
    place = f"It was raised at {at.filename}:{at.lineno}."
    return "\n".join([f"{type(error).__name__}: {error}", place, *notes(error)])


def _train(trial: Trial, folder: Path, outcome: Outcome) -> None:
    config = load_config(
        trial.config, trial.overrides, also=lambda found: trainer_class(found).planned(found).problems
    )
    options = _options(config, trial.num_iters, folder)
    trainer = trainer_class(config)(_adapted(config, trial, folder, options))
    trainer.smoke = True  # evaluations of a few batches show as much
    outcome.plugins = list(_registered(trainer, config, options))
    watch = observe(trainer, trial.watched)
    trainer.hooks.watch(_Provided(trainer, outcome.providers))
    outcome.calls = watch.calls
    outcome.states[-1] = fingerprint(trainer)
    _record(trainer, outcome)
    try:
        trainer.train()
        outcome.end = fingerprint(trainer)
    finally:
        outcome.num_iters, outcome.status, outcome.reason = trainer.iter, trainer.status, trainer.reason
        outcome.changes = watch.changes


def _record(trainer: DefaultTrainer, outcome: Outcome) -> None:
    run_step = trainer.run_step

    def recorded() -> None:
        outcome.states[trainer.iter] = fingerprint(trainer)
        run_step()

    # Not by a hook of our own: it would take part in the order of the others.
    setattr(trainer, "run_step", recorded)  # noqa: B010


def _adapted(config: Config, trial: Trial, folder: Path, options: _Options) -> Config:
    """Return ``config`` for a short run that writes into ``folder`` alone, and has no writers."""
    return replace(
        config,
        run=replace(config.run, dir=str(folder)),
        train=replace(config.train, max_iter=trial.num_iters, stop_at=None),
        hooks=[
            replace(spec, options={**spec.options, **options[spec.name]})
            for spec in config.hooks
            if spec.name not in trial.off
        ],
        writers=[],
    )


def _options(config: Config, num_iters: int, folder: Path) -> _Options:
    """Return the options of each hook that a trial changes.

    A period in which nothing would be due becomes one that is due twice; what an observer writes beside the
    run's own directory goes into ``folder``, for a run of the user's may be there.
    """
    found: _Options = {}
    for plan in trainer_class(config).planned(config).hooks:
        changed = found[plan.name] = {}
        if plan.options.get("dir") is not None and _default(plan, "dir", "") is None:
            changed["dir"] = str(folder / "elsewhere" / plan.name)
        period = _period(plan)
        may_observe = getattr(plan.loaded.factory, "observer", True)
        if may_observe and (isinstance(period, Epochs) or (isinstance(period, int) and period > num_iters)):
            changed["period"] = max(num_iters // 2, 1)
    return found


def _period(plan: PlannedPlugin) -> Any:
    return plan.options.get("period", _default(plan, "period"))


def _default(plan: PlannedPlugin, name: str, missing: Any = None) -> Any:
    defaults = {option.name: option.default for option in describe_options(plan.loaded.options_of)}
    return defaults.get(name, missing)


def _registered(trainer: DefaultTrainer, config: Config, options: _Options) -> Iterator[Registered]:
    planned = {plan.name: plan for plan in trainer_class(config).planned(config).hooks}
    implemented = {hook: trainer.hooks.implements(hook) for hook in HOOK_NAMES}
    for name in trainer.hooks.names():
        period = None
        if name in planned and "period" in options[name]:
            period = (str(_period(planned[name])), options[name]["period"])
        yield Registered(
            name,
            trainer.hooks.sources[name],
            bool(getattr(trainer.hooks.get_plugin(name), "observer", False)),
            tuple(hook for hook, plugins in implemented.items() if name in plugins),
            name in planned,
            period,
        )


class _Provided:
    """Notes which plugin's call offered an evaluation or a way to save."""

    def __init__(self, trainer: DefaultTrainer, providers: set[str]) -> None:
        self._trainer, self._providers = trainer, providers

    @contextmanager
    def __call__(self, call: HookCall) -> Iterator[None]:
        before = self._offered()
        try:
            yield
        finally:
            if self._offered() != before:
                self._providers.add(call.plugin)

    def _offered(self) -> tuple[list[str], int]:
        return [*self._trainer.evaluations], id(self._trainer.checkpointer)
