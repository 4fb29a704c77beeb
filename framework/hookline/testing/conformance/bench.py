"""Short runs with the plugin that is checked, and what became of each."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from hookline import checkpoint, distributed
from hookline.errors import RunError
from hookline.events import Events
from hookline.hooks import Checkpoint, Evaluate
from hookline.hookspecs import HookBase
from hookline.purity import Records, differences, fingerprint, records_of
from hookline.purity.digests import digests
from hookline.testing.conformance.settings import kept_settings
from hookline.testing.conformance.subject import Subject
from hookline.testing.tiny import seed_all
from hookline.trainer import SimpleTrainer

__all__ = ["Bench", "Outcome", "Records", "record_difference", "training_difference"]

Prepare = Callable[[SimpleTrainer], None]

_EVALUATION_PERIOD = 4
_CHECKPOINT_PERIOD = 6
# How far a run got, and the batches that it holds, are not what the next iteration depends on.
_NO_STATE = ("trainer/", "data/batches")


@dataclass
class Outcome:
    """What became of a run.

    Attributes:
        num_iters: Iterations done.
        parts: Digests of all that decides how training would go on, by part.
        records: What was put; volatile scalars left out.
        states: Digests of what is in the state of each instance of the plugin, by instance name and path.
        checkpoint: The last one that was saved.
        measured: Names of the scalars that evaluations put.
    """

    num_iters: int = 0
    status: str = ""
    parts: dict[str, str] = field(default_factory=dict)
    records: Records = field(default_factory=dict)
    states: dict[str, dict[str, str]] = field(default_factory=dict)
    checkpoint: Path | None = None
    measured: set[str] = field(default_factory=set)


class _Kit(HookBase):
    """Takes note of the last checkpoint, and of the names of what evaluations measure."""

    observer = True

    def __init__(self) -> None:
        self.path: Path | None = None
        self.measured: set[str] = set()

    def after_save(self, path: Path) -> None:
        self.path = path

    def after_evaluate(self, metrics: Mapping[str, float]) -> None:
        self.measured.update(metrics)


class Bench:
    """Runs a hook plugin beside an evaluation and checkpoints.

    Args:
        subject: The plugin.
        trainer: Makes a trainer of `tiny_trainer`'s keyword arguments.
        max_iter: How long a run is.
        folder: Where run directories are made.
    """

    def __init__(self, subject: Subject, trainer: Callable[..., Any], max_iter: int, folder: Path) -> None:
        self.subject, self.trainer, self.max_iter, self.folder = subject, trainer, max_iter, folder
        self._numbers = itertools.count()

    @property
    def name(self) -> str:
        """The instance name of the plugin; a second instance has ``-2`` after it."""
        return self.subject.name

    @cached_property
    def whole(self) -> Outcome:
        """A run from begin to end."""
        return self.run()

    @cached_property
    def again(self) -> Outcome:
        """The same once more."""
        return self.run()

    @cached_property
    def without(self) -> Outcome:
        """The same without the plugin; it ends where the plugin ended its own."""
        return self.run(copies=0, stop_at=self.whole.num_iters if self.is_ended else None)

    @property
    def is_ended(self) -> bool:
        """Whether the plugin ends a run before its last iteration."""
        return self.whole.num_iters < self.max_iter

    @property
    def is_pure(self) -> bool:
        """Whether a run with the plugin ends with the same training state as one without it."""
        return not training_difference(self.without, self.whole)

    def run(
        self,
        copies: int = 1,
        *,
        stop_at: int | None = None,
        resume: Path | None = None,
        prepare: Prepare = lambda trainer: None,
        **options: Any,
    ) -> Outcome:
        """Train, and return what became of it; settings of torch are then as they were.

        Args:
            copies: How many instances of the plugin take part.
            stop_at: Pause when so many iterations are done.
            resume: The checkpoint to go on from.
            prepare: Called with the trainer before the run.
            options: Of the trainer.
        """
        with kept_settings():
            return self._run(copies, stop_at, resume, prepare, options)

    def _run(
        self,
        copies: int,
        stop_at: int | None,
        resume: Path | None,
        prepare: Prepare,
        options: Mapping[str, Any],
    ) -> Outcome:
        run_dir = self.folder / f"run-{next(self._numbers)}"
        seed_all(distributed.rank())  # a trainer of the author's own may not
        trainer: SimpleTrainer = self.trainer(run_dir=run_dir, max_iter=self.max_iter, **options)
        kit = _Kit()
        self._register(trainer, {"kit": kit})
        # As in a run, after the trainer is made: what they draw in __init__ shows in the training.
        plugins = {self.name + (f"-{i + 1}" if i else ""): self.subject.new() for i in range(copies)}
        for name, plugin in plugins.items():
            trainer.register_hook(plugin, name)
        trainer.stop_at = stop_at
        events: list[Events] = []
        prepare(trainer)
        if resume is not None:
            trainer.load_state_dict(checkpoint.load(resume))
            trainer.hooks.call("after_load", trainer=trainer, path=resume)
        trainer.storage.attach(events.extend)
        trainer.train(trainer.iter, self.max_iter)
        return Outcome(
            trainer.iter,
            trainer.status,
            {part: d for part, d in fingerprint(trainer).items() if not part.startswith(_NO_STATE)},
            records_of(events),
            {name: _state_digests(plugin) for name, plugin in plugins.items()},
            kit.path,
            kit.measured,
        )

    def _register(self, trainer: SimpleTrainer, plugins: Mapping[str, Any]) -> None:
        """Register what a real run has, so that every hook is called, unless the trainer has it."""
        beside = {"evaluate": Evaluate(_EVALUATION_PERIOD), "checkpoint": Checkpoint(_CHECKPOINT_PERIOD)}
        try:
            trainer.eval_data("eval")
        except RunError:  # a trainer of the author's own, without names
            del beside["evaluate"]
        for name, plugin in {**beside, **plugins}.items():
            if name not in trainer.hooks.names():
                trainer.register_hook(plugin, name)


def training_difference(first: Outcome, second: Outcome) -> tuple[str, ...]:
    """Return the parts that decide how training goes on and are not the same to the bit."""
    return differences(first.parts, second.parts)


def record_difference(wanted: Records, got: Records) -> str:
    """Return the first record that is not the same in both, in words; nothing when all are."""
    for key in sorted({*wanted, *got}):
        iteration, kind, name = key
        values = [repr(each.get(key, "nothing")) for each in (got, wanted)]
        if values[0] == values[1]:
            continue
        if kind != "scalar":
            which = "another" if key in wanted and key in got else "an additional" if key in got else "no"
            return f"{which} {kind} {name!r} of iteration {iteration}"
        found, expected = (value.strip("'") for value in values)
        return f"{found} as {name!r} of iteration {iteration} instead of {expected}"
    return ""


def _state_digests(plugin: Any) -> dict[str, str]:
    if not (hasattr(plugin, "state_dict") and hasattr(plugin, "load_state_dict")):
        return {}
    return digests(dict(_leaves(plugin.state_dict(), "")))


def _leaves(state: Any, path: str) -> Any:
    if isinstance(state, Mapping):
        items: Any = state.items()
    elif isinstance(state, (list, tuple)):
        items = enumerate(state)
    else:
        yield path, state
        return
    yield f"{path}/", len(state)
    for key, value in items:
        yield from _leaves(value, f"{path}.{key}".lstrip("."))
