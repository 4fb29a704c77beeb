"""Model, data and hooks of the job in run.yaml."""

from __future__ import annotations

import json
import os
import random
from importlib import import_module

import numpy as np
import torch
from torch import nn

from hookline import HookBase


class Net(nn.Module):
    """Has dropout and batch norm: a resume that forgets RNG or buffers shows in the weights."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(4, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.3), nn.Linear(width, 1)
        )

    def forward(self, batch):
        x, y = batch
        return (self.layers(x).squeeze(1) - y).square().mean()


class Points(torch.utils.data.Dataset):
    """Points with noise from NumPy's generator, drawn anew each time they are read."""

    def __init__(self, num_points: int, noise: float = 0.0) -> None:
        self.x = torch.linspace(-1, 1, 4 * num_points).reshape(num_points, 4).cos()
        self.noise = noise

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int):
        x = self.x[index]
        return x + self.noise * float(np.random.standard_normal()), x.sum()


class Draws(HookBase):
    """Keeps a state, and puts a number of Python's generator."""

    def __init__(self) -> None:
        self.total = 0.0

    def after_step(self) -> None:
        self.total += random.random()
        self.trainer.storage.put_scalar("draws", self.total)

    def state_dict(self):
        return {"total": self.total}

    def load_state_dict(self, state) -> None:
        self.total = state["total"]


class Acts(HookBase):
    """Does what the environment says, when it says: ``[[hook, iteration, "module:name", arguments], …]``.

    The iteration -1 is every one.
    """

    def before_train(self) -> None:
        self.acts = json.loads(os.environ.get("HOOKLINE_FAULTS_ACTS", "[]"))

    def before_step(self) -> None:
        self._act("before_step")

    def after_step(self) -> None:
        self._act("after_step")

    def after_save(self, path) -> None:
        self._act("after_save", path=path)

    def _act(self, now: str, **given) -> None:
        for hook, iteration, function, arguments in self.acts:
            if hook == now and iteration in (self.trainer.iter, -1):
                module, _, name = function.partition(":")
                getattr(import_module(module), name)(self.trainer, *arguments, **given)
