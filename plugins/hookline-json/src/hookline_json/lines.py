"""From events to lines of JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any

from pydantic_core import SchemaSerializer, core_schema

from hookline import Events, EventTable, as_tables

__all__ = ["Lines"]

MAX_LAYOUTS = 1000
# Not a TypeAdapter: it reads the metadata of all that is installed, and fails where some cannot be read.
_FLOATS = SchemaSerializer(core_schema.list_schema(core_schema.float_schema()))


class Lines:
    """Makes the lines of both files; what they have in common from iteration to iteration is made once.

    Args:
        hints: Whether a scalar wants smoothing, as far as known.

    Attributes:
        hints: The same, of all scalars since.
    """

    def __init__(self, hints: Mapping[str, bool]) -> None:
        self.hints = dict(hints)
        self._flags: Mapping[str, tuple[bool, bool]] = {}
        self._layouts: dict[tuple[str, ...], tuple[_Layout | None, _Layout | None]] = {}

    def of(self, events: Sequence[Events]) -> tuple[bytes, bytes]:
        """Return the lines of the metrics and those of the timings."""
        metrics: list[str] = []
        timings: list[str] = []
        for table in as_tables(events):
            stable, varying = self._layouts_of(table)
            rows = _as_json(table.rows)
            if table.rest is not None and table.rest.texts:
                metrics.append(_line_with_texts(table.rest))
            elif stable is not None:
                metrics += stable.lines(rows)
            if varying is not None:
                timings += varying.lines(rows)
        return "".join(metrics).encode(), "".join(timings).encode()

    def _layouts_of(self, table: EventTable) -> tuple[_Layout | None, _Layout | None]:
        """Return the layouts in the metrics and in the timings; None where the table is not there."""
        if table.flags is not self._flags or len(self._layouts) == MAX_LAYOUTS:
            self._flags, self._layouts = table.flags, {}
        if table.names not in self._layouts:
            self.hints.update({name: table.flags[name][0] for name in table.names})
            places = {name: place for place, name in enumerate(table.names, start=2)}
            varying = {name: place for name, place in places.items() if table.flags[name][1]}
            stable = {name: place for name, place in places.items() if name not in varying}
            self._layouts[table.names] = (
                _Layout({**stable, "iteration": 0}) if stable else None,
                _Layout({"wall_time_s": 1, **varying, "iteration": 0}) if varying else None,
            )
        return self._layouts[table.names]


class _Layout:
    """The lines of iterations that have the same scalars, and what is alike in all of them.

    Args:
        places: Where each key's value is in a row.
    """

    def __init__(self, places: Mapping[str, int]) -> None:
        keys = sorted(places)
        self._line = "{" + ", ".join(f"{json.dumps(key)}: ".replace("%", "%%") + "%s" for key in keys) + "}\n"
        self._values = itemgetter(*[places[key] for key in keys])

    def lines(self, rows: Sequence[tuple[Any, ...]]) -> list[str]:
        """Return a line for each row."""
        line, values = self._line, self._values
        return [line % values(row) for row in rows]


def _as_json(rows: Sequence[tuple[Any, ...]]) -> Sequence[tuple[Any, ...]]:
    """Return ``rows`` with all numbers but the iteration as JSON writes them.

    pydantic writes a float in a tenth of the time that ``repr`` takes, which is most of a line's.
    """
    numbers = [*chain.from_iterable(row[1:] for row in rows)]
    texts = _FLOATS.to_json(numbers)[1:-1].decode().split(",")
    if not math.isfinite(sum(numbers)):  # Finite only if all of them are.
        texts = [
            text if math.isfinite(number) else json.dumps(_plain(number))
            for text, number in zip(texts, numbers, strict=True)
        ]
    width = len(rows[0]) - 1
    return [*zip([row[0] for row in rows], *[iter(texts)] * width, strict=True)]


def _line_with_texts(events: Events) -> str:
    stable = {name: scalar.value for name, scalar in events.scalars.items() if not scalar.volatile}
    values = {name: _plain(value) for name, value in stable.items()}
    each = {**events.texts, **values, "iteration": events.iteration}
    return json.dumps(each, sort_keys=True, allow_nan=False) + "\n"


def _plain(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
