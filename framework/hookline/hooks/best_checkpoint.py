"""Keep the checkpoint with the best metric."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from hookline.errors import PluginError
from hookline.hooks.watch import MetricWatch
from hookline.hookspecs import HookBase

__all__ = ["BestCheckpoint"]


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

    def before_train(self) -> None:
        """Check that something will save."""
        hooks = self.trainer.hooks
        if (
            not any(hasattr(plugin, "save") for plugin in hooks.get_plugins())
            and not self.trainer.checkpointer
        ):
            raise PluginError(
                f"{self.name}: expected the hook 'checkpoint' beside it, got {', '.join(hooks.names())}. "
                "Add 'checkpoint' to hooks."
            )

    def after_evaluate(self, metrics: Mapping[str, float]) -> None:
        """Request a checkpoint if the metric improved."""
        if self.watch.improved(self.name, metrics, self.trainer.iter):
            self.trainer.request_checkpoint("best")

    def state_dict(self) -> dict[str, Any]:
        """Return the best value so far."""
        return self.watch.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from the best value so far."""
        self.watch.load_state_dict(state)
