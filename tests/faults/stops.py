"""Signals at random instants of the job: what it exits with, what it says of itself, how it goes on."""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from job import (
    Attempt,
    Ending,
    Trials,
    difference,
    finish,
    place,
    reference,
    runs,
    start,
)
from ranks import start_ranks, wait_ranks, wrong_end

__all__ = ["signal_trials"]

_BEGIN_S = 30.0


def signal_trials(
    number: int,
    num_trials: int,
    *,
    world_size: int = 1,
    to_rank: int | None = None,
    seed: int = 0,
    patches: Sequence[str] = (),
) -> Trials:
    """Send the job a signal while it trains, and let it go on to its end.

    Args:
        number: SIGTERM and SIGINT pause; SIGUSR1 saves, and the job goes on by itself.
        num_trials: How many signals; each came while iterations ran.
        world_size: Number of ranks.
        to_rank: Who gets it; by default all, as launchers do it.
        seed: Of the instants.
        patches: Break hookline, see `job.start`; of one rank only.
    """
    draw, done = random.Random(seed), Trials()
    training_s = _training_s(world_size)
    while done.trials < num_trials:
        with place() as root:
            attempts = _began(root, world_size, patches)
            time.sleep(draw.uniform(0, training_s))
            if any(attempt.ended(0) for attempt in attempts):
                wait_ranks(attempts)
                continue
            for rank, attempt in enumerate(attempts):
                if to_rank in (None, rank):
                    attempt.send(number)
            endings = wait_ranks(attempts)
            wrong = _wrong_ending(root, number, endings) or _wrong_end(root, world_size)
            done.trials += 1
            done.kills += any(ending.code for ending in endings)
            done.kills += number == signal.SIGUSR1 and bool(_saved(root) - _saved_anyway())
            if wrong:
                done.failures.append(f"{signal.Signals(number).name}: {wrong}")
    return done


def save_names(trainer: Any, file: str, path: Path) -> None:
    """Write down what was saved; called after a save."""
    with open(file, "a") as names:
        names.write(f"{path.name}\n")


def _began(root: Path, world_size: int, patches: Sequence[str] = ()) -> list[Attempt]:
    """Start the job, and return when its first iteration is about to run."""
    began = root / "began"
    acts = [
        ["before_step", 0, "acts:mark", [str(began)]],
        ["before_step", 7, "acts:mark", [str(root / "last")]],
        ["after_save", -1, "stops:save_names", [str(root / "saved.txt")]],
    ]
    if world_size == 1:
        attempts = [start(root, acts=acts, patches=patches)]
    else:
        attempts = start_ranks(root, world_size, acts=acts)
    deadline = time.monotonic() + _BEGIN_S
    while not began.exists() and time.monotonic() < deadline:
        time.sleep(0.001)
    return attempts


def _wrong_ending(root: Path, number: int, endings: list[Ending]) -> str:
    """Return how the ranks ended otherwise than the signal asks for, or nothing."""
    (run,) = runs(root)
    status = json.loads((run / "status.json").read_text())
    codes, said = {ending.code for ending in endings}, "\n".join(ending.output for ending in endings)
    if number == signal.SIGUSR1:
        return "" if codes == {0} else f"exit codes {codes}:\n{said}"
    if status["state"] == "finished":  # it came when all was done, or nearly
        return "" if codes <= {0, 128 + number, -number} else f"exit codes {codes}:\n{said}"
    is_named = status["state"] == "paused" and status["reason"] == signal.Signals(number).name
    return "" if is_named and codes == {128 + number} else f"exit codes {codes}, {status}:\n{said}"


def _wrong_end(root: Path, world_size: int) -> str:
    """Let the job go on to its end, if it is not there; return what is wrong then, or nothing."""
    if world_size > 1:
        return wrong_end(root, world_size)
    ending = finish(root)
    return f"then {ending}" if ending.code else difference(root, reference()[0])


@cache
def _training_s(world_size: int) -> float:
    """Return how long it is from the job's first iteration to its last, seconds."""
    with place() as root:
        wait_ranks(_began(root, world_size))
        return (root / "last").stat().st_mtime - (root / "began").stat().st_mtime


@cache
def _saved_anyway() -> set[int]:
    """Return after which iterations the job saves when nobody asks it to."""
    with place() as root:
        wait_ranks(_began(root, 1))
        return _saved(root)


def _saved(root: Path) -> set[int]:
    names = (root / "saved.txt").read_text().split()
    return {int(name.removeprefix("iter_")) for name in names}
