"""A trainer of your own: override the parts that should be different, keep the rest.

Run it: ``python examples/custom_trainer.py``. A config names such a class with
``trainer: {target: ./custom_trainer.py:LineTrainer}``.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import TensorDataset

from hookline import DefaultTrainer, Loader, get_event_storage


class Line(nn.Module):
    """A straight line that also reports how far off it is."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 1)

    def forward(self, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        x, y = batch
        error = self.linear(x) - y
        if self.training:
            get_event_storage().put_scalar("mean_error", error.detach().abs().mean())
        return error.square().mean()


class LineTrainer(DefaultTrainer):
    """Builds its model and data in code, so that its config holds only numbers."""

    def build_model(self) -> nn.Module:
        return Line()

    def build_train_loader(self) -> Loader:
        return Loader(self._dataset(256), batch_size=32, seed=self.config.run.seed)

    def build_eval_loader(self, name: str) -> Loader:
        return Loader(self._dataset(64), batch_size=64, shuffle=False)

    @staticmethod
    def _dataset(size: int) -> TensorDataset:
        x = torch.linspace(-1, 1, size).unsqueeze(1)
        return TensorDataset(x, 3 * x + 1)


CONFIG = {
    "run": {"name": "line"},
    "optimizer": {"target": "torch.optim.SGD", "lr": 0.1},
    "schedule": {"target": "hookline.schedules:Linear", "warmup_iters": 10},
    "train": {"max_iter": 200, "device": "cpu", "threads": 1},
    "hooks": [{"evaluate": {"period": 100}}, "checkpoint"],
    "writers": ["json"],
}

if __name__ == "__main__":
    LineTrainer(CONFIG).train()
