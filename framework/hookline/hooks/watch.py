"""The best value of one metric, for the hooks that act on it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import chain
from typing import Any, Literal

from hookline.errors import PluginError, did_you_mean
from hookline.hookspecs import HookBase

__all__ = ["MetricWatch"]


class MetricWatch:
    """Remembers the best value of ``metric`` and when it was reached."""

    def __init__(self, metric: str, mode: Literal["min", "max"], min_delta: float = 0.0) -> None:
        self.metric, self.mode, self.min_delta = metric, mode, min_delta
        self.best: float | None = None
        self.best_iter: int | None = None
        self._is_measured = False
        self._others: dict[str, Mapping[str, float]] = {}

    def check(self, hook: HookBase) -> None:
        """Raise a `PluginError` if nothing is evaluated in the run of ``hook``, known after before_train."""
        if not hook.trainer.evaluations:
            raise PluginError(
                f"{hook.name}: expected an evaluation that measures {self.metric!r}, got a run without any. "
                "Add 'evaluate' to hooks."
            )

    def measured(self, hook: HookBase, evaluation: str, metrics: Mapping[str, float]) -> bool:
        """Return whether ``evaluation``, which gave ``metrics``, is one that measures the metric.

        Raises:
            PluginError: If it should have, by the metric's prefix, and did not, or none of the run does.
        """
        if self.metric in metrics:
            self._is_measured = True
            return True
        self._others[evaluation] = metrics
        prefix = self.metric.partition("/")[0]
        is_its_own = any(name.partition("/")[0] == prefix for name in metrics)
        is_last = not self._is_measured and hook.trainer.evaluations.keys() <= self._others.keys()
        if is_its_own or is_last:
            found = list(metrics if is_its_own else chain(*self._others.values()))
            raise PluginError(
                f"{hook.name}.metric: expected a metric of the evaluation, got {self.metric!r}. "
                f"Measured: {', '.join(found)}. {did_you_mean(self.metric, found)}".rstrip()
            )
        return False

    def improved(self, metrics: Mapping[str, float], iteration: int) -> bool:
        """Take note of what was measured; return whether it beats the best by more than ``min_delta``."""
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
