"""Bring events to the writers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from hookline import distributed
from hookline.delivery import Delivery
from hookline.errors import RunError
from hookline.events import EventWriter, Run
from hookline.hookspecs import HookBase

__all__ = ["PeriodicWriter"]


class PeriodicWriter(HookBase):
    """Gives every writer each event exactly once, on a thread of its own; on rank 0 only.

    Args:
        writers: Writers by instance name, or a list, named by their classes; by default the trainer's
            own (the config's ``writers`` section).
        run: What the writers are told of the run; by default it is made from the trainer.
        on_error: What to do with a writer that fails, by its name: ``retry``, ``disable`` or ``raise``.
        timeout_s: Longest time that one call of a writer may take, seconds.
    """

    observer = True
    graph_safe = True

    def __init__(
        self,
        writers: Any = None,
        run: Any = None,
        on_error: Any = None,
        timeout_s: Annotated[float, Field(gt=0)] = 10.0,
    ) -> None:
        if isinstance(writers, Sequence):
            writers = {type(writer).__name__: writer for writer in writers}
        self.writers: Mapping[str, EventWriter] | None = writers
        self.run: Run | None = run
        self._policies: Mapping[str, str] | None = on_error
        self.timeout_s = timeout_s
        self.delivery: Delivery | None = None
        self._saved: Mapping[str, Any] = {}

    def before_train(self) -> None:
        """Open every writer, on a resumed run where it stopped; one that cannot open ends the run."""
        trainer = self.trainer
        if self.writers is None:
            self.writers = getattr(trainer, "writers", {})
        if not self.writers or not distributed.is_main():
            return
        if self.delivery is not None:
            self._saved = self.delivery.state_dict()  # a second train goes on where the first one closed
        self.delivery = Delivery(
            trainer.storage,
            self.writers,
            self.run or self._run(),
            on_error=self._policies or getattr(trainer, "writer_policies", {}),
            periods=getattr(trainer, "writer_periods", {}),
            timeout_s=self.timeout_s,
        )
        if self._saved:
            self.delivery.load_state_dict(self._saved)
        self.delivery.open()
        trainer.deliveries.append(self.delivery)

    def state_dict(self) -> dict[str, Any]:
        """Return each writer's position and the events it has not acknowledged; waits for no writer."""
        return dict(self.delivery.state_dict()) if self.delivery is not None else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Keep the positions until the writers are opened."""
        self._saved = state

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
        )
