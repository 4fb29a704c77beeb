"""What single parts of an iteration cost, each measured on a run in which hardly anything else happens.

    python -m benchmarks.parts dispatch        # what python -m benchmarks --parts dispatch runs, once

Every number is a difference between two runs side by side that differ in that part alone.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter, thread_time
from typing import Any

import torch

from benchmarks.contenders.framework import Empty
from benchmarks.measure import memory
from hookline import EventStorage, TrainerBase
from hookline.hooks import PeriodicWriter

__all__ = ["FUNCTIONS", "delivery", "dispatch", "long_run", "put_scalar"]

Numbers = dict[str, float]
_REPEATS = 5
_NUM_SCALARS = 4


class _Loop(TrainerBase):
    """Iterations of ``work`` and nothing else; keeps when the first and the last timed one began."""

    def __init__(
        self, work: Callable[[EventStorage], None], marks: Sequence[int], hooks: Sequence[Any]
    ) -> None:
        super().__init__()
        self.work, self.marks = work, marks
        self.wall_s: list[float] = []
        self.thread_s: list[float] = []
        self.register_hooks(hooks)

    def run_step(self) -> None:
        if self.iter in self.marks:
            self.wall_s.append(perf_counter())
            self.thread_s.append(thread_time())
        self.work(self.storage)

    def timed_us(self) -> tuple[float, float]:
        """Train, and return the wall time and this thread's CPU time of an iteration."""
        first, last = self.marks
        self.train(0, last + 1)
        wall_s, thread_s = (times[1] - times[0] for times in (self.wall_s, self.thread_s))
        return 1e6 * wall_s / (last - first), 1e6 * thread_s / (last - first)


def dispatch(num_iters: int = 20_000) -> Numbers:
    """Return what an iteration costs more, µs, with so many plugins whose two hooks do nothing."""

    def loop(num_plugins: int) -> float:
        hooks = [Empty() for _ in range(num_plugins)]
        return _Loop(_nothing, (num_iters // 10, num_iters), hooks).timed_us()[0]

    rounds = [{number: loop(number) for number in (0, 5, 20, 50)} for _ in range(_REPEATS)]
    more = {
        f"{number} empty plugins, µs an iteration": median(one[number] - one[0] for one in rounds)
        for number in (5, 20, 50)
    }
    return {"an iteration with nothing in it, µs": median(one[0] for one in rounds), **more}


def put_scalar(num_iters: int = 20_000, device: str = "cpu") -> Numbers:
    """Return what each scalar costs the host, put and sealed with its iteration, µs."""
    names = [f"scalar_{number}" for number in range(_NUM_SCALARS)]

    def puts(value: Any) -> Callable[[EventStorage], None]:
        def work(storage: EventStorage) -> None:
            for name in names:
                storage.put_scalar(name, value)

        return work

    def loop(work: Callable[[EventStorage], None]) -> float:
        return _Loop(work, (num_iters // 10, num_iters), ()).timed_us()[0]

    kinds = {"a number": puts(1.5), f"a tensor, {device}": puts(torch.tensor(1.5, device=device))}
    found: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(_REPEATS):
        nothing = loop(_nothing)
        for kind, work in kinds.items():
            found[kind].append((loop(work) - nothing) / _NUM_SCALARS)
    return {f"put_scalar of {kind}, µs": median(values) for kind, values in found.items()}


def delivery(num_iters: int = 5_000) -> Numbers:
    """Return what bringing a scalar to JSON and TensorBoard adds to an iteration of some 300 µs, µs."""
    from hookline_json import JSONWriter
    from hookline_tensorboard import TensorBoardWriter

    matrix = torch.rand(200, 200)

    def work(storage: EventStorage) -> None:
        torch.mm(matrix, matrix)
        for number in range(_NUM_SCALARS):
            storage.put_scalar(f"scalar_{number}", 1.5)

    def loop(writers: dict[str, Any]) -> tuple[float, float]:
        with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
            hooks = [PeriodicWriter(writers)] if writers else []
            loop = _Loop(work, (num_iters // 10, num_iters), hooks)
            loop.run_dir = Path(folder)
            return loop.timed_us()

    differences = []
    for _ in range(_REPEATS):
        without = loop({})
        with_writers = loop({"json": JSONWriter(), "tensorboard": TensorBoardWriter()})
        differences.append([more - less for more, less in zip(with_writers, without, strict=True)])
    wall, thread = (median(values) / _NUM_SCALARS for values in zip(*differences, strict=True))
    return {
        "delivery of a scalar to JSON and TensorBoard, µs of an iteration": wall,
        "the same, CPU time of the training thread, µs": thread,
    }


def long_run(num_iters: int = 10_000_000) -> Numbers:
    """Return how much memory a long run of empty iterations that put scalars grows by, MiB."""
    points = 10
    seen: list[float] = []

    def work(storage: EventStorage) -> None:
        if storage.iter % max(num_iters // points, 1) == 0:
            seen.append(memory("VmRSS") / 2**20)
        for number in range(_NUM_SCALARS):
            storage.put_scalar(names[number], 1.5)

    names = [f"scalar_{number}" for number in range(_NUM_SCALARS)]
    start = perf_counter()
    _Loop(work, (0, num_iters), ()).train(0, num_iters)
    seen.append(memory("VmRSS") / 2**20)
    return {
        "iterations": num_iters,
        "µs an iteration": 1e6 * (perf_counter() - start) / num_iters,
        "RSS at the start, MiB": seen[0],
        "RSS after a tenth, MiB": seen[1],
        "RSS at the end, MiB": seen[-1],
        "grown from a tenth to the end, MiB": seen[-1] - seen[1],
    }


def _nothing(storage: EventStorage) -> None:
    pass


FUNCTIONS: dict[str, Callable[..., Numbers]] = {
    "dispatch": dispatch,
    "put-scalar": put_scalar,
    "delivery": delivery,
    "memory": long_run,
}


if __name__ == "__main__":
    torch.set_num_threads(1)
    name, *count = sys.argv[1:]
    print(json.dumps(FUNCTIONS[name](*map(int, count))))
