"""Measure the model on data that it does not learn from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hookline.config import Period, is_due
from hookline.errors import PluginError
from hookline.hookspecs import HookBase
from hookline.trainer import SimpleTrainer

__all__ = ["Evaluate"]


class Evaluate(HookBase):
    """Puts the losses and metrics on ``data`` every ``period`` iterations and when training ends.

    Their names begin with that of the data: ``eval/total_loss``. Enable it twice for two sets of data.

    Args:
        period: Evaluate every so many iterations; 0 only at the end.
        data: A key of the config's ``data`` section; in Python also an iterable of batches.
    """

    collective = True
    observer = True
    graph_safe = True

    def __init__(self, period: Period = 0, data: Any = "eval") -> None:
        self.period, self.data = period, data

    def before_train(self) -> None:
        """Offer the evaluation to the trainer."""
        self._simple_trainer().eval_data(self.data)  # what is missing is missed now, not after hours
        self.trainer.evaluations[self.name] = self.evaluate

    def after_step(self) -> None:
        """Request the evaluation when the period ends."""
        if is_due(self.trainer.iter, self.period):
            self.trainer.request_evaluation(self.name)

    def evaluate(self) -> Mapping[str, float]:
        """Return the metrics, by full name."""
        prefix = self.data if isinstance(self.data, str) else "eval"
        metrics = self._simple_trainer().evaluate(self.data)
        return {f"{prefix}/{name}": value for name, value in metrics.items()}

    def _simple_trainer(self) -> SimpleTrainer:
        if not isinstance(self.trainer, SimpleTrainer):
            raise PluginError(
                f"{self.name}: expected a SimpleTrainer, got {type(self.trainer).__name__}. "
                "Put a function of your own into trainer.evaluations, or remove the hook."
            )
        return self.trainer
