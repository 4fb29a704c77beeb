"""One contender trains one case, in a process of its own, and says what that took."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.cases import CASES
from benchmarks.task import Task

__all__ = ["CHECK_ITERS", "Measured", "Order", "measure", "memory"]

CHECK_ITERS = 50
"""Length of the second, untimed run, after which the loss must be the bare loop's almost to the bit."""
_NUM_BLOCKS = 20
_TO_FIRST_ITERATION = 2  # Some fetch a batch ahead; when the third is asked for, the first was used.


@dataclass(frozen=True)
class Order:
    """What to run: a contender, a case and how long."""

    contender: str
    case: str
    warmup_iters: int
    num_iters: int
    folder: str


@dataclass(frozen=True)
class Measured:
    """What one run took.

    Attributes:
        mean_us: Time of an iteration, over all timed ones.
        cpu_us: CPU time of an iteration, that of all threads: what others do on the machine hardly counts.
        blocks_us: The same, over each twentieth of them.
        start_s: From the call to the end of the first iteration.
        end_s: From the last timed iteration until everything was written and closed.
        rss_bytes: Most memory at any moment.
        grown_bytes: What it was more than before the run.
        check_loss: Loss after a short run.
        final_loss: Loss after the timed one.
    """

    mean_us: float
    cpu_us: float
    blocks_us: list[float]
    start_s: float
    end_s: float
    rss_bytes: int
    grown_bytes: int
    check_loss: float
    final_loss: float


def measure(train: Callable[[Task], None], order: Order) -> dict[str, Any]:
    """Train twice, timed and short, and return a `Measured` as a dict."""
    case, folder = CASES[order.case], Path(order.folder)
    task = Task(case, order.warmup_iters + order.num_iters + 1, folder / "timed")
    marks = [at * case.accumulate for at in (order.warmup_iters, order.warmup_iters + order.num_iters)]
    task.data.marks = tuple(marks)
    before_bytes = memory("VmRSS")
    start = perf_counter()
    train(task)
    end = perf_counter()
    peak_bytes = memory("VmHWM")
    moments = task.data.asked_s[:: case.accumulate]
    check = Task(case, CHECK_ITERS, folder / "check")
    train(check)
    return asdict(
        Measured(
            **_times(moments, order.warmup_iters, order.num_iters),
            cpu_us=1e6 * (task.data.cpu_s[1] - task.data.cpu_s[0]) / order.num_iters,
            start_s=moments[_TO_FIRST_ITERATION] - start,
            end_s=end - moments[order.warmup_iters + order.num_iters],
            rss_bytes=peak_bytes,
            grown_bytes=peak_bytes - before_bytes,
            check_loss=check.loss(),
            final_loss=task.loss(),
        )
    )


def _times(moments: list[float], first: int, num_iters: int) -> dict[str, Any]:
    """Return the mean time of the iterations from ``first`` on, in all and block by block, in µs."""
    size = max(num_iters // _NUM_BLOCKS, 1)
    starts = range(first, first + num_iters - size + 1, size)
    return {
        "mean_us": 1e6 * (moments[first + num_iters] - moments[first]) / num_iters,
        "blocks_us": [1e6 * (moments[at + size] - moments[at]) / size for at in starts],
    }


def memory(key: str) -> int:
    """Return ``VmRSS`` or ``VmHWM`` of this process in bytes, 0 where the system does not tell."""
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith(f"{key}:"):
            return 1024 * int(line.split()[1])
    return 0
