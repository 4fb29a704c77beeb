"""When a trainer saves: what was asked for, the one that is being written, and who is told of it."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from hookline import distributed
from hookline.checkpoint import rng
from hookline.errors import PluginError
from hookline.trainer.ending import Status

if TYPE_CHECKING:
    from hookline.trainer.base import TrainerBase

__all__ = ["Saving"]


class Saving:
    """The checkpoints of a trainer; one is written at a time.

    Attributes:
        is_due: Whether one was asked for in this iteration.
        under_way: What becomes of the one that is written beside training.
    """

    def __init__(self) -> None:
        self.under_way: Future[Path] | None = None
        self.reset()

    def reset(self) -> None:
        """Forget what was asked for."""
        self.is_due = False
        self._tags: list[str] = []

    def request(self, tag: str | None) -> None:
        """Ask for one at the end of this iteration, and for ``tag`` to point to it."""
        self.is_due = True
        if tag is not None:
            self._tags.append(tag)

    def check(self, trainer: TrainerBase) -> None:
        """Find what a checkpoint cannot hold after one iteration of a run, and not hours later.

        A run that goes on asks nobody for a state that it would not ask for without the break.
        """
        check = getattr(trainer.checkpointer, "check", None)
        if check is not None and trainer.start_iter == 0:
            trainer.accept(trainer.storage.drain())
            with rng.forked_rng():
                state = trainer.state_dict()
            if distributed.is_main():
                check(state)

    def save(self, trainer: TrainerBase, ending: Status | None) -> None:
        """Write a checkpoint, if there is something that writes; every rank takes part.

        That of a stopped run says so: who is killed after it has nothing left to do but to end.

        Puts how long the iteration stopped for it, ``checkpoint_stall_s``, in the next one, if there is one.
        """
        tags = self._tags
        self.reset()
        if trainer.checkpointer is None:
            return
        start = perf_counter()
        self.finish(trainer, wait=True)
        with trainer.hooks.timed(_saver(trainer), "save"):
            trainer.accept(trainer.storage.drain())
            with rng.forked_rng():
                state = trainer.state_dict()
            if ending == "stopped":
                state["trainer"]["stopped"] = trainer.reason
            saved = trainer.checkpointer.save(trainer.iter, state, tags) if distributed.is_main() else None
        if isinstance(saved, Future):
            self.under_way = saved
        elif saved is not None:
            _tell(trainer, saved)
        if ending is not None:
            self.finish(trainer, wait=True)
        else:
            trainer.storage.put_timings({"checkpoint_stall_s": perf_counter() - start})

    def finish(self, trainer: TrainerBase, *, wait: bool) -> None:
        """Tell plugins of a checkpoint that has become durable, or raise what its thread did."""
        saving = self.under_way
        if saving is not None and (wait or saving.done()):
            self.under_way = None
            with trainer.hooks.timed(_saver(trainer), "save"):
                path = saving.result()
            _tell(trainer, path)


def _tell(trainer: TrainerBase, path: Path) -> None:
    """Call ``after_save``, of which nothing that is saved may depend: a resumed run does not call it."""
    before = trainer.storage.lasting()
    with rng.forked_rng():
        trainer.hooks.call("after_save", weight=1, trainer=trainer, path=path)
    if names := trainer.storage.lasting() - before:
        raise PluginError(
            f"after_save: expected nothing put but with volatile=True, got {', '.join(sorted(names))}. "
            "A run that goes on from this checkpoint would lack it. Put it in after_step."
        )


def _saver(trainer: TrainerBase) -> str:
    return getattr(trainer.checkpointer, "name", "") or type(trainer.checkpointer).__name__
