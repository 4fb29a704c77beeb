"""Faults at a chosen system call of the job: `strace` kills the process there, or lets the call fail."""

from __future__ import annotations

import io
import mmap
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from job import (
    Attempt,
    Ending,
    Patch,
    Trials,
    difference,
    digests,
    finish,
    place,
    reference,
    runs,
    saved_states,
    start,
)

from hookline import CheckpointError, checkpoint

__all__ = ["Point", "fail_at", "kill_at", "points", "report", "said_once", "unusable"]

# What changes a disk: before, between and after these calls there is nothing else to be killed at.
CALLS = (
    "openat", "write", "pwrite64", "fsync", "fdatasync", "rename", "renameat", "renameat2", "mkdir", "rmdir",
    "unlink", "unlinkat", "ftruncate", "chmod", "fchmod", "symlink",
)  # fmt: skip
SHORT = ("train.max_iter=3", "hooks.checkpoint.period=1", "hooks.evaluate.period=2")
"""The job with three saves, the last of which deletes the first's."""
_SHARED_BYTES = 2**20
_reported: _Shared
_LINE = re.compile(r"(\w+)\((.*)")
_ATTACH_S = 10.0


@dataclass(frozen=True)
class Point:
    """The ``number``-th call of ``call``, from 1, in the thread that trains."""

    call: str
    number: int


@cache
def unusable() -> str:
    """Return why strace cannot be used here, or nothing."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    with place() as root:
        try:
            _traced(root, ["-e", "trace=mkdir"]).wait()
        except OSError as error:
            return str(error)
    return ""


@cache
def points(overrides: tuple[str, ...] = SHORT) -> list[Point]:
    """Return every call of the job that changes the disk, in order."""
    with place() as root:
        log = root / "calls.txt"
        traced = _traced(root / "runs", ["-o", str(log), "-e", f"trace={_available()}"], overrides=overrides)
        ending = traced.wait()
        assert ending.code == 0, ending.output
        numbers: Counter[str] = Counter()
        found = []
        for line in log.read_text().splitlines():
            matched = _LINE.match(line)
            if matched:
                call, arguments = matched.groups()
                numbers[call] += 1
                if call != "openat" or "O_CREAT" in arguments:
                    found.append(Point(call, numbers[call]))
        return found


def kill_at(
    chosen: Sequence[Point], overrides: Sequence[str] = SHORT, patches: Sequence[Patch] = ()
) -> Trials:
    """Kill the job as it enters each of ``chosen``; what was reported must be there, and the end the same."""
    done = Trials()
    for point in chosen:
        with place() as root:
            inject = _inject(point.call, f"signal=KILL:when={point.number}")
            traced = _traced(root, inject, overrides=overrides, patches=patches, acts=_reports())
            ending = traced.wait()
            done.trials += 1
            done.kills += ending.code == -9
            wrong = _lost(root, overrides) or _finished(root, overrides, patches)
            if wrong:
                done.failures.append(f"killed at {point.call} {point.number}: {wrong}")
    return done


def fail_at(
    chosen: Sequence[Point],
    error: str,
    *,
    lasting: bool = False,
    overrides: Sequence[str] = SHORT,
    patches: Sequence[Patch] = (),
) -> Trials:
    """Let each of ``chosen`` fail with ``error``, and with ``lasting`` all such calls after it as well.

    The job must end by itself as it should, or with one message and nothing reported lost; after the fault is
    gone it must go on to the same end.
    """
    done = Trials()
    for point in chosen:
        with place() as root:
            when = f"{point.number}{'+' if lasting else ''}"
            inject = _inject(point.call, f"error={error}:when={when}")
            traced = _traced(root, inject, overrides=overrides, patches=patches, acts=_reports())
            ending = traced.wait()
            done.trials += 1
            done.kills += ending.code != 0
            wrong = said_once(ending) or _lost(root, overrides) or _finished(root, overrides, patches)
            if wrong:
                done.failures.append(f"{error} at {point.call} {when}: {wrong}")
    return done


def report(trainer, path: Path) -> None:
    """Tell which checkpoint the product says is durable; called after a save."""
    _reported.write(f"{path.name}\n".encode())


def _inject(call: str, what: str) -> list[str]:
    return ["-e", f"trace={call}", "-e", f"inject={call}:{what}"]


def _reports() -> list[list[object]]:
    return [["after_save", -1, "calls:report", []]]


def _lost(root: Path, overrides: Sequence[str]) -> str:
    """Return what is wrong with the newest checkpoint, given which was reported last, or nothing."""
    reported = (root / "reported.txt").read_text().strip("\0").split()
    if not reported:
        return ""
    (run,) = runs(root)
    try:
        newest = checkpoint.resolve(run)
    except CheckpointError as error:
        return f"{reported[-1]} was reported: {error}"
    if newest.name < reported[-1]:
        return f"{reported[-1]} was reported, {newest.name} is the newest"
    return (
        ""
        if digests(newest) == saved_states(tuple(overrides))[newest.name]
        else f"{newest.name} holds another state"
    )


def _finished(root: Path, overrides: Sequence[str], patches: Sequence[Patch]) -> str:
    """Return what is wrong with the job after an attempt that nothing disturbs, or nothing."""
    ending = finish(root, overrides=overrides, patches=patches, is_built=True)
    if ending.code:
        return f"then exit code {ending.code}:\n{ending.output[-2000:]}"
    return difference(root, reference(tuple(overrides))[0])


def said_once(ending: Ending) -> str:
    """Return how a failed attempt did not end with one message, or nothing."""
    messages = [line for line in ending.output.splitlines() if line.startswith("hookline: ")]
    if ending.code == 0 or (ending.code in (1, 2) and len(messages) == 1):
        return ""
    return f"exit code {ending.code}, {len(messages)} messages:\n{ending.output[-2000:]}"


def speak_apart(root: str) -> None:
    """Print and report to memory that is shared with files: without a call that could be failed."""
    global _reported
    _reported = _Shared(f"{root}/reported.txt")
    screen = _Shared(f"{root}/screen.txt")
    sys.stdout = sys.stderr = io.TextIOWrapper(io.BufferedWriter(screen), write_through=True)


class _Shared(io.RawIOBase):
    def __init__(self, path: str) -> None:
        with open(path, "r+b") as file:
            self._memory = mmap.mmap(file.fileno(), _SHARED_BYTES)

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:
        return self._memory.write(bytes(data))


class _Traced:
    """An attempt that strace watches from its first call on."""

    def __init__(self, attempt: Attempt, tracer: subprocess.Popen[str], screen: Path) -> None:
        self._attempt, self._tracer, self._screen = attempt, tracer, screen

    def wait(self) -> Ending:
        """Return how it ended."""
        ending = self._attempt.wait()
        self._tracer.wait(10)
        return Ending(ending.code, ending.output + self._screen.read_text().strip("\0"))


def _traced(root: Path, options: Sequence[str], patches: Sequence[Patch] = (), **how) -> _Traced:
    root.mkdir(exist_ok=True)
    for name in ("screen.txt", "reported.txt"):
        (root / name).write_bytes(bytes(_SHARED_BYTES))
    read, write = os.pipe()
    speaking = ["calls:speak_apart", str(root)]
    attempt = start(root, gate=read, patches=[speaking, *patches], is_built=True, **how)
    os.close(read)
    command = ["strace", "-qq", "-p", str(attempt.pid), *options]
    tracer = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, text=True)
    deadline = time.monotonic() + _ATTACH_S
    while not _is_traced(attempt.pid):
        if tracer.poll() is not None or time.monotonic() > deadline:
            attempt.kill()
            tracer.kill()
            raise OSError(f"strace cannot watch another process here (exit code {tracer.wait()})")
        time.sleep(0.001)
    os.write(write, b"1")
    os.close(write)
    return _Traced(attempt, tracer, root / "screen.txt")


def _is_traced(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    return "TracerPid:\t0\n" not in status


@cache
def _available() -> str:
    """Return those of `CALLS` that this machine has; the others strace refuses."""
    known = [
        call
        for call in CALLS
        if subprocess.run(["strace", "-e", f"trace={call}", "true"], capture_output=True).returncode == 0
    ]
    return ",".join(known)
