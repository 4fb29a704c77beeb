"""A project folder to train in, the command line in this process, and packages installed for one test."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

from hookline.cli import main
from hookline.inspection.wording import how_it_ended
from hookline.plugins import installed

from .forks import Forks

LINE = """
import torch
from torch import nn
from torch.utils.data import TensorDataset
from hookline import HookBase

class Line(nn.Module):
    def __init__(self, width: int = 1, dropout: float = 0.0):
        super().__init__()
        self.linear = nn.Linear(width, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, batch):
        x, y = batch
        return (self.linear(self.dropout(x)) - y).square().mean()

def points(num_points: int = 64):
    x = torch.linspace(-1, 1, num_points).unsqueeze(1)
    return TensorDataset(x, 3 * x + 1)

class Hello(HookBase):
    def __init__(self, period: int = 2):
        self.period = period

    def after_step(self):
        if (self.trainer.iter + 1) % self.period == 0:
            print(f"Hello after {self.trainer.iter + 1}")
"""

CONFIG = """
run: {name: line}
model: {target: ./line.py:Line}
data:
  train: {target: ./line.py:points, loader: {batch_size: 8}}
  eval: {target: ./line.py:points, num_points: 16, loader: {batch_size: 8}}
optimizer: {target: torch.optim.AdamW, lr: 0.05}
schedule: {target: hookline.schedules:Cosine, warmup_iters: 3}
train: {max_iter: 12, device: cpu, threads: 1, log_period: 3}
hooks:
  - evaluate: {period: 4}
  - checkpoint: {period: 5, keep: 3}
writers: [json]
"""


@dataclass
class Project:
    """A folder with ``run.yaml`` and ``line.py``, and the command line run inside it."""

    path: Path
    forks: Callable[[], Forks]

    def hookline(self, *arguments: str):
        """Run a command in this process; return click's result: exit_code, stdout, stderr."""
        return CliRunner().invoke(main, [str(argument) for argument in arguments])

    def run(self, *arguments: str, **options):
        """Run a command in a process of its own."""
        return subprocess.run(
            [sys.executable, "-m", "hookline", *arguments],
            cwd=self.path,
            capture_output=True,
            text=True,
            timeout=100,
            **options,
        )

    def fork(self, *arguments: str, **environment: str):
        """Run a command in a process that has torch, in a second less, and with more variables."""
        files = self.path / ".stdout", self.path / ".stderr"
        for file in files:
            file.write_text("")
        code = self.forks().run(["hookline", *arguments], self.path, {**os.environ, **environment}, *files)
        return subprocess.CompletedProcess(arguments, code, *(file.read_text() for file in files))

    def runs(self) -> list[Path]:
        """Return the run directories, oldest first."""
        return sorted(
            path for path in (self.path / "runs").glob("*/*") if path.is_dir() and not path.is_symlink()
        )


@pytest.fixture(scope="session")
def forks():
    started = Forks()
    yield started
    started.close()


@pytest.fixture
def forked_workers(forks, monkeypatch):
    """Fork the workers that import plugins; each would take seconds to import torch."""

    def worked(text, folder, deadline_s, environment):
        given = json.loads(text)
        variables = {**os.environ, "PYTHONPATH": os.pathsep.join(given["path"])}
        serve = ["hookline.inspection.worker:serve", json.dumps(given["request"])]
        return how_it_ended(forks.run(serve, Path.cwd(), variables))

    monkeypatch.setattr("hookline.inspection.probe._worked", worked)


@pytest.fixture
def project(request, tmp_path, monkeypatch):
    (tmp_path / "line.py").write_text(LINE)
    (tmp_path / "run.yaml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    logger = logging.getLogger("hookline")
    before = logger.handlers[:], logger.propagate, logger.level
    yield Project(tmp_path, lambda: request.getfixturevalue("forks"))
    logger.handlers, logger.propagate = before[0], before[1]
    logger.setLevel(before[2])
    # `hookline train` leaves it so, as its process ends then; others are started from this one.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Return a function that installs a distribution for one test: metadata and a module, no build."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)
    modules: set[str] = set()

    def install_distribution(name, code, *, hooks=(), writers=(), version="1.0", module=None):
        module = module or name.replace("-", "_")
        modules.add(module)
        if code is not None:
            (site / f"{module}.py").write_text(textwrap.dedent(code))
        info = site / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        points = [
            f"[hookline.{kind}]\n" + "\n".join(lines)
            for kind, lines in (("hooks", hooks), ("writers", writers))
            if lines
        ]
        (info / "entry_points.txt").write_text("\n".join(points))
        installed.cache_clear()

    yield install_distribution
    installed.cache_clear()
    for name in modules:
        sys.modules.pop(name, None)
