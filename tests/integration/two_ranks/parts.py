"""A model of eleven numbers, its data, and hooks that make trouble on one of two ranks."""

from __future__ import annotations

import os
import time

import torch
from torch import nn

from hookline import HookBase


class Line(nn.Module):
    """Batch norm and dropout besides: both must survive a resume to the bit."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2)
        self.dropout = nn.Dropout(0.2)
        self.linear = nn.Linear(2, 1)

    def forward(self, batch):
        x, y = batch
        return (self.linear(self.dropout(self.norm(x))).squeeze(1) - y).square().mean()


class Points(torch.utils.data.Dataset):
    def __init__(self, num_points: int = 60, slow_s: float = 0.0) -> None:
        self.x = torch.linspace(-1, 1, 2 * num_points).reshape(num_points, 2)
        self.slow_s = slow_s

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index):
        raise NotImplementedError("batches are made by get_batch")

    def get_batch(self, indices):
        time.sleep(self.slow_s)
        return self.x[indices], self.x[indices].sum(1)


class Trouble(HookBase):
    """On one rank, before one iteration: an error, a NaN, a wish to stop, a signal to itself."""

    def __init__(self, kind: str, rank: int = 1, at: int = 3) -> None:
        self.kind, self.rank, self.at = kind, rank, at

    def before_step(self) -> None:
        trainer = self.trainer
        if trainer.iter != self.at or int(os.environ["RANK"]) != self.rank:
            return
        if self.kind == "error":
            raise KeyError("no such sample")
        if self.kind == "nan":
            trainer.data_loader = [(torch.full((4, 2), torch.nan), torch.zeros(4))]
            trainer._batches = None
        if self.kind == "stop":
            trainer.request_stop("enough is enough")
        if self.kind.startswith("SIG"):
            import signal

            os.kill(os.getpid(), signal.Signals[self.kind])
