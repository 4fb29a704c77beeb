"""What many tests need: one torch thread, a tiny model and data, and metadata read afresh."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import nn

from hookline import Loader, SimpleTrainer


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


class Line(nn.Module):
    """y = weight * x + bias, as a model of hookline's convention."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 1)

    def forward(self, batch):
        x, y = batch
        return (self.linear(x) - y).square().mean()


def points(num_points: int = 64) -> torch.utils.data.TensorDataset:
    x = torch.linspace(-1, 1, num_points).unsqueeze(1)
    return torch.utils.data.TensorDataset(x, 3 * x + 1)


@pytest.fixture
def no_pickle(monkeypatch):
    """Let every way to pickle or unpickle raise."""

    def forbidden(*args, **kwargs):
        raise AssertionError("pickle was used")

    for name in ("dump", "dumps", "load", "loads", "Pickler", "Unpickler"):
        monkeypatch.setattr(pickle, name, forbidden)
    for name in ("load", "save"):
        monkeypatch.setattr(torch, name, forbidden)


@pytest.fixture
def make_trainer():
    """Return a function that makes a tiny trainer with the given hooks registered."""

    def make(*hooks, model=None, lr=0.1, run_dir=None, **options):
        torch.manual_seed(0)
        model = model or Line()
        trainer = SimpleTrainer(
            model,
            Loader(points(), batch_size=8),
            torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9),
            **options,
        )
        trainer.run_dir = run_dir
        trainer.register_hooks(hooks)
        return trainer

    return make
