"""Keep the checkpoint with the best metric."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Literal

from hookline import checkpoint, distributed
from hookline.errors import PluginError
from hookline.hooks.checkpoint import Checkpoint
from hookline.hooks.watch import MetricWatch
from hookline.hookspecs import HookBase, hookimpl

__all__ = ["BestCheckpoint"]

_log = logging.getLogger(__name__)


class BestCheckpoint(HookBase):
    """Saves after each evaluation that improves ``metric``, and lets ``checkpoints/best`` point to it.

    Args:
        metric: The metric's full name, such as ``eval/total_loss``.
        mode: Whether a ``min`` or a ``max`` is best; equal is no improvement, NaN never is.
    """

    observer = True
    graph_safe = True

    def __init__(self, metric: str = "eval/total_loss", mode: Literal["min", "max"] = "min") -> None:
        self.watch = MetricWatch(metric, mode)

    @hookimpl(trylast=True)
    def before_train(self) -> None:
        """Check that something saves, and let ``best`` point to the best so far.

        It may not: the run goes back to before what it pointed to, or was killed between two files.
        """
        saves = self.trainer.checkpointer
        if not saves:
            raise PluginError(
                f"{self.name}: expected the hook 'checkpoint' beside it, "
                f"got {', '.join(self.trainer.hooks.names())}. Add 'checkpoint' to hooks."
            )
        self.watch.check(self)
        best_iter = self.watch.best_iter
        if best_iter is not None and isinstance(saves, Checkpoint) and distributed.is_main():
            checkpoint.advance_pointer(saves.root, "best", best_iter)
            if checkpoint.read_pointer(saves.root, "best") is None:
                _log.warning(
                    "%s: the checkpoint of iteration %d, the best so far, is not there any more: "
                    "checkpoints/best comes with the next that is better.",
                    self.name,
                    best_iter,
                )

    def after_evaluate(self, name: str, metrics: Mapping[str, float]) -> None:
        """Request a checkpoint if the metric improved."""
        if self.watch.measured(self, name, metrics) and self.watch.improved(metrics, self.trainer.iter):
            self.trainer.request_checkpoint("best")

    def state_dict(self) -> dict[str, Any]:
        """Return the best value so far."""
        return self.watch.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from the best value so far."""
        self.watch.load_state_dict(state)
