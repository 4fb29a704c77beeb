"""Save the run periodically and at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, wait
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from hookline import checkpoint as store
from hookline import distributed
from hookline.config import Period, is_due
from hookline.config.rules import Rule
from hookline.errors import CheckpointError, RunError
from hookline.hookspecs import HookBase
from hookline.rundir import RunDir
from hookline.runs import link_checkpoints

__all__ = ["Checkpoint"]


def _keep(value: Any) -> int:
    if type(value) is not int:
        raise ValueError
    try:
        store.check_keep(value)
    except CheckpointError as error:
        raise ValueError("One alone is no way back when it turns out to be damaged") from error
    return value


_KEEP = Rule(store.KEEP_RULE, _keep, {"type": "integer", "minimum": 0, "not": {"const": 1}})


class Checkpoint(HookBase):
    """Saves everything a resume needs, every ``period`` iterations and whenever the run ends well.

    Args:
        period: Save every so many iterations; 0 saves only at the end and on request.
        keep: How many to keep, the newest that are undamaged, at least 2; what ``latest`` and ``best`` point
            to is always kept. 0 keeps all.
        dir: Where, by default in the run directory: a run has ``<dir>/<run name>/<run id>`` for itself, and a
            link to it, ``checkpoints``.
        background: Write beside training, which stops only while the state is copied to the host's memory.
    """

    collective = True
    observer = True
    graph_safe = True

    def __init__(
        self,
        period: Period = 0,
        keep: Annotated[int, _KEEP] = 3,
        dir: str | None = None,
        background: bool = False,
    ) -> None:
        store.check_keep(keep)
        self.period, self.keep, self.dir, self.background = period, keep, dir, background
        self._ledger = store.Ledger()
        self._to_host = store.HostCopy() if background else None
        self._writing: Future[Path] | None = None

    @property
    def root(self) -> Path:
        """The folder that holds the checkpoints; in a run directory it may be a link."""
        if self.trainer.run_dir is not None:
            return RunDir(self.trainer.run_dir).checkpoints
        if self.dir is None:
            raise RunError(
                f"{self.name}: expected a folder for checkpoints, got a trainer without a run directory. "
                "Set the option 'dir', or trainer.run_dir."
            )
        return Path(self.dir)

    def before_train(self) -> None:
        """Offer to save what any hook requests; see that the disk takes it."""
        root = self.root
        if distributed.is_main():
            if self.trainer.run_dir is not None and self.dir is not None:
                link_checkpoints(RunDir(self.trainer.run_dir.absolute()), Path(self.dir), self.name)
            store.check_writable(root)
        self.trainer.checkpointer = self

    def after_step(self) -> None:
        """Request a checkpoint when the period ends; at the end of the run the trainer saves by itself."""
        if is_due(self.trainer.iter, self.period):
            self.trainer.request_checkpoint()

    def check(self, state: Mapping[str, Any]) -> None:
        """Raise the error that `save` would, if a checkpoint cannot hold ``state``."""
        store.check_state(state)

    def save(self, iteration: int, state: Mapping[str, Any], tags: Sequence[str]) -> Path | Future[Path]:
        """Write ``state`` durably, point ``tags`` to it, and delete what is not to be kept.

        Returns where, or with ``background`` a future of that, as soon as ``state`` is copied. Waits until
        the one before is written.
        """
        if self._writing is not None:
            wait([self._writing])  # it needs the copies; its error is told by its own future
        generation = self.trainer.generation
        snapshot = store.snapshot(iteration, state, generation=generation, to_host=self._to_host)
        write = partial(self._write, self.root, snapshot, tags, self._fence())
        if not self.background:
            return write()
        self._writing = store.in_background(write)
        return self._writing

    def _write(self, root: Path, snapshot: store.Snapshot, tags: Sequence[str], fence: store.Fence) -> Path:
        path = store.write(root, snapshot, fence=fence, ledger=self._ledger)
        for tag in tags:
            fence()
            store.write_pointer(root, tag, path)
        store.retain(root, self.keep, fence=fence, ledger=self._ledger)
        return path

    def _fence(self) -> store.Fence:
        """Return what keeps this process from writing after another one has taken over its run."""
        run_dir, generation = self.trainer.run_dir, self.trainer.generation
        if run_dir is None or generation == 0:
            return store.no_fence
        return partial(RunDir(run_dir).check_generation, generation)
