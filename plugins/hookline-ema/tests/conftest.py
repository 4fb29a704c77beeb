from pathlib import Path

import pytest
import yaml

PROJECT = """
import torch
from torch import nn
from torch.utils.data import TensorDataset

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
        self.inner[2].weight = self.inner[0].weight

    def forward(self, batch):
        return (self.inner(batch[0]) - batch[1]).square().mean()

def points(num_points: int = 32):
    x = torch.linspace(-1, 1, 2 * num_points).reshape(-1, 2)
    return TensorDataset(x, 3 * x + 1)
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Return a function that writes ``run.yaml`` with some hooks, in a folder that has model and data."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(PROJECT)

    def write(*hooks, **train) -> Path:
        data = {"target": "./net.py:points", "loader": {"batch_size": 8}}
        config = {
            "run": {"name": "mine"},
            "model": {"target": "./net.py:Net"},
            "data": {"train": data, "eval": data},
            "optimizer": {"target": "torch.optim.SGD", "lr": 0.05, "momentum": 0.9},
            "train": {"max_iter": 12, "device": "cpu", "threads": 1, "log_period": 3, **train},
            "hooks": list(hooks),
        }
        (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
        return tmp_path / "run.yaml"

    return write
