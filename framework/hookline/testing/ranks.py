"""A function on several real processes that talk through gloo."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import pickle
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from hookline import distributed
from hookline.errors import RunError, add_note
from hookline.processes import fresh_processes
from hookline.testing import tasks
from hookline.testing.tasks import Task

__all__ = ["run_ranks"]

_PRELOAD = ["hookline.default", "hookline.testing.conformance", "torch._dynamo"]  # DDP needs the last
_GRACE_S = 3.0  # What the others get to end by themselves when one has failed.
_OWN_FILES = (__file__, tasks.__file__)
_OUTSIDE = f'  File "{tasks.__file__}"'
_FLUSH_S = 1.0  # What a process gets to end after it has told its result.
_SEEN_LATE_S = 0.25  # A death is seen when the others may have raised because of it.


def run_ranks(
    function: Callable[..., Any], *arguments: Any, world_size: int = 2, timeout_s: float = 60.0
) -> list[Any]:
    """Return what ``function(*arguments)`` returned in each of ``world_size`` processes, in rank order.

    The processes have joined one gloo group: ``torch.distributed`` works there, and the `tiny_trainer` of
    each trains with those of the others. They have the environment variables and the working directory of
    the moment, but torch is imported already. The first call of a process takes some seconds, to import torch
    once more; a later one starts at once. What they started ends with the call. In a script, call it below
    ``if __name__ == "__main__":``.

    Args:
        function: One from the top of a module. It and ``arguments`` are pickled, and so is what it returns.
        arguments: What it is called with, the same on every rank.
        world_size: How many processes.
        timeout_s: Longest time for all of it, seconds.

    Raises:
        RunError: If it cannot be pickled. If it raised on a rank, or a rank died: the first to do so, its
            traceback and those of the others as notes. If a rank has not ended in time: with where it is,
            as a note.
    """
    if not callable(function) or world_size < 1:
        got = f"{world_size} processes" if callable(function) else repr(function)
        raise RunError(f"run_ranks: expected a function and at least 1 process, got {got}.")
    task = Task.of(function, arguments)
    with tempfile.TemporaryDirectory(prefix="hookline-ranks-") as folder:
        ranks = _Ranks(Path(folder), world_size)
        try:
            ranks.start(task)
            return ranks.results(timeout_s)
        finally:
            ranks.end()


@dataclass(frozen=True)
class _Failure:
    """What a rank raised, or that it died, and when, by the clock that all processes share."""

    rank: int
    cause: str
    at_s: float
    trace: str = ""


class _Ranks:
    """The processes of one call."""

    def __init__(self, folder: Path, world_size: int) -> None:
        # As a launcher does: the store is there before the ranks, and outlives them.
        store: Any = getattr(dist, "TCPStore")  # noqa: B009  (torch hides the name from type checkers)
        self._store = store("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self._stacks = [folder / f"rank{rank}" for rank in range(world_size)]
        self._processes: list[Any] = []
        self._pipes: list[Connection] = []

    def start(self, task: Task) -> None:
        """Start every process."""
        context = fresh_processes(_PRELOAD)
        place = _Place(dict(os.environ), os.getcwd(), self._store.port, len(self._stacks))
        for rank, stack in enumerate(self._stacks):
            mine, theirs = context.Pipe(duplex=False)
            self._pipes.append(mine)
            # No daemon: it may have children, as a loader with workers has.
            process = context.Process(target=_be_rank, args=(rank, place, task, theirs, stack), daemon=False)
            self._processes.append(process)
            process.start()
            theirs.close()

    def results(self, timeout_s: float) -> list[Any]:
        """Wait for every rank, and return what they returned."""
        outcomes: dict[int, Any] = {}
        deadline = time.monotonic() + timeout_s
        while len(outcomes) < len(self._pipes):
            # Children of a rank that died may hold its pipe open.
            waiting: dict[Any, int] = {
                end: rank
                for rank, pipe in enumerate(self._pipes)
                if rank not in outcomes
                for end in (pipe, self._processes[rank].sentinel)
            }
            ready = wait(list(waiting), max(deadline - time.monotonic(), 0))
            if not ready:
                break
            for rank in sorted({waiting[end] for end in ready}):
                outcomes[rank] = self._outcome(rank)
                if isinstance(outcomes[rank], _Failure):
                    deadline = min(deadline, time.monotonic() + _GRACE_S)
        self._check(outcomes, timeout_s)
        return [pickle.loads(outcomes[rank]) for rank in range(len(self._pipes))]

    def end(self) -> None:
        """End every process, whatever it does, and all that it started."""
        started = [process for process in self._processes if process.pid is not None]
        for process in started:
            with suppress(AttributeError, ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()  # it may have no group of its own yet
        for process in started:
            process.join()
            process.close()
        for pipe in self._pipes:
            pipe.close()

    def _outcome(self, rank: int) -> Any:
        seen_s = time.monotonic()
        try:
            if not self._pipes[rank].poll():  # it is its process that has ended
                raise EOFError
            outcome = self._pipes[rank].recv()
        except EOFError:
            self._processes[rank].join()
            cause = f"it died, with exit code {self._processes[rank].exitcode}"
            return _Failure(rank, cause, seen_s - _SEEN_LATE_S)
        self._processes[rank].join(_FLUSH_S)
        return outcome

    def _check(self, outcomes: Mapping[int, Any], timeout_s: float) -> None:
        """Raise what went wrong first."""
        failures = [outcome for outcome in outcomes.values() if isinstance(outcome, _Failure)]
        late = [rank for rank in range(len(self._pipes)) if rank not in outcomes]
        if failures:
            first, *others = sorted(failures, key=lambda failure: failure.at_s)
            error = RunError(f"rank {first.rank} of {len(self._pipes)} failed: {first.cause}")
            if first.trace:
                add_note(error, first.trace)
            for other in others:
                add_note(error, f"Rank {other.rank} failed, too: {other.trace or other.cause}")
        elif late:
            names = " and ".join(f"rank {rank}" for rank in late)
            error = RunError(
                f"run_ranks: expected every rank to end within {timeout_s:g} s, but {names} did not. "
                "A collective that one rank calls and another does not is waited for in vain."
            )
        else:
            return
        for rank in late:
            add_note(error, f"Rank {rank} is here, the innermost call first:\n{self._stack(rank)}")
        raise error

    def _stack(self, rank: int) -> str:
        """Return where ``rank`` is: it writes that down when it gets the signal."""
        file = self._stacks[rank]
        with suppress(AttributeError, FileNotFoundError, ProcessLookupError):
            file.stat()  # it is there when the rank listens
            os.kill(self._processes[rank].pid, signal.SIGUSR2)
            deadline = time.monotonic() + 1.0
            while not file.stat().st_size and time.monotonic() < deadline:
                time.sleep(0.01)
            return file.read_text().partition(_OUTSIDE)[0].rstrip()
        return "(it does not tell)"


@dataclass(frozen=True)
class _Place:
    """Where ranks run: the environment and the directory of their parent, and how they meet."""

    environment: Mapping[str, str]
    folder: str
    port: int
    world_size: int

    def enter(self, rank: int) -> None:
        """Be there, as ``rank``."""
        os.environ.clear()  # a fork server has that of the time when it was started
        os.environ.update(self.environment)
        os.environ.update(
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(self.world_size),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(self.port),
            TORCHELASTIC_USE_AGENT_STORE="True",
        )
        os.chdir(self.folder)


def _end_with_parent() -> None:
    """Have this process, and all that it starts, killed when its parent has ended without doing so."""
    parent = multiprocessing.parent_process()
    if parent is None or not hasattr(os, "setsid"):
        return
    os.setsid()  # what it starts is in its group, and Ctrl-C is for the parent alone

    def watch() -> None:
        wait([parent.sentinel])
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, name="hookline-parent", daemon=True).start()


def _be_rank(rank: int, place: _Place, task: Task, pipe: Connection, stack: Path) -> None:
    _end_with_parent()
    place.enter(rank)
    torch.set_num_threads(1)
    if hasattr(faulthandler, "register"):
        # Left open: what hangs is asked by a signal where it is.
        faulthandler.register(signal.SIGUSR2, file=open(stack, "w"), all_threads=False)  # noqa: SIM115
    try:
        distributed.join(torch.device("cpu"))
        pipe.send(task.run())
    except BaseException as error:
        at_s = time.monotonic()
        pipe.send(_Failure(rank, f"{type(error).__name__}: {error}", at_s, _trace(error)))
    else:
        distributed.leave()


def _trace(error: BaseException) -> str:
    """Return the traceback of ``error`` from ``function`` on."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None and trace.tb_frame.f_code.co_filename in _OWN_FILES:
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace)).rstrip()
