"""Save the run periodically and at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from hookline import checkpoint as store
from hookline.config import Period, is_due
from hookline.errors import RunError
from hookline.hookspecs import HookBase

__all__ = ["Checkpoint"]


class Checkpoint(HookBase):
    """Saves everything a resume needs, every ``period`` iterations and whenever the run ends well.

    Args:
        period: Save every so many iterations; 0 saves only at the end and on request.
        keep: How many to keep, the newest; what ``latest`` and ``best`` point to is always kept. 0 keeps all.
        dir: Where; by default ``checkpoints`` in the run directory.
    """

    collective = True
    observer = True
    graph_safe = True

    def __init__(
        self, period: Period = 0, keep: Annotated[int, Field(ge=0)] = 3, dir: str | None = None
    ) -> None:
        self.period, self.keep, self.dir = period, keep, dir

    @property
    def root(self) -> Path:
        """The folder that holds the checkpoints."""
        if self.dir is not None:
            return Path(self.dir)
        if self.trainer.run_dir is None:
            raise RunError(
                f"{self.name}: expected a folder for checkpoints, got a trainer without a run directory. "
                "Set the option 'dir', or trainer.run_dir."
            )
        return self.trainer.run_dir / "checkpoints"

    def before_train(self) -> None:
        """Offer to save what any hook requests."""
        self.root.mkdir(parents=True, exist_ok=True)
        self.trainer.checkpointer = self

    def after_step(self) -> None:
        """Request a checkpoint when the period ends; at the end of the run the trainer saves by itself."""
        if is_due(self.trainer.iter, self.period):
            self.trainer.request_checkpoint()

    def save(self, iteration: int, state: Mapping[str, Any], tags: Sequence[str]) -> Path:
        """Write ``state`` durably, point ``tags`` to it, and delete what is not to be kept."""
        path = store.save(self.root, iteration, state)
        for tag in tags:
            store.write_pointer(self.root, tag, path)
        if self.keep:
            store.retain(self.root, self.keep)
        return path
