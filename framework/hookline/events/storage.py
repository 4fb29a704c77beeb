"""Collects what is measured, iteration by iteration, and is found by whoever measures."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from types import TracebackType
from typing import Any

from hookline.errors import Problem, RunError
from hookline.events.histories import Histories
from hookline.events.history import History
from hookline.events.iteration import Record
from hookline.events.putting import Putting
from hookline.events.records import Events

__all__ = ["EventStorage", "get_event_storage"]

Reader = Callable[[list[Events]], None]

# A linked list, innermost first: a context that is copied or left in another order cannot disturb it.
_current: ContextVar[tuple[EventStorage, Any] | None] = ContextVar("hookline_event_storage", default=None)


class EventStorage(Putting):
    """Holds what is measured, by iteration; the current one inside its ``with``.

    Values may be numbers or tensors. A tensor that is not on the CPU is taken without reading it: its value
    arrives some iterations later, under the iteration it was put in, and training never waits.

    Several threads may put; all else, ``name_scope`` and ``step`` above all, belongs to the one that trains.

    Args:
        start_iter: The first iteration.
        period: Values on a device are copied every ``period`` iterations, in one go.
    """

    def __init__(self, start_iter: int = 0, *, period: int = 20) -> None:
        if period < 1:
            raise ValueError(str(Problem("EventStorage.period", "a whole number >= 1", period)))
        super().__init__(start_iter)
        self.arrived_iter = start_iter
        """Every iteration below this one is complete on the host."""
        self._period = period
        self._sealed: deque[Record] = deque()
        self._histories = Histories(self._read)
        self._readers: list[Reader] = []

    def __enter__(self) -> EventStorage:
        _current.set((self, _current.get()))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        entry = _current.get()
        _current.set(entry[1] if entry is not None else None)

    # -- reading ---------------------------------------------------------------------------------

    def history(self, name: str) -> History:
        """Return the recent values of a scalar.

        Raises:
            KeyError: If none has been put, or none has arrived from its device yet.
        """
        histories = self._read()
        if name not in histories:
            is_on_device = any(name in record.values for record in (*self._sealed, self._open))
            raise self._histories.missing(name, is_on_device)
        return histories[name]

    def histories(self) -> dict[str, History]:
        """Return the history of every scalar that has one, by name."""
        return dict(self._read())

    def latest(self) -> dict[str, tuple[float, int]]:
        """Return the last value of every scalar and the iteration it was put in."""
        with self._lock:
            self._read()
            return self._histories.latest()

    def latest_with_smoothing_hint(self, window: int = 20) -> dict[str, tuple[float, int]]:
        """Return what ``latest`` does, smoothed where the last put allowed it.

        Smoothed is the median of the values of the ``window`` iterations up to its last one.
        """
        with self._lock:
            self._read()
            hinted = {name for name, (hint, _) in self._flags.items() if hint}
            return self._histories.latest(hinted, window)

    # -- the end of an iteration -----------------------------------------------------------------

    def step(self) -> list[Events]:
        """Seal this iteration and go to the next; return the events that are complete on the host.

        On a CPU these are of the iteration just sealed. Where values come from a device they arrive later,
        several iterations at once, always in order. An iteration in which nothing was put has none.
        """
        with self._lock:
            record = self._seal()
            self.iter += 1
            if record.batch is None and not self._sealed:
                self.arrived_iter = self.iter
                arrived = [] if record.is_empty() else [record.events()]
            else:
                self._sealed.append(record)
                if self._queue.num_waiting and self.iter % self._period == 0:
                    self._queue.start()
                arrived = self._collect()
        self._tell(arrived)
        return arrived

    def drain(self) -> list[Events]:
        """Wait for the values of all sealed iterations; return the events that were not complete before."""
        with self._lock:
            if self._queue.num_waiting:
                self._queue.start()
            for record in self._sealed:
                if record.batch is not None:
                    record.batch.wait()
            arrived = self._collect()
        self._tell(arrived)
        return arrived

    def attach(self, reader: Reader) -> None:
        """Call ``reader`` at the end of every ``step`` and ``drain`` with the events that arrived, if any."""
        self._readers.append(reader)

    def detach(self, reader: Reader) -> None:
        """Call ``reader`` no more."""
        self._readers.remove(reader)

    # -- checkpoints -----------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return the iteration, what was put in it so far, and the histories; waits for the device.

        The sealed iterations belong to the attached readers, who are told of all of them first.
        """
        self.drain()
        with self._lock:
            self._open.iteration = self.iter
            if self._open.batch is not None:
                self._open.batch.wait()
                self._finish(self._open)
            self._read()
            return {
                "iter": self.iter,
                "open": self._open.to_state(),
                "histories": self._histories.state_dict(),
                "hints": {name: hint for name, (hint, _) in self._flags.items()},
            }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` returned; forget what was put before."""
        with self._lock:
            self._sealed.clear()
            self.iter = self.arrived_iter = state["iter"]
            self._histories.load_state_dict(state["histories"])
            # Whether one is volatile is known again when it is put again.
            self._flags = {name: (hint, False) for name, hint in state["hints"].items()}
            self._kinds = {}
            self.reopen(state["open"])

    def reopen(self, state: Mapping[str, Any]) -> None:
        """Begin this iteration again with what ``state_dict`` had as ``open``; forget what was put since."""
        with self._lock:
            self._open = Record.from_state(state)
            self._flags = {**self._flags, **self._open.flags}
            self._open.flags = self._flags
            self._owns_flags = False
            self._kinds = {**dict.fromkeys(self._flags, "scalar"), **self._kinds}

    def lasting(self) -> set[str]:
        """Return the names of what was put in this iteration so far and is not volatile."""
        with self._lock:
            flags, rest = self._flags, (self._open.rest or {}).values()
            return {name for name in self._open.values if not flags[name][1]}.union(*rest)

    # -- inside ----------------------------------------------------------------------------------

    def _seal(self) -> Record:
        """Return the record of this iteration, and begin the next one."""
        record, self._open = self._open, Record(self._flags)
        record.iteration, record.time_s = self.iter, time.time()
        self._owns_flags = False
        self._histories.take(record.iteration, record.arrived())
        return record

    def _collect(self) -> list[Events]:
        """Return the events of the sealed iterations that are complete, up to the first that is not."""
        arrived = []
        while self._sealed and (self._sealed[0].batch is None or self._sealed[0].batch.is_ready()):
            record = self._sealed.popleft()
            if record.batch is not None:
                self._finish(record)
            self.arrived_iter = record.iteration + 1
            if not record.is_empty():
                arrived.append(record.events())
        return arrived

    def _finish(self, record: Record) -> None:
        self._histories.take(record.iteration, record.finish())
        self._are_read = False

    def _read(self) -> dict[str, History]:
        """Return every history by name, up to date."""
        with self._lock:
            if not self._are_read:
                self._histories.sort_in()
                self._histories.show(self.iter, self._open.arrived())
                self._are_read = True
            return self._histories.by_name

    def _tell(self, arrived: list[Events]) -> None:
        """Give every reader the events, whatever another one raises; raise the first error then."""
        errors: list[Exception] = []
        for reader in tuple(self._readers):
            try:
                reader(arrived)
            except Exception as error:
                errors.append(error)
        if errors:
            raise errors[0]


def get_event_storage() -> EventStorage:
    """Return the storage of the innermost ``with EventStorage()`` around the caller.

    Works anywhere below a training loop, also inside a model's ``forward``. Each thread and each task
    has its own.

    Raises:
        RunError: If there is none, as in a thread that was started without its parent's context.
    """
    entry = _current.get()
    if entry is None:
        exists = (
            "No `with EventStorage()` is entered in this context; a new thread starts without its parent's"
        )
        fix = "In a thread of your own start the work with contextvars.copy_context().run(work)"
        raise RunError(
            str(Problem("get_event_storage()", "an event storage", missing=True, exists=exists, fix=fix))
        )
    return entry[0]
