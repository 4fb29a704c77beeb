"""One writer on its thread."""

from __future__ import annotations

import contextvars
import copy
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import islice
from typing import Any

from hookline.delivery.gap import Gap
from hookline.delivery.left_out import can_go_on
from hookline.errors import HooklineError, Problem, WriterError
from hookline.events import EventWriter, Run
from hookline.events.table import EventLog

__all__ = ["Worker"]

MIN_INTERVAL_S = 0.25
MAX_PERIODS = 64
BACKLOG_BYTES = 256 * 2**20
MAX_EVENTS_PER_CALL = 1024
NUM_RETRIES = 3
BACKOFF_S = 0.05
# A remote service may be slow to start, and no iteration waits for anything else then.
OPEN_TIMEOUT_S = 120.0

logger = logging.getLogger("hookline")


class _AbandonedError(BaseException):
    """Ends the thread of a writer that was given up while it was in a call."""


class Worker:
    """One writer, its thread, and the events that it has not acknowledged.

    Its phase goes ``new``, ``opening``, ``open`` and ``finished``; or ``failing``, while a writer that has
    raised is closed, and ``off``. ``_changed`` guards all that both threads use; no call of the
    writer is made while it is held.
    """

    def __init__(
        self,
        name: str,
        writer: EventWriter,
        use: str,
        run: Run,
        on_error: str,
        timeout_s: float,
        errors: deque[WriterError],
    ) -> None:
        self.name, self.writer, self.use, self.run = name, writer, use, run
        self.seconds = 0.0
        self.next_end: float = math.inf
        self._must_not_fail = writer.journal or on_error == "raise"
        self._on_error, self._timeout_s, self._errors = on_error, timeout_s, errors
        self._periods_told = 0
        self._last_wake_s = 0.0
        self._changed = threading.Condition()
        self._phase = "new"
        self._call: tuple[str, float] | None = None
        self._closing: str | None = None
        self._open_error: BaseException | None = None
        self._pending: deque[EventLog] = deque()
        self._pending_bytes = 0
        self._num_to_write = 0
        self._last_iteration = run.start_iter
        self._position: dict[str, Any] | None = None
        self._gap: Gap | None = None
        self._past_gaps: list[Gap] = []
        self._away_from: int | None = None

    # -- for the training thread -----------------------------------------------------------------

    def start(self, iteration: int) -> None:
        """Start the thread, which opens the writer; ``iteration`` is the next one."""
        if self._away_from is not None and self._away_from < iteration:
            self._come_back(self._away_from, iteration - 1)
        self._phase = "opening"
        self._last_wake_s = time.monotonic()
        if self.run.period:
            self._periods_told = iteration // self.run.period
            self.next_end = (self._periods_told + 1) * self.run.period
        # An empty context: the current storage is that of the thread that trains.
        target = contextvars.Context().run
        threading.Thread(target=target, args=(self._main,), name=f"hookline-{self.name}", daemon=True).start()

    def is_open(self) -> bool:
        """Return whether ``open`` is over, well or not."""
        return self._phase != "opening"

    def is_idle(self) -> bool:
        """Return whether nothing that it was woken for is left to write."""
        return self._phase != "open" or not self._num_to_write

    def is_finished(self) -> bool:
        """Return whether the writer is called no more."""
        return self._phase in ("off", "finished")

    def raise_open_error(self) -> None:
        """Raise what ``open`` raised, if it did and the policy is not to go on without the writer."""
        error = self._open_error
        if error is not None and self._on_error == "disable" and not self._must_not_fail:
            with self._changed:
                self._fail(error, "off")
            return
        if isinstance(error, HooklineError):
            raise error
        if error is not None:
            fix = "Mend its options, or take it out of the writers"
            raise WriterError(
                str(Problem(f"writers.{self.name}", "open() to succeed", error, fix=fix))
            ) from error

    def wait(self, until: Callable[[], bool], deadline: float = math.inf) -> bool:
        """Wait until ``until()``; return whether it came true. A call that hangs meanwhile is given up."""
        with self._changed:
            while not until():
                now = time.monotonic()
                if now >= deadline:
                    return False
                limit = OPEN_TIMEOUT_S if self._phase == "opening" else self._timeout_s
                left = limit if self._call is None else self._call[1] + limit - now
                if left <= 0 and self._call is not None:
                    self._give_up(TimeoutError(f"{self._call[0]}() has not returned for {limit:g} s"))
                else:
                    self._changed.wait(min(left, deadline - now))
            return True

    def is_due(self, iteration: int) -> bool:
        """Return whether to wake it now that every iteration below ``iteration`` is complete."""
        if iteration < self.next_end:
            return False
        num_periods = iteration // self.run.period
        self.next_end = (num_periods + 1) * self.run.period
        rested = time.monotonic() - self._last_wake_s >= MIN_INTERVAL_S
        if not rested and num_periods - self._periods_told < MAX_PERIODS:
            return False
        self._periods_told = num_periods
        return True

    def wake(self) -> None:
        """Have all that is pending written."""
        self._last_wake_s = time.monotonic()
        with self._changed:
            self._num_to_write = len(self._pending)
            self._changed.notify_all()

    def take(self, logs: Sequence[EventLog]) -> None:
        """Keep ``logs`` until they are acknowledged; wait only when the backlog of a journal is full."""
        size = sum(log.num_bytes for log in logs)
        with self._changed:
            if self._pending and self._pending_bytes + size > BACKLOG_BYTES:
                self._make_room()
            self._last_iteration = logs[-1].last_iteration()
            if self._gap is not None:
                num_events = self._gap.num_events + sum(map(len, logs))
                self._gap = replace(self._gap, last_iteration=self._last_iteration, num_events=num_events)
                return
            self._pending.extend(logs)
            self._pending_bytes += size

    def request_close(self, status: str, *, deliver: bool) -> None:
        """Have the writer closed, after what is pending is written where ``deliver`` says so."""
        with self._changed:
            if self._phase == "new":
                self._phase = "finished"
            self._closing = status
            self._num_to_write = len(self._pending) if deliver else 0
            self._changed.notify_all()

    def abandon(self) -> None:
        """Call the writer no more, not even to close it; its thread ends when the call it is in returns."""
        with self._changed:
            self._phase = "off"
            self._changed.notify_all()

    def gaps(self) -> list[Gap]:
        """Return what it has missed, also before a resume."""
        with self._changed:
            return self._past_gaps + ([self._gap] if self._gap is not None else [])

    def state_dict(self, states: dict[tuple[int, ...], dict[str, Any]]) -> dict[str, Any]:
        """Return its position, what follows it, and its gaps; ``states`` are those of tables by identity."""
        with self._changed:
            tables = [table for log in self._pending for table in log.tables]
            key = tuple(map(id, tables))
            if key not in states:
                states[key] = EventLog(tables).to_state()
            return {
                "position": self._position,
                "version": self.writer.state_version,
                "use": self.use,
                "pending": states[key],
                "gaps": [asdict(gap) for gap in self.gaps()],
            }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` returned; of another writer or version no position is loaded."""
        if can_go_on(state, self.use, self.writer.state_version):
            self._position = state["position"]
        pending = EventLog.from_state(state["pending"])
        if pending:
            self._pending.extend(pending.split(MAX_EVENTS_PER_CALL))
            self._pending_bytes = pending.num_bytes
        self._past_gaps = [Gap(**gap) for gap in state["gaps"]]
        self._away_from = state.get("away_from")

    def _come_back(self, first: int, last: int) -> None:
        """Name the iterations that it has not been told of, and say so."""
        reason = "it was left out of the writers"
        self._past_gaps.append(Gap(self.name, first, last, last - first + 1, reason))
        logger.warning("writers.%s: misses iterations %d to %d, for %s", self.name, first, last, reason)

    # -- on the writer's thread ------------------------------------------------------------------

    def _main(self) -> None:
        try:
            if self._open():
                while self._work():
                    pass
        except _AbandonedError:
            return

    def _do(self, method: str, *args: Any) -> Any:
        """Call a method of the writer, for all to see that it is in a call and since when."""
        start = time.monotonic()
        with self._changed:
            if self._phase == "off":
                raise _AbandonedError
            self._call = (method, start)
        try:
            return getattr(self.writer, method)(*args)
        finally:
            with self._changed:
                self.seconds += time.monotonic() - start
                self._call = None
                self._changed.notify_all()

    def _open(self) -> bool:
        try:
            self._start_from_position()
            position = self._do("state_dict")
        except _AbandonedError:
            raise
        except BaseException as error:
            self._open_error = error
            self._enter("off")
            return False
        self._position = copy.deepcopy(position)
        self._enter("open")
        return True

    def _start_from_position(self) -> None:
        if self._position is not None:
            self._do("load_state_dict", copy.deepcopy(self._position))
        self._do("open", self.run)

    def _enter(self, phase: str) -> None:
        with self._changed:
            if self._phase == "off":
                raise _AbandonedError
            self._phase = phase
            self._changed.notify_all()

    def _work(self) -> bool:
        """Wait for work and do it; return whether more may follow."""
        with self._changed:
            self._changed.wait_for(lambda: self._num_to_write or self._closing or self._phase == "off")
            logs = self._next_logs()
            closing = self._closing
        if logs:
            return self._write(logs)
        if closing is None:
            return False
        try:
            self._do("close", closing)
        except _AbandonedError:
            raise
        except BaseException as error:
            self._switch_off(error, "off")
        else:
            self._enter("finished")
        return False

    def _next_logs(self) -> list[EventLog]:
        """Return what to write next: at least one log, and those after it that fit into the same call."""
        logs: list[EventLog] = []
        num_events = 0
        for log in islice(self._pending, self._num_to_write):
            num_events += len(log)
            if logs and num_events > MAX_EVENTS_PER_CALL:
                break
            logs.append(log)
        return logs

    def _write(self, logs: Sequence[EventLog]) -> bool:
        """Have ``logs`` written, with retries; return whether they were."""
        num_tries = 0
        events = EventLog(table for log in logs for table in log.tables)
        while True:
            try:
                if num_tries:
                    self._start_from_position()
                self._do("write", events)
                position = copy.deepcopy(self._do("state_dict"))
            except _AbandonedError:
                raise
            except BaseException as error:
                if num_tries == NUM_RETRIES or self._on_error != "retry" or self._position is None:
                    self._switch_off(error, "failing")
                    self._close_failed()
                    return False
                logger.info("writers.%s: %r; going back to its last position to try again", self.name, error)
                self._rest(BACKOFF_S * 2**num_tries)
                num_tries += 1
            else:
                self._acknowledge(len(logs), position)
                return True

    def _acknowledge(self, num_logs: int, position: dict[str, Any] | None) -> None:
        with self._changed:
            if self._phase == "off":
                raise _AbandonedError
            self._pending_bytes -= sum(self._pending.popleft().num_bytes for _ in range(num_logs))
            self._num_to_write -= num_logs
            self._position = position
            self._changed.notify_all()

    def _rest(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._phase == "off", seconds)

    def _switch_off(self, error: BaseException, phase: str) -> None:
        with self._changed:
            if self._phase == "off":
                raise _AbandonedError
            self._fail(error, phase)

    def _close_failed(self) -> None:
        """Let a writer that is switched off free what it holds; what it says to that is of no interest."""
        try:
            self._do("close", "failed")
        except _AbandonedError:
            raise
        except BaseException as error:
            logger.debug("writers.%s: close() after a failure: %r", self.name, error)
        self._enter("off")

    # -- on either, with _changed held -----------------------------------------------------------

    def _make_room(self) -> None:
        """Wait until half of a journal's backlog is written; give another writer up."""
        self.wake()
        if self.writer.journal:
            self.wait(lambda: self._phase != "open" or self._pending_bytes <= BACKLOG_BYTES / 2)
        elif self._phase == "open":
            self._give_up(BufferError(f"more than {BACKLOG_BYTES // 2**20} MiB of events waited for it"))

    def _give_up(self, error: Exception) -> None:
        """Leave the thread to itself; it ends when its call returns, without another."""
        if self._phase == "opening":
            self._open_error = error
            self._phase = "off"
        elif self._phase == "open":
            self._fail(error, "off")
        else:
            self._phase = "off"
        self._changed.notify_all()

    def _fail(self, error: BaseException, phase: str) -> None:
        """Name what is lost, and say so: to the thread that trains, or in the log."""
        pending = self._pending
        first = pending[0].first_iteration() if pending else self._last_iteration
        reason = f"{type(error).__name__}: {error}"
        self._gap = Gap(self.name, first, self._last_iteration, sum(map(len, pending)), reason)
        self._pending, self._pending_bytes, self._num_to_write = deque(), 0, 0
        self._phase = phase
        if self._must_not_fail:
            policy = "It is the run's journal" if self.writer.journal else "Its on_error is 'raise'"
            problem = Problem(
                f"writers.{self.name} at iteration {first}", "its events to be recorded", error, policy
            )
            failure = WriterError(str(problem))
            failure.__cause__ = error
            self._errors.append(failure)
        else:
            said = f"switched off, it misses all events from iteration {first} on; training goes on"
            if self._closing is not None and not pending:
                said = "it has every event, but was not closed"
            logger.warning("writers.%s: %s. %s", self.name, said, reason, exc_info=error)
        self._changed.notify_all()
