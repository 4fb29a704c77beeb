"""A model of a few numbers, its data, and a hook that makes trouble on one rank of two."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import torch
from torch import nn

from hookline import EventWriter, HookBase

CHILDREN = Path("/proc/self/task")


class Line(nn.Module):
    def __init__(self, plain: bool = False) -> None:
        super().__init__()
        # What a resume must restore besides weights: statistics that differ by rank, and random numbers.
        self.noise = nn.Identity() if plain else nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(0.2))
        self.linear = nn.Linear(2, 1)

    def forward(self, batch):
        x, y = batch
        loss = (self.linear(self.noise(x)).squeeze(1) - y).square().mean()
        return {"loss": loss, "num_items": len(x)}


class Points(torch.utils.data.Dataset):
    """Points on a plane; each rank waits for a batch as many times ``slow_s`` as its number says, plus one."""

    def __init__(self, num_points: int = 64, slow_s: float = 0.0) -> None:
        self.x = torch.linspace(-1, 1, 2 * num_points).reshape(num_points, 2)
        self.slow_s = slow_s * (1 + int(os.environ.get("RANK", 0)))

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index], self.x[index].sum()

    def get_batch(self, indices):
        time.sleep(self.slow_s)
        return self.x[indices], self.x[indices].sum(1)


class Trouble(HookBase):
    """On rank 1, at iteration 3: an error, a NaN, a wish to stop, or a signal, by its name.

    Who torchrun has started anew makes none.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def before_train(self) -> None:
        with (self.trainer.run_dir / "pids").open("a") as file:
            print(os.getpid(), file=file)

    def before_step(self) -> None:
        restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        if self.trainer.iter != 3 or os.environ["RANK"] != "1" or restarts != "0":
            return
        if self.kind == "error":
            raise KeyError("no such sample")
        if self.kind == "nan":
            nan = torch.full((4, 2), torch.nan), torch.zeros(4)
            self.trainer.reset_data_loader(lambda: [nan])
        elif self.kind == "stop":
            self.trainer.request_stop("rank 1 has had enough")
        else:
            # As SLURM does: data workers get it, too, and not from their run, which may end them.
            children = [pid for path in CHILDREN.glob("*/children") for pid in path.read_text().split()]
            subprocess.run(["kill", "-s", self.kind.removeprefix("SIG"), *children, str(os.getpid())])
            os.killpg(0, signal.Signals[self.kind])  # as torchrun does

    def after_step(self) -> None:
        if self.kind == "nan" and self.trainer.iter == 3 and os.environ["RANK"] == "0":
            time.sleep(0.3)  # rank 1 is the first to see it

    def on_error(self, error: BaseException) -> None:
        """Leave what this rank ended of, with which weights, and as which holder of the run directory."""
        rank = os.environ["RANK"]
        found = {"error": type(error).__name__, "weights": self.trainer.model.state_dict()}
        found["generation"] = self.trainer.generation
        torch.save(found, self.trainer.run_dir / f"rank{rank}.pt")


class LateSignal(EventWriter):
    """Sends SIGTERM to its own process when the run has ended and its summary is being written."""

    def write(self, events) -> None:
        pass

    def view_command(self) -> str:
        os.kill(os.getpid(), signal.SIGTERM)
        return "cat summary.json"
