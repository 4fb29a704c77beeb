"""End a run that does not get better any more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from hookline.hooks.watch import MetricWatch
from hookline.hookspecs import HookBase, hookimpl

__all__ = ["EarlyStopping"]


class EarlyStopping(HookBase):
    """Stops the run when ``metric`` has not improved in ``patience`` evaluations in a row.

    Args:
        metric: The metric's full name, such as ``eval/total_loss``.
        mode: Whether a ``min`` or a ``max`` is best; NaN is no improvement.
        patience: Evaluations without improvement that are waited for.
        min_delta: Smallest change that counts as an improvement.
    """

    observer = True
    graph_safe = True

    def __init__(
        self,
        metric: str = "eval/total_loss",
        mode: Literal["min", "max"] = "min",
        patience: Annotated[int, Field(ge=1)] = 5,
        min_delta: Annotated[float, Field(ge=0)] = 0.0,
    ) -> None:
        self.patience = patience
        self.watch = MetricWatch(metric, mode, min_delta)
        self.num_bad = 0

    @hookimpl(trylast=True)
    def before_train(self) -> None:
        """Check that something is evaluated."""
        self.watch.check(self)

    def after_evaluate(self, name: str, metrics: Mapping[str, float]) -> None:
        """Count evaluations without improvement."""
        if not self.watch.measured(self, name, metrics):
            return
        if self.watch.improved(metrics, self.trainer.iter):
            self.num_bad = 0
            return
        self.num_bad += 1
        if self.num_bad >= self.patience:
            self.trainer.request_stop(
                f"{self.watch.metric} has not improved in {self.num_bad} evaluations; "
                f"best {self.watch.best} at iteration {self.watch.best_iter}"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the best value and the count since."""
        return {**self.watch.state_dict(), "num_bad": self.num_bad}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on counting."""
        self.watch.load_state_dict(state)
        self.num_bad = state["num_bad"]
