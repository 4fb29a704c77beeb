"""The side of delivery that the training thread calls."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any

from hookline.delivery import worker as worker_room
from hookline.delivery.gap import Gap
from hookline.delivery.left_out import left_out
from hookline.delivery.worker import Worker
from hookline.errors import PluginError, Problem, WriterError, add_note
from hookline.events import Events, EventStorage, EventWriter, Run
from hookline.events.table import EventLog

__all__ = ["Delivery", "check_journals"]

INBOX_BYTES = 16 * 2**20
POLICIES = ("raise", "disable", "retry")

logger = logging.getLogger("hookline")


class Delivery:
    """Tells every writer of all that is sealed in ``storage``, from ``open`` to ``close``.

    Also a context manager, which closes with ``finished`` or, after an exception, ``failed``::

        with EventStorage() as storage, Delivery(storage, {"json": JSONWriter()}, Run(...)):
            for batch in loader:
                storage.put_scalars(**kernel.step([batch]))
                storage.step()

    Writers are woken rarely, for a thread that runs Python holds up the one that trains: at the first end of
    a period 0.25 s after the last time, or after 64 periods, or when 16 MiB wait. All methods belong to the
    thread that trains.

    Args:
        storage: Where the events come from.
        writers: The writers by instance name.
        run: What they are told of the run.
        on_error: ``retry``, ``disable`` or ``raise`` by instance name; ``retry`` where there is none.
        periods: Log period by instance name; that of ``run`` where there is none.
        uses: What each writer is, ``name`` or ``distribution:name``, by instance name; its class where there
            is none. The position of another one is not loaded.
        timeout_s: Longest time one call may take when somebody waits for it, seconds.
        fence: Called before writers are told of anything; raises where this process must not write any more.
            None of them is called again then.

    Raises:
        PluginError: If more than one of the writers is a journal.
    """

    def __init__(
        self,
        storage: EventStorage,
        writers: Mapping[str, EventWriter],
        run: Run,
        *,
        on_error: Mapping[str, str] | None = None,
        periods: Mapping[str, int] | None = None,
        uses: Mapping[str, str] | None = None,
        timeout_s: float = 10.0,
        fence: Callable[[], None] | None = None,
    ) -> None:
        policies, periods, uses = dict(on_error or {}), dict(periods or {}), dict(uses or {})
        _check(writers, policies, periods)
        check_journals(writers.items())
        self.storage = storage
        self._timeout_s = timeout_s
        self._fence = fence
        self._errors: deque[WriterError] = deque()
        self._workers = {
            name: Worker(
                name,
                writer,
                uses.get(name, type(writer).__name__),
                replace(run, period=periods.get(name, run.period), writer=name),
                policies.get(name, "retry"),
                timeout_s,
                self._errors,
            )
            for name, writer in writers.items()
        }
        self._left_out: dict[str, Any] = {}
        self._inbox = EventLog()
        self._next_end: float = 0
        self._state = "new"

    def __enter__(self) -> Delivery:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.close("finished")
            return
        try:
            self.close("failed")
        except Exception as second:
            add_note(error, f"and then: {second}")

    @property
    def gaps(self) -> list[Gap]:
        """What writers have missed, also before a resume."""
        return [gap for worker in self._workers.values() for gap in worker.gaps()]

    @property
    def seconds(self) -> dict[str, float]:
        """Time spent in each writer so far, on its thread, seconds."""
        return {name: worker.seconds for name, worker in self._workers.items()}

    def open(self) -> None:
        """Open every writer and wait for all of them; from here on they are told of events.

        Raises:
            HooklineError: What a writer's ``open`` raised, the first in order; a `WriterError` for anything
                else. Those that had opened are closed with ``failed``. A writer with ``disable`` is switched
                off instead.
        """
        workers = self._workers.values()
        self._left_out = left_out(self._left_out, (), self.storage.arrived_iter)
        self._state = "open"
        try:
            for worker in workers:
                worker.start(self.storage.arrived_iter)
            for worker in workers:
                worker.wait(worker.is_open)
            for worker in workers:
                worker.raise_open_error()
        except BaseException:
            self._close_writers("failed", deliver=False)
            raise
        self._next_end = min((worker.next_end for worker in workers), default=math.inf)
        self.storage.attach(self._on_step)
        # After a resume there may be events to write already.
        self._wake(workers)

    def flush(self, timeout_s: float | None = None) -> bool:
        """Deliver all that is sealed; return whether every writer has it.

        Waits for a backlog as long as it moves, but at most ``timeout_s``.

        Raises:
            WriterError: If a writer failed that must not.
        """
        deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s
        self.storage.drain()
        self._hand_over()
        self._wake(self._workers.values())
        done = [worker.wait(worker.is_idle, deadline) for worker in self._workers.values()]
        self._raise_error()
        return all(done)

    def close(self, status: str) -> list[Gap]:
        """Deliver all that is sealed, close every writer, and return what was missed.

        Every writer is closed, whatever fails. A second call does nothing.

        Args:
            status: ``finished``, ``stopped``, ``paused`` or ``failed``.

        Raises:
            WriterError: If a writer failed that must not, and that was not raised before.
        """
        if self._state != "open":
            return self.gaps
        errors: list[Exception] = []
        acts = (
            self.storage.drain,
            lambda: self.storage.detach(self._on_step),
            self._hand_over,
            lambda: self._close_writers(status, deliver=True),
            self._raise_error,
        )
        for act in acts:
            try:
                act()
            except Exception as error:
                errors.append(error)
        for also in [*errors[1:], *self._errors]:
            logger.error("while closing the writers, also: %s", also)
        if errors:
            raise errors[0]
        return self.gaps

    def state_dict(self) -> dict[str, Any]:
        """Return each writer's acknowledged position and the events that follow it; never waits for a writer.

        What was loaded of writers that are left out for now is among it, for when they come back.
        Waits for the storage's device values, as a checkpoint does anyway.
        """
        self.storage.drain()
        self._hand_over()
        # What several writers have not acknowledged are the same tables in all of them.
        states: dict[tuple[int, ...], dict[str, Any]] = {}
        state = {name: worker.state_dict(states) for name, worker in self._workers.items()}
        self._wake(self._workers.values())
        return {**self._left_out, **state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let each writer go on from its position; call it before ``open``.

        A writer that is new starts empty. The position of one that is left out is kept for when it comes back
        and goes on from there; what it missed is a `Gap` then.
        """
        if self._state != "new":
            raise WriterError(str(Problem("Delivery.load_state_dict", "a call before open()", self._state)))
        for name, worker in self._workers.items():
            if name in state:
                worker.load_state_dict(state[name])
        self._left_out = {name: state[name] for name in state.keys() - self._workers.keys()}

    def _on_step(self, events: list[Events]) -> None:
        for each in events:
            self._inbox.append(each)
        if self.storage.arrived_iter >= self._next_end:
            self._end_periods()
        if self._inbox.num_bytes >= INBOX_BYTES:
            self._hand_over()
            self._wake(self._workers.values())
        if self._errors:
            self._raise_error()

    def _end_periods(self) -> None:
        """Wake the writers for whom a period has ended, unless it was done just now."""
        workers = self._workers.values()
        due = [worker for worker in workers if worker.is_due(self.storage.arrived_iter)]
        if due:
            self._hand_over()
            self._wake(due)
        self._next_end = min((worker.next_end for worker in workers), default=math.inf)

    def _hand_over(self) -> None:
        if self._inbox:
            logs = self._inbox.split(worker_room.MAX_EVENTS_PER_CALL)
            self._inbox = EventLog()
            for worker in self._workers.values():
                worker.take(logs)

    def _wake(self, workers: Iterable[Worker]) -> None:
        self._check_fence()
        for worker in workers:
            worker.wake()

    def _check_fence(self) -> None:
        """Return if this process may write; else let go of every writer, and raise."""
        if self._fence is None or self._state == "closed":
            return
        try:
            self._fence()
        except BaseException:
            self._state = "closed"
            for worker in self._workers.values():
                worker.abandon()
            raise

    def _close_writers(self, status: str, *, deliver: bool) -> None:
        self._check_fence()
        self._state = "closed"
        for worker in self._workers.values():
            worker.request_close(status, deliver=deliver)
        deadline = math.inf if deliver else time.monotonic() + self._timeout_s
        for worker in self._workers.values():
            worker.wait(worker.is_finished, deadline)

    def _raise_error(self) -> None:
        if self._errors:
            raise self._errors.popleft()


def check_journals(writers: Iterable[tuple[str, EventWriter]]) -> None:
    """Return if at most one of ``writers``, each with its instance name, is a journal.

    Raises:
        PluginError: If not.
    """
    first, *more = [name for name, writer in writers if writer.journal] or [""]
    if more:
        raise PluginError(
            f"writers.{more[0]}: expected one journal in a run, got a second one beside {first!r}. "
            "A journal is the run's own record. Take one of the two out of the writers."
        )


def _check(
    writers: Mapping[str, EventWriter], policies: Mapping[str, str], periods: Mapping[str, int]
) -> None:
    exists = f"The writers are: {', '.join(writers) or 'none'}"
    for name in [*policies, *periods]:
        if name not in writers:
            raise ValueError(str(Problem("Delivery", "options of a writer", name, exists)))
    for name, policy in policies.items():
        if policy not in POLICIES:
            raise ValueError(
                str(Problem(f"writers.{name}.on_error", f"one of {', '.join(POLICIES)}", policy))
            )
    for name, period in periods.items():
        if period < 0:
            raise ValueError(str(Problem(f"writers.{name}.period", "a whole number >= 0", period)))
