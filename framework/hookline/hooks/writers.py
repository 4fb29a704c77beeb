"""Bring events to the writers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any

from pydantic import Field

from hookline import distributed
from hookline.catalog import WRITERS, find, qualified_name
from hookline.config import Config
from hookline.config.instances import name_in
from hookline.delivery import Delivery, check_journals, left_out
from hookline.errors import PluginError, RunError
from hookline.events import EventWriter, Run
from hookline.hookspecs import HookBase
from hookline.plugins import lint_writer
from hookline.rundir import RunDir

__all__ = ["PeriodicWriter"]


class PeriodicWriter(HookBase):
    """Gives every writer each event exactly once, on a thread of its own; on rank 0 only.

    Args:
        writers: Writers by instance name, or a list, named by their classes and numbered; by default the
            trainer's own (the config's ``writers`` section).
        run: What the writers are told of the run; by default it is made from the trainer.
        policies: What to do with a writer that fails, by its name: ``retry``, ``disable`` or ``raise``.
        timeout_s: Longest time that one call of a writer may take, seconds.
    """

    observer = True
    graph_safe = True

    def __init__(
        self,
        writers: Any = None,
        run: Any = None,
        policies: Any = None,
        timeout_s: Annotated[float, Field(gt=0)] = 10.0,
    ) -> None:
        if isinstance(writers, Sequence):
            writers = _by_class(writers)
        if not isinstance(writers, Mapping | None):
            raise PluginError(
                f"writers: expected writers by name, or a list of them, got a {type(writers).__name__}. "
                "Put it in []."
            )
        self.writers: Mapping[str, EventWriter] | None = writers
        self.run: Run | None = run
        self._policies: Mapping[str, str] | None = policies
        self.timeout_s = timeout_s
        self.delivery: Delivery | None = None
        self._saved: Mapping[str, Any] = {}

    def before_train(self) -> None:
        """Open every writer, on a resumed run where it stopped; one that cannot open ends the run."""
        trainer = self.trainer
        if self.writers is None:
            self.writers = getattr(trainer, "writers", {})
        for name, writer in self.writers.items():
            self._check(name, writer)
        self._check_journals()
        if not distributed.is_main():
            return
        if not self.writers:
            self._saved = left_out(self._saved, (), trainer.start_iter)
            return
        if self.delivery is not None:
            self._saved = self.delivery.state_dict()  # a second train goes on where the first one closed
        self.delivery = Delivery(
            trainer.storage,
            self.writers,
            self.run or self._run(),
            on_error=self._policies or getattr(trainer, "writer_policies", {}),
            periods=getattr(trainer, "writer_periods", {}),
            uses=self._uses(),
            timeout_s=self.timeout_s,
            fence=self._fence(),
        )
        if self._saved:
            self.delivery.load_state_dict(self._saved)
        self.delivery.open()
        trainer.deliveries.append(self.delivery)

    def state_dict(self) -> dict[str, Any]:
        """Return each writer's position and the events it has not acknowledged; waits for no writer.

        Those of writers that are left out for now are among it.
        """
        return dict(self._saved if self.delivery is None else self.delivery.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Keep the positions until the writers are opened."""
        self._saved = state

    def _check(self, name: str, writer: EventWriter) -> None:
        """Check that ``writer`` is one, and that nobody else opens it and tells it of events."""
        if isinstance(writer, type):
            made = f"{writer.__name__}(…)"
            raise PluginError(f"writers.{name}: expected a writer, got the class of one. Give {made}.")
        lint_writer(writer, name, type(writer).__module__)
        for other in self.trainer.hooks.get_plugins():
            if other is self or not isinstance(other, PeriodicWriter):
                continue
            if any(writer is known for known in (other.writers or {}).values()):
                raise PluginError(
                    f"{self.name}: expected writers of its own, got {name!r}, which {other.name!r} has, too. "
                    "Remove one of the two, or give it other writers."
                )

    def _check_journals(self) -> None:
        """Check that there is one journal at most, also where another plugin brings writers of its own."""
        shared = getattr(self.trainer, "writers", {})
        plugins = [plugin for _, plugin in self.trainer.hooks.list_name_plugin()]
        lists = [
            shared if plugin.writers is None else plugin.writers
            for plugin in plugins
            if isinstance(plugin, PeriodicWriter)
        ]
        writers = {id(writer): (name, writer) for named in lists for name, writer in named.items()}
        check_journals(each for each in writers.values() if isinstance(each[1], EventWriter))

    def _uses(self) -> dict[str, str]:
        """Return what the config says that each writer is, as ``distribution:name``; a file's by its name."""
        config = getattr(self.trainer, "config", None)
        if not isinstance(config, Config) or self.writers is not getattr(self.trainer, "writers", None):
            return {}
        return {
            spec.name: name_in(spec.use)
            if ".py:" in spec.use
            else qualified_name(find(spec.use, WRITERS, f"writers.{spec.name}"))
            for spec in config.writers
        }

    def _fence(self) -> Callable[[], None] | None:
        """Return what raises when a later process has taken over the run directory."""
        run_dir, generation = self.trainer.run_dir, self.trainer.generation
        if run_dir is None or generation == 0:
            return None
        return partial(RunDir(run_dir).check_generation, generation)

    def _run(self) -> Run:
        trainer = self.trainer
        if trainer.run_dir is None:
            raise RunError(
                f"{self.name}: expected a folder for the writers' files, got a trainer without run_dir. "
                "Set trainer.run_dir, or give PeriodicWriter a Run."
            )
        config = getattr(trainer, "config", None)
        return Run(
            dir=trainer.run_dir,
            name=config.run.name if config is not None else trainer.run_dir.name,
            id=trainer.run_dir.name,
            config=config.to_dict() if config is not None else {},
            start_iter=trainer.start_iter,
            period=trainer.log_period,
            generation=trainer.generation,
        )


def _by_class(writers: Sequence[EventWriter]) -> dict[str, EventWriter]:
    named: dict[str, EventWriter] = {}
    for writer in writers:
        first = (writer if isinstance(writer, type) else type(writer)).__name__
        names = itertools.chain([first], (f"{first}-{number}" for number in itertools.count(2)))
        named[next(name for name in names if name not in named)] = writer
    return named
