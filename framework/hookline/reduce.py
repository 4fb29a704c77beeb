"""One point per period instead of one per iteration, for writers whose readers look at curves.

::

    Events of every iteration ─▶ PeriodReducer ─▶ Events with fewer scalars, all else unchanged
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import repeat
from operator import add
from typing import Any

from hookline.events import Events, EventTable, Scalar, as_tables

__all__ = ["PeriodReducer"]


class PeriodReducer:
    """Thins out the scalars of a stream of events to one point per period.

    A scalar that wants smoothing becomes its mean over the period. One that does not, but was put in every
    iteration of the period, becomes its last value. Both stand at the last iteration of the period that
    has events. A sparse scalar (an evaluation, say) that wants no smoothing keeps every value at its own
    iteration, and so does all that is not a scalar.

    What belongs to an unfinished period is held back, so that events come out in iteration order, at most
    one for an iteration. It is part of ``state_dict``: a stream that is cut anywhere gives the same points.

    Args:
        period: Iterations in a period; one ends where ``(iteration + 1) % period == 0``. With 0 or 1 every
            event comes out at once, as it is.
        start_iter: First iteration of the stream; the period it falls into counts from there.
    """

    def __init__(self, period: int, start_iter: int = 0) -> None:
        self._period = max(period, 1)
        self._first = start_iter
        self._last: tuple[int, float] | None = None
        self._sums: dict[str, tuple[float, int, bool]] = {}
        self._exact: dict[str, list[tuple[int, float, bool]]] = {}
        self._times: dict[int, float] = {}
        self._held: dict[int, Events] = {}

    def reduce(self, events: Sequence[Events]) -> list[Events]:
        """Take the next ``events`` of the stream; return those of the periods that are complete now."""
        done: list[Events] = []
        for table in as_tables(events):
            rows, start = table.rows, 0
            while start < len(rows):
                end = self._end(rows[start][0])
                if self._last is not None and self._last[0] < end - self._period + 1:
                    done += self._close(self._end(self._last[0]))
                stop = min(start + end - rows[start][0] + 1, len(rows))
                while rows[stop - 1][0] > end:
                    stop -= 1
                self._take(table, rows[start:stop])
                if rows[stop - 1][0] == end:
                    done += self._close(end)
                start = stop
        return done

    def flush(self) -> list[Events]:
        """Return what is held back, as if the period ended here; call it when the stream has ended."""
        return self._close(self._last[0]) if self._last is not None else []

    def state_dict(self) -> dict[str, Any]:
        """Return what is held back, as JSON values and arrays."""
        return {
            "first": self._first,
            "last": None if self._last is None else list(self._last),
            "sums": {name: list(entry) for name, entry in self._sums.items()},
            "exact": {
                name: [list(part) for part in zip(*column, strict=True)]
                for name, column in self._exact.items()
            },
            "times": [list(self._times), list(self._times.values())],
            "held": [event.to_state() for event in self._held.values()],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` returned."""
        self._first = state["first"]
        self._last = None if state["last"] is None else (state["last"][0], state["last"][1])
        self._sums = {name: (total, num, volatile) for name, (total, num, volatile) in state["sums"].items()}
        self._exact = {name: list(zip(*parts, strict=True)) for name, parts in state["exact"].items()}
        self._times = dict(zip(*state["times"], strict=True))
        self._held = {held["iteration"]: Events.from_state(held) for held in state["held"]}

    def _end(self, iteration: int) -> int:
        """Return the last iteration of the period that ``iteration`` falls into."""
        return iteration - iteration % self._period + self._period - 1

    def _take(self, table: EventTable, rows: Sequence[tuple[Any, ...]]) -> None:
        """Take ``rows`` of ``table``, which are of one period."""
        iterations, times, *columns = zip(*rows, strict=True)
        self._last = (iterations[-1], times[-1])
        for name, column in zip(table.names, columns, strict=True):
            smoothing_hint, volatile = table.flags[name]
            if smoothing_hint:
                total, num, _ = self._sums.get(name, (0.0, 0, False))
                # One by one, so that it does not matter where the stream is cut; sum() may be cleverer.
                self._sums[name] = (functools.reduce(add, column, total), num + len(column), volatile)
            else:
                self._times.update(zip(iterations, times, strict=True))
                exact = self._exact.setdefault(name, [])
                exact.extend(zip(iterations, column, repeat(volatile)))
        if table.rest is not None:
            self._held[table.rest.iteration] = replace(table.rest, scalars={})

    def _close(self, end: int) -> list[Events]:
        """Return the events of the open period, which counts up to ``end``, and start the next one."""
        assert self._last is not None
        num_iters = end - max(self._first, end - end % self._period) + 1
        points = {name: Scalar(total / num, True, vol) for name, (total, num, vol) in self._sums.items()}
        sparse: dict[int, dict[str, Scalar]] = {}
        for name, column in self._exact.items():
            if len(column) == num_iters:
                points[name] = Scalar(column[-1][1], False, column[-1][2])
                continue
            for iteration, value, volatile in column:
                sparse.setdefault(iteration, {})[name] = Scalar(value, False, volatile)
        if points:
            last = sparse.setdefault(self._last[0], {})
            last |= points
            self._times[self._last[0]] = self._last[1]
        done = [self._event(iteration, sparse) for iteration in sorted({*self._held, *sparse})]
        self._first, self._last, self._sums = end + 1, None, {}
        self._exact, self._times, self._held = {}, {}, {}
        return done

    def _event(self, iteration: int, scalars: Mapping[int, dict[str, Scalar]]) -> Events:
        found = scalars.get(iteration, {})
        if iteration in self._held:
            return replace(self._held[iteration], scalars=found)
        return Events(iteration, self._times[iteration], found)
