"""What the job can be made to do at a given moment; see `task.Acts`."""

from __future__ import annotations

import datetime
import multiprocessing
import os
import resource
import signal
import sys
import time
from pathlib import Path

from hookline import distributed

__all__ = [
    "jump_clock", "kill_in_save", "kill_rank", "kill_worker", "limit_memory", "lose_lock", "mark", "send",
    "stop", "take_memory",
]  # fmt: skip


def send(trainer, number: int, rank: int = 0) -> None:
    """Send a signal to this process, on one rank."""
    if distributed.rank() == rank:
        os.kill(os.getpid(), number)


def kill_rank(trainer, rank: int) -> None:
    """End ``rank`` as nothing can prevent."""
    send(trainer, signal.SIGKILL, rank)


def kill_in_save(trainer, num_syncs: int) -> None:
    """End the process at its so-manieth fsync from now."""
    left, fsync = [num_syncs], os.fsync

    def counting(descriptor: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        fsync(descriptor)

    os.fsync = counting


def kill_worker(trainer) -> None:
    """End one of the loader's processes."""
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)


def limit_memory(trainer, extra_bytes: int) -> None:
    """Let the process have so many bytes more than it has, and no other."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + extra_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))


def take_memory(trainer, num_bytes: int) -> None:
    """Take memory as a larger model would, in one piece."""
    import torch

    torch.zeros(num_bytes, dtype=torch.uint8)


def jump_clock(trainer, seconds: float) -> None:
    """Set this process's clock, wherever hookline and its plugins read it."""
    now, now_ns = time.time, time.time_ns

    class Shifted(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return super().now(tz) + datetime.timedelta(seconds=seconds)

    def shifted() -> float:
        return now() + seconds

    time.time, time.time_ns = shifted, lambda: now_ns() + int(seconds * 1e9)
    for name, module in list(sys.modules.items()):
        if name.startswith("hookline"):
            if getattr(module, "time", None) is now:
                module.time = shifted
            if isinstance(getattr(module, "datetime", None), type):
                module.datetime = Shifted


def lose_lock(trainer) -> None:
    """Lose the run directory's lock, as on a file system whose server forgot it."""
    with open(trainer.run_dir / "lock"):
        pass  # POSIX: to close any descriptor of a file frees the process's locks on it


def stop(trainer) -> None:
    """Stand still until somebody sends SIGCONT."""
    os.kill(os.getpid(), signal.SIGSTOP)


def mark(trainer, path: str) -> None:
    """Tell that this moment has come."""
    Path(path).touch()
