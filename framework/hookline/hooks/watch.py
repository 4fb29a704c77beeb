"""The best value of one metric, for the hooks that act on it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from hookline.errors import PluginError, did_you_mean

__all__ = ["MetricWatch"]


class MetricWatch:
    """Remembers the best value of ``metric`` and when it was reached."""

    def __init__(self, metric: str, mode: Literal["min", "max"], min_delta: float = 0.0) -> None:
        self.metric, self.mode, self.min_delta = metric, mode, min_delta
        self.best: float | None = None
        self.best_iter: int | None = None

    def measured(self, plugin: str, metrics: Mapping[str, float]) -> bool:
        """Return whether the evaluation that gave ``metrics`` is the one that measures the metric.

        Raises:
            PluginError: If it should have, by the metric's prefix, and did not.
        """
        if self.metric in metrics:
            return True
        prefix = self.metric.partition("/")[0]
        if any(name.partition("/")[0] == prefix for name in metrics):
            raise PluginError(
                f"{plugin}.metric: expected a metric of the evaluation, got {self.metric!r}. "
                f"Measured: {', '.join(metrics)}. {did_you_mean(self.metric, metrics)}".rstrip()
            )
        return False

    def improved(self, plugin: str, metrics: Mapping[str, float], iteration: int) -> bool:
        """Take note of an evaluation; return whether it beats the best so far by more than ``min_delta``."""
        if not self.measured(plugin, metrics):
            return False
        value = metrics[self.metric]
        if math.isnan(value):
            return False
        if self.best is not None:
            gain = self.best - value if self.mode == "min" else value - self.best
            if not gain > self.min_delta:
                return False
        self.best, self.best_iter = value, iteration
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return the best value and its iteration."""
        return {"metric": self.metric, "mode": self.mode, "best": self.best, "best_iter": self.best_iter}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``, unless it is about another metric."""
        if (state["metric"], state["mode"]) == (self.metric, self.mode):
            self.best, self.best_iter = state["best"], state["best_iter"]
