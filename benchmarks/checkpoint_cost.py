"""What checkpoints cost: as a share of the main job's run time, and as a stall over the bare copy.

    python -m benchmarks.checkpoint_cost

Prints the numbers and writes them to ``benchmarks/results/checkpoint_cost.json``. Takes some minutes. Every
number is a ratio of two times in one process, as the machine's speed changes from one minute to the next.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
from datetime import date
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter, thread_time

import torch
from torch import nn
from torch.utils.data import TensorDataset

from hookline import HookBase, Loader, SimpleTrainer
from hookline.hooks import Checkpoint

__all__ = ["main_job", "stall_over_copy"]

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "checkpoint_cost.json"

_NUM_LAYERS = 12
_WIDTHS = {
    1024: 40,
    2048: 20,
}  # 50 and 201 MB of float32 weights, thrice that with AdamW's state; saves of each


def main_job(*overrides: str) -> dict[str, float]:
    """Return what checkpoints took of a run of ``examples/char_gpt/config.yaml``, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        config = ROOT / "examples" / "char_gpt" / "config.yaml"
        command = [sys.executable, "-m", "hookline", "train", str(config), f"run.dir={folder}", *overrides]
        subprocess.run(command, check=True, capture_output=True, cwd=folder)
        (summary,) = Path(folder).glob("char-gpt/2*/summary.json")
        data = json.loads(summary.read_text())
        checkpoint_s = sum(data["hook_seconds"]["checkpoint"].values())
        num_saves = _num_saves(summary.parent / "checkpoints")
    return {
        "run_s": data["duration_s"],
        "checkpoint_s": checkpoint_s,
        "share": checkpoint_s / data["duration_s"],
        "kept": num_saves,
    }


def _num_saves(folder: Path) -> int:
    return len(list(folder.glob("iter_*")))


class _Copying(HookBase):
    """Times each iteration's end, where it is saved, and before the next one bare copies of the same tensors.

    Attributes:
        stalls: Wall time and this thread's CPU time of the ends, seconds.
        copies: The same of a copy into memory that is fresh from the system.
        copies_again: The same of a copy into memory that was used for it an iteration before.
    """

    def __init__(self) -> None:
        self.copies: list[tuple[float, float]] = []
        self.copies_again: list[tuple[float, float]] = []
        self.stalls: list[tuple[float, float]] = []
        self._start = (0.0, 0.0)
        self._used: list[torch.Tensor] = []
        self._trim = ctypes.CDLL(None).malloc_trim

    def before_step(self) -> None:
        if self.trainer.iter > self.trainer.start_iter:
            self.stalls.append(_since(self._start))
        for thread in threading.enumerate():
            if thread.name == "hookline-checkpoint":
                thread.join()
        optimizer = self.trainer.optimizer
        tensors = [*self.trainer.model.state_dict().values()]
        tensors += [value for state in optimizer.state.values() for value in state.values()]
        self._trim(0)
        start = perf_counter(), thread_time()
        copies = [tensor.clone() for tensor in tensors]
        self.copies.append(_since(start))
        if len(self._used) != len(copies):
            self._used = [tensor.clone() for tensor in tensors]
        del copies
        self._trim(0)
        start = perf_counter(), thread_time()
        for copy, tensor in zip(self._used, tensors, strict=True):
            copy.copy_(tensor)
        self.copies_again.append(_since(start))

    def after_step(self) -> None:
        self._start = perf_counter(), thread_time()


def _since(start: tuple[float, float]) -> tuple[float, float]:
    return perf_counter() - start[0], thread_time() - start[1]


class _Wide(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(width, width) for _ in range(_NUM_LAYERS)))

    def forward(self, batch: list[torch.Tensor]) -> torch.Tensor:
        return self.layers(batch[0]).square().mean()


def stall_over_copy(width: int, num_saves: int) -> dict[str, float]:
    """Return how long an iteration stops for a save in the background, over a bare copy of its tensors."""
    torch.set_num_threads(1)
    model = _Wide(width)
    copying = _Copying()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    trainer = SimpleTrainer(model, Loader(TensorDataset(torch.randn(64, width)), batch_size=4), optimizer)
    with tempfile.TemporaryDirectory() as folder:
        trainer.run_dir = folder
        trainer.register_hooks([Checkpoint(period=1, keep=2, background=True), copying])
        trainer.train(0, num_saves + 3)
    # There is nothing of the optimizer to copy before the first iteration, and nobody times the last.
    triples = list(zip(copying.copies[1:], copying.copies_again[1:], copying.stalls, strict=False))[1:]
    fresh, again = ([triple[2][0] / triple[kind][0] for triple in triples] for kind in (0, 1))
    fresh_cpu, again_cpu = ([triple[2][1] / triple[kind][1] for triple in triples] for kind in (0, 1))
    size = sum(parameter.nbytes for parameter in model.parameters())
    return {
        "model_mb": size / 1e6,
        "copied_mb": 3 * size / 1e6,
        "stall_ms": 1e3 * median(stall[0] for _, _, stall in triples),
        "copy into fresh memory, ms": 1e3 * median(copy[0] for copy, _, _ in triples),
        "copy into used memory, ms": 1e3 * median(copy[0] for _, copy, _ in triples),
        "stall over the copy into fresh memory": median(fresh),
        "the same of CPU time": median(fresh_cpu),
        "stall over the copy into used memory": median(again),
        "the same of the CPU time": median(again_cpu),
        "quarters of it": quantiles(again),
        "num_saves": len(triples),
    }


def _run() -> None:
    numbers = {
        "date": f"{date.today()}",
        "command": "python -m benchmarks.checkpoint_cost",
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, torch {torch.__version__}",
        "background stall over the bare copy": [stall_over_copy(*each) for each in _WIDTHS.items()],
        "main job": main_job(),
        "main job, background": main_job("hooks.checkpoint.background=true"),
    }
    text = json.dumps(numbers, indent=1)
    RESULTS.write_text(f"{text}\n")
    print(text)


if __name__ == "__main__":
    _run()
