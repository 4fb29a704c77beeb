"""Events by the thousand: a row for each iteration instead of objects for each value.

What waits for its writers is kept like this. Python's garbage collector never looks into rows of numbers,
where it would go through all of a process, again and again, for as many objects that come and go.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, overload

import numpy as np

from hookline.events.records import Events

__all__ = ["EventLog", "EventTable", "as_tables"]

ROW_BYTES = 1000
VALUE_BYTES = 100


class EventTable:
    """Iterations that follow each other and have the same scalars.

    Attributes:
        names: The scalars.
        flags: (smoothing_hint, volatile) of each of ``names``, and maybe of others.
        rows: (iteration, time_s, value, …) of each iteration, the values in the order of ``names``.
        rest: The one iteration of the table, where it has more than scalars; None where there is no more.
    """

    __slots__ = ("_events", "flags", "names", "rest", "rows")

    def __init__(
        self, names: tuple[str, ...], flags: Mapping[str, tuple[bool, bool]], rest: Events | None = None
    ) -> None:
        self.names, self.flags, self.rest = names, flags, rest
        self.rows: list[tuple[Any, ...]] = []
        self._events: dict[None, list[Events]] = {}

    def part(self, start: int, end: int) -> EventTable:
        """Return a table of the rows from ``start`` to ``end``."""
        part = EventTable(self.names, self.flags, self.rest)
        part.rows = self.rows[start:end]
        return part

    def events(self) -> list[Events]:
        """Return the events of each row; the same objects each time, and on every thread."""
        if not self._events:
            # Two threads may make them at once; one of them comes first.
            self._events.setdefault(None, self._made())
        return self._events[None]

    def _made(self) -> list[Events]:
        if self.rest is not None:
            return [self.rest]
        return [
            Events.of_values(iteration, time_s, dict(zip(self.names, values, strict=True)), self.flags)
            for iteration, time_s, *values in self.rows
        ]


class EventLog(Sequence[Events]):
    """A list of events in iteration order, which holds no events until somebody looks at them.

    Attributes:
        tables: The events.
        num_bytes: About how much memory they take, if somebody looks at them.
    """

    def __init__(self, tables: Iterable[EventTable] = ()) -> None:
        self.tables = list(tables)
        self.num_bytes = sum(map(_num_bytes, self.tables))
        self._events: list[Events] | None = None

    def append(self, event: Events) -> None:
        """Add the events of one iteration."""
        values, flags = event.values, event.flags
        names = tuple(values)
        table = self.tables[-1] if self.tables else None
        self.num_bytes += ROW_BYTES + VALUE_BYTES * len(names)
        if not event.has_only_scalars():
            self.tables.append(table := EventTable(names, flags, event))
            self.num_bytes += _num_bytes_of_rest(event)
        elif (
            table is None
            or names != table.names
            or table.rest is not None
            or (flags is not table.flags and flags != table.flags)
        ):
            self.tables.append(table := EventTable(names, flags))
        table.rows.append((event.iteration, event.time_s, *values.values()))
        self._events = None

    @classmethod
    def of(cls, events: Iterable[Events]) -> EventLog:
        """Return a log of ``events``."""
        log = cls()
        for event in events:
            log.append(event)
        return log

    def split(self, num_events: int) -> list[EventLog]:
        """Return the same events in logs of at most ``num_events``."""
        parts: list[list[EventTable]] = [[]]
        left = num_events
        for table in self.tables:
            start = 0
            while start < len(table.rows):
                if not left:
                    parts.append([])
                    left = num_events
                part = table if not start and len(table.rows) <= left else table.part(start, start + left)
                parts[-1].append(part)
                start += len(part.rows)
                left -= len(part.rows)
        return [EventLog(part) for part in parts]

    def to_state(self) -> dict[str, Any]:
        """Return the events as JSON values and arrays, for a checkpoint: one array for all rows alike."""
        rows: dict[tuple[Any, ...], list[tuple[Any, ...]]] = {}
        rest = []
        for table in self.tables:
            if table.rest is not None:
                rest.append(table.rest.to_state())
            else:
                flags = tuple(table.flags[name] for name in table.names)
                rows.setdefault((table.names, flags), []).extend(table.rows)
        tables = [
            {
                "names": list(names),
                "flags": [list(each) for each in flags],
                "rows": np.array(alike, np.float64),
            }
            for (names, flags), alike in rows.items()
        ]
        return {"tables": tables, "rest": rest}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> EventLog:
        """Return the log that ``to_state`` was called on."""
        events = [Events.from_state(each) for each in state["rest"]]
        for table in state["tables"]:
            names = table["names"]
            flags = {
                name: (hint, volatile) for name, (hint, volatile) in zip(names, table["flags"], strict=True)
            }
            for iteration, time_s, *numbers in np.asarray(table["rows"], np.float64).tolist():
                values = dict(zip(names, numbers, strict=True))
                events.append(Events.of_values(int(iteration), time_s, values, flags))
        return cls.of(sorted(events, key=lambda event: event.iteration))

    def first_iteration(self) -> int:
        """Return the iteration of the first events."""
        iteration: int = self.tables[0].rows[0][0]
        return iteration

    def last_iteration(self) -> int:
        """Return the iteration of the last events."""
        iteration: int = self.tables[-1].rows[-1][0]
        return iteration

    def __len__(self) -> int:
        return sum(len(table.rows) for table in self.tables)

    @overload
    def __getitem__(self, index: int) -> Events: ...
    @overload
    def __getitem__(self, index: slice) -> list[Events]: ...
    def __getitem__(self, index: int | slice) -> Events | list[Events]:
        if self._events is None:
            self._events = [event for table in self.tables for event in table.events()]
        return self._events[index]


def as_tables(events: Sequence[Events]) -> list[EventTable]:
    """Return ``events`` as tables, the fast way to look at the scalars of many iterations.

    For an event writer that is given every iteration: ``write`` of a run is given tables already, which cost
    a fraction of the `Events` that are made of them when somebody looks at one.
    """
    if isinstance(events, EventLog):
        return events.tables
    return EventLog.of(events).tables


def _num_bytes(table: EventTable) -> int:
    size = len(table.rows) * (ROW_BYTES + VALUE_BYTES * len(table.names))
    return size if table.rest is None else size + _num_bytes_of_rest(table.rest)


def _num_bytes_of_rest(event: Events) -> int:
    size = sum(image.nbytes for image in event.images.values())
    size += sum(histogram.counts.nbytes * 2 for histogram in event.histograms.values())
    return size + sum(map(len, event.texts.values()))
