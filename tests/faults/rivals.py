"""Clocks that jump, and two processes that want one run directory."""

from __future__ import annotations

import hashlib
import random
import signal
import socket
import time
from collections.abc import Sequence
from pathlib import Path

from job import Attempt, Trials, difference, finish, is_finished, place, reference, runs, start

__all__ = ["clock_trials", "second_start_trials", "taken_for_dead_trials"]

HOUR_S = 3600.0
_STOP_S = 30.0
# What says how the later process's run stands; the log may tell more, of the earlier one's end.
_MAY_DIFFER = {"log.txt"}


def clock_trials(num_trials: int, seed: int = 0) -> Trials:
    """Set the clock by up to an hour, back or forth, before and in each of three attempts."""
    draw, done = random.Random(seed), Trials()
    wanted, duration_s = reference()
    while done.trials < num_trials:
        with place() as root:
            hit = 0
            for _ in range(2):
                if is_finished(root):
                    break
                attempt = start(root, patches=[_jump(draw)], acts=[_jump_at(draw)])
                if attempt.ended(draw.uniform(0, duration_s)):
                    break
                hit += attempt.kill().code == -signal.SIGKILL
            if not hit:
                continue
            ending = finish(root, patches=[_jump(draw)], acts=[_jump_at(draw)])
            done.trials, done.kills = done.trials + 1, done.kills + hit
            wrong = difference(root, wanted) if ending.code == 0 else f"{ending}"
            if wrong:
                done.failures.append(wrong)
    return done


def second_start_trials(iterations: Sequence[int]) -> Trials:
    """Start the job a second time where the first stands still at an iteration; then let that go on."""
    done, (wanted, _) = Trials(), reference()
    for iteration in iterations:
        with place() as root:
            first = start(root, acts=[["before_step", iteration, "acts:stop", []]])
            _await_stop(first)
            before = _files(root)
            second = finish(root, output=root / "second.txt")
            names = str(first.pid) in second.output and socket.gethostname() in second.output
            wrong = "" if second.code == 2 and names else f"the second: {second}"
            if _files(root) != before:
                wrong = wrong or "the second changed files of the first"
            first.send(signal.SIGCONT)
            ending = first.wait()
            wrong = wrong or (difference(root, wanted) if ending.code == 0 else f"the first: {ending}")
            done.trials += 1
            if wrong:
                done.failures.append(f"a second start at {iteration}: {wrong}")
    return done


def taken_for_dead_trials(iterations: Sequence[int]) -> Trials:
    """Let a process stand still, lose its lock, and come back when another one has taken over and is done."""
    done, (wanted, _) = Trials(), reference()
    for iteration in iterations:
        with place() as root:
            acts = [["before_step", iteration, f"acts:{name}", []] for name in ("lose_lock", "stop")]
            first = start(root, acts=acts)
            _await_stop(first)
            second = finish(root, output=root / "second.txt")
            wrong = difference(root, wanted) if second.code == 0 else f"the second: {second}"
            before = _files(root)
            first.send(signal.SIGCONT)
            ending = first.wait()
            done.trials += 1
            if not wrong and ending.code != 2:
                wrong = f"the first: {ending}"
            changed = sorted(name for name, digest in _files(root).items() if before.get(name) != digest)
            if changed:
                wrong = wrong or f"the first changed {', '.join(changed)}"
            if wrong:
                done.failures.append(f"taken for dead at {iteration}: {wrong}")
    return done


def _jump(draw: random.Random) -> list[object]:
    return ["acts:jump_clock", None, draw.uniform(-HOUR_S, HOUR_S)]


def _jump_at(draw: random.Random) -> list[object]:
    return ["after_step", draw.randint(0, 7), "acts:jump_clock", [draw.choice([-HOUR_S, HOUR_S])]]


def _await_stop(attempt: Attempt) -> None:
    deadline = time.monotonic() + _STOP_S
    while time.monotonic() < deadline:
        state = Path(f"/proc/{attempt.pid}/stat").read_text().rpartition(") ")[2][0]
        if state == "T":
            return
        time.sleep(0.002)
    raise AssertionError(f"it did not stand still: {attempt.kill()}")


def _files(root: Path) -> dict[str, str]:
    (run,) = runs(root)
    return {
        str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in run.rglob("*")
        if path.is_file() and path.name not in _MAY_DIFFER
    }
