"""One run of a few iterations in a process of its own, and what became of it, step by step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hookline.config import Config
from hookline.default import DefaultTrainer
from hookline.plan import PlannedPlugin
from hookline.plugins import HookCall
from hookline.plugins.lint import HOOK_NAMES
from hookline.purity import Change, fingerprint, observe
from hookline.verification.adapted import Options, adapted, changed_options, checked, period_of
from hookline.verification.apart import Ended, apart

__all__ = ["Outcome", "Registered", "Trial", "run"]


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
class Outcome(Ended):
    """What became of a trial.

    Attributes:
        plugins: Every hook plugin that took part, in call order; none if nothing could be built.
        states: A fingerprint of the trainer as it was built (at -1), then before each iteration's data.
        end: The fingerprint when all was over, by the number of iterations done; None if it was not reached.
        calls: How often each watched plugin's hooks were called.
        changes: What calls of watched plugins changed.
        providers: Plugins that others build upon: they offer an evaluation, or save checkpoints.
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


def run(trial: Trial, folder: Path) -> Outcome:
    """Run ``trial`` in a process that nothing ran in before, with its files in ``folder``."""
    return apart(_train, Outcome(), trial, folder)


def _train(trial: Trial, folder: Path, outcome: Outcome) -> None:
    config, build = checked(trial.config, trial.overrides)
    options = changed_options(config, trial.num_iters, _may_observe)
    trainer = build(adapted(config, folder, trial.num_iters, options, trial.off))
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


def _may_observe(plan: PlannedPlugin) -> bool:
    return bool(getattr(plan.loaded.factory, "observer", True))


def _registered(trainer: DefaultTrainer, config: Config, options: Options) -> Iterator[Registered]:
    planned = {plan.name: plan for plan in type(trainer).planned(config).hooks}
    implemented = {hook: trainer.hooks.implements(hook) for hook in HOOK_NAMES}
    for name in trainer.hooks.names():
        period = None
        if name in planned and "period" in options[name]:
            period = (str(period_of(planned[name])), options[name]["period"])
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
