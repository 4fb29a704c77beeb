"""Ranks, loader processes and memory that go while the job trains or saves."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Sequence
from pathlib import Path

from job import Ending, Outcome, Trials, difference, finish, place, reference, start
from ranks import finish_ranks, wrong_end

__all__ = ["main_trials", "memory_trials", "rank_trials", "worker_trials"]

WIDE = ("model.width=100000",)
"""What a save takes is too much to find room in what the process has already."""
_CLEAR = ("got one that died", "DataLoader worker")  # torch raises the latter wherever the signal meets it
_MUCH = 64 * 2**20
WORKERS = ("data.train.loader.num_workers=2",)
_PR_SET_CHILD_SUBREAPER = 36
_ORPHANS_END_S = 10.0
"""torch's loader processes look for their parent every five seconds."""


def rank_trials(moments: Sequence[tuple[int, int, int]], world_size: int = 2) -> Trials:
    """End one rank, and let the job go on from the start.

    Args:
        moments: Rank, iteration, and before which fsync of the save after that iteration it dies; -1 is
            before the iteration.
        world_size: Number of ranks.
    """
    done = Trials()
    for rank, iteration, num_syncs in moments:
        with place() as root:
            act = ["before_step", iteration, "acts:kill_rank", [rank]]
            if num_syncs >= 0:
                act = ["after_step", iteration, "acts:kill_in_save", [num_syncs]]
            endings = finish_ranks(root, world_size, acts=[act])
            wrong = _wrong_deaths(endings, rank)
            done.kills += endings[rank].code == -9
            wrong = wrong or wrong_end(root, world_size)
            _count(done, f"rank {rank} at {iteration}, {num_syncs}", wrong)
    return done


def worker_trials(iterations: Sequence[int]) -> Trials:
    """End a process of the loader before each of ``iterations``."""
    done, (wanted, _) = Trials(), reference(WORKERS)
    for iteration in iterations:
        with place() as root:
            act = ["before_step", iteration, "acts:kill_worker", []]
            with _orphans() as left:
                ending = finish(root, overrides=WORKERS, acts=[act])
            is_clear = ending.code in (1, 2) and any(word in ending.output for word in _CLEAR)
            wrong = "" if is_clear else f"exit code {ending.code}:\n{ending.output[-2000:]}"
            done.kills += ending.code != 0
            wrong = wrong or left.problem
            _judge(done, f"a loader process at {iteration}", wrong, root, wanted, overrides=WORKERS)
    return done


def main_trials(instants: Sequence[float]) -> Trials:
    """Kill the training process after so many seconds; its loader's processes must go as well."""
    done, (wanted, duration_s) = Trials(), reference(WORKERS)
    for instant in instants:
        with place() as root:
            with _orphans() as left:
                attempt = start(root, overrides=WORKERS)
                attempt.ended(instant * duration_s)
                done.kills += attempt.kill().code == -9
            _judge(done, f"killed after {instant}", left.problem, root, wanted, overrides=WORKERS)
    return done


def memory_trials(limits: Sequence[tuple[str, int, int]]) -> Trials:
    """Take memory away, so that an allocation fails, and let the job go on with all of it.

    Args:
        limits: A hook of `task.Acts`, an iteration, and how many bytes there are left from then on.
    """
    done, (wanted, _) = Trials(), reference(WIDE)
    for hook, iteration, num_bytes in limits:
        with place() as root:
            acts = [
                [hook, iteration, "acts:limit_memory", [num_bytes]],
                [hook, iteration, "acts:take_memory", [2 * num_bytes + _MUCH]],
            ]
            ending = finish(root, overrides=WIDE, acts=acts if hook == "before_step" else acts[:1])
            words = ("can't allocate memory", "MemoryError", "Cannot allocate memory", "hookline: ")
            is_clear = ending.code == 0 or any(word in ending.output for word in words)
            wrong = "" if is_clear else f"exit code {ending.code}:\n{ending.output[-2000:]}"
            done.kills += ending.code != 0
            _judge(done, f"{num_bytes} bytes left, {hook} {iteration}", wrong, root, wanted, overrides=WIDE)
    return done


class _orphans:
    """Within this context whose parent dies becomes a child of this process, so that it is seen."""

    problem = ""

    def __enter__(self) -> _orphans:
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
        return self

    def __exit__(self, *_: object) -> None:
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 0)
        deadline = time.monotonic() + _ORPHANS_END_S
        while time.monotonic() < deadline:
            try:
                if os.waitpid(-1, os.WNOHANG)[0] == 0:
                    time.sleep(0.05)
            except ChildProcessError:
                return
        self.problem = f"processes left after {_ORPHANS_END_S} s"


def _wrong_deaths(endings: Sequence[Ending], killed: int) -> str:
    """Return how the ranks ended otherwise than they should when one was killed, or nothing."""
    others = [ending for rank, ending in enumerate(endings) if rank != killed]
    if endings[killed].code != -9:
        return f"rank {killed} was not killed: {endings[killed]}"
    # The launcher names the rank; the others see only that a connection is closed.
    return "" if all(ending.code in (1, 2) for ending in others) else f"{others}"


def _judge(
    done: Trials, what: str, wrong: str, root: Path, wanted: Outcome, overrides: Sequence[str] = ()
) -> None:
    """Let the job go on to its end; count the trial."""
    if not wrong:
        ending = finish(root, overrides=overrides)
        wrong = f"then {ending}" if ending.code else difference(root, wanted)
    _count(done, what, wrong)


def _count(done: Trials, what: str, wrong: str) -> None:
    done.trials += 1
    if wrong:
        done.failures.append(f"{what}: {wrong}")
