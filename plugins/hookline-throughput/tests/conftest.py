from pathlib import Path

import pytest
import yaml

PROJECT = """
from torch import nn, linspace
from torch.utils.data import TensorDataset

class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(1, 1)

    def forward(self, batch):
        return (self.linear(batch[0]) - batch[1]).square().mean()

def points(num_points: int = 32):
    x = linspace(-1, 1, num_points).unsqueeze(1)
    return TensorDataset(x, 3 * x + 1)
"""


class Project:
    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "line.py").write_text(PROJECT)

    def __call__(self, *hooks) -> Path:
        """Write ``run.yaml`` with these hooks, and return its path."""
        config = {
            "run": {"name": "mine"},
            "model": {"target": "./line.py:Line"},
            "data": {"train": {"target": "./line.py:points", "loader": {"batch_size": 8}}},
            "optimizer": {"target": "torch.optim.SGD", "lr": 0.05},
            "train": {"max_iter": 8, "device": "cpu", "threads": 1, "log_period": 3},
            "hooks": list(hooks),
            "writers": ["json"],
        }
        (self.path / "run.yaml").write_text(yaml.safe_dump(config))
        return self.path / "run.yaml"


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Project(tmp_path)
