"""What a writer that fails, is slow or hangs costs an iteration, and how late the run ends because of it.

    python benchmarks/bad_writers.py > benchmarks/results/bad_writers.json

Each round trains the same tiny model once with each writer, in turn, so a slow moment of the machine meets
all of them. An iteration's time is measured around the whole of it; "added" is the median over rounds of the
difference to the same round without a bad writer. The weights at the end must be equal to the bit.
"""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import statistics
import sys
import tempfile
from datetime import date
from time import perf_counter

import numpy as np
import torch

import hookline
from hookline import HookBase
from hookline.testing import FailingWriter, HangingWriter, MemoryWriter, SlowWriter, tiny_trainer

ROUNDS = 7
NUM_ITERS = 4000
WRITERS = {
    "none": None,
    "failing": lambda: FailingWriter("write"),
    "slow (50 ms a write)": lambda: SlowWriter(0.05),
    "hanging": HangingWriter,
}


class Clock(HookBase):
    """Keeps the moment at which each iteration ended."""

    def __init__(self) -> None:
        self.ends_s: list[float] = []

    def after_step(self) -> None:
        """Keep the moment."""
        self.ends_s.append(perf_counter())


def run(name: str) -> dict[str, object]:
    """Train once, and return what an iteration took and how the run ended."""
    bad, clock = WRITERS[name], Clock()
    writers = {"good": MemoryWriter(), **({"bad": bad()} if bad else {})}
    with tempfile.TemporaryDirectory() as folder:
        trainer = tiny_trainer(clock, max_iter=NUM_ITERS, run_dir=folder, writers=writers, log_period=20)
        trainer.train()
        ended_s = perf_counter()
    times_s = np.diff(clock.ends_s)
    weights = b"".join(value.numpy().tobytes() for value in trainer.model.state_dict().values())
    return {
        "mean_s": float(times_s.mean()),
        "max_s": float(times_s.max()),
        "end_s": ended_s - clock.ends_s[-1],
        "gaps": [(gap.first_iteration, gap.last_iteration, gap.num_events) for gap in trainer.gaps],
        "good_has_all": len(writers["good"].events) == NUM_ITERS,
        "weights": hashlib.sha256(weights).hexdigest()[:16],
        "status": trainer.status,
    }


def main() -> None:
    """Run the rounds and print the result as JSON."""
    torch.set_num_threads(1)
    logging.getLogger("hookline").addHandler(logging.NullHandler())
    rounds = [{name: run(name) for name in WRITERS} for _ in range(ROUNDS)]
    result = {
        "date": date.today().isoformat(),
        "command": "python benchmarks/bad_writers.py",
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "hookline": hookline.__version__,
        },
        "device": f"cpu, {torch.get_num_threads()} thread",
        "iterations": NUM_ITERS,
        "rounds": ROUNDS,
        "weights_equal": len({one["weights"] for each in rounds for one in each.values()}) == 1,
        "writers": {},
    }
    for name in WRITERS:
        runs = [each[name] for each in rounds]
        added = [each[name]["mean_s"] - each["none"]["mean_s"] for each in rounds]
        result["writers"][name] = {
            "iteration_us": round(1e6 * statistics.median(one["mean_s"] for one in runs), 1),
            "added_us": round(1e6 * statistics.median(added), 1),
            "added_us_all_rounds": [round(1e6 * value, 1) for value in added],
            "longest_iteration_ms": round(1e3 * statistics.median(one["max_s"] for one in runs), 2),
            "after_the_last_iteration_s": round(statistics.median(one["end_s"] for one in runs), 2),
            "gap": runs[-1]["gaps"],
            "status": runs[-1]["status"],
            "the_other_writer_has_all": all(one["good_has_all"] for one in runs),
        }
    json.dump(result, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
