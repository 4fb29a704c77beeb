"""The scalars of a hookline run as a table: ``metrics.csv``, one row an iteration."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from hookline import Events, EventTable, EventWriter, Run, as_tables
from hookline_csv.table import Table

__all__ = ["CSVWriter"]

NAME = "csv"


class CSVWriter(EventWriter):
    """Writes every scalar of every iteration as a row of a CSV file.

    The first column is ``iteration``; each scalar has one, from the left in the order in which they come up,
    those that come up together by name. A cell is empty where a scalar was not put. Numbers are written
    exactly; one that is not finite is ``NaN``, ``Infinity`` or ``-Infinity``. When a scalar comes up, the
    file is replaced by one that has its column. Nothing but scalars is kept.

    What ``write`` was given is on the disk when it returns. Going on from a position cuts off what followed,
    and refuses a file that was cut or changed. A table that is there without a position is moved to
    ``<file>.orphaned-<generation>``, named after the start of the run that did so.

    Args:
        file: The table, relative to the run directory; by default ``metrics.csv``, and ``<name>.csv`` of an
            instance with a name other than ``csv``.
    """

    def __init__(self, file: Annotated[str, Field(min_length=1)] | None = None) -> None:
        self._name = file
        self._table: Table | None = None
        self._position: Mapping[str, Any] | None = None

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state`` at the next ``open``."""
        self._position = state

    def open(self, run: Run) -> None:
        """Cut the file to the position; without one, move what is there aside and begin anew."""
        if self._table is not None:
            self._table.close()
        is_first = run.writer in ("", NAME, type(self).__name__)
        name = self._name or ("metrics.csv" if is_first else f"{run.writer}.csv")
        self._table = Table(run.dir / name, self._position, run.generation, run.writer or NAME)

    def write(self, events: Sequence[Events]) -> None:
        """Append a row for each iteration that has a scalar."""
        assert self._table is not None
        tables = [table for table in as_tables(events) if table.names]
        new = (name for table in tables for name in sorted(table.names))
        self._table.add_columns(dict.fromkeys(new))
        rows = [row for table in tables for row in _rows(table, self._table.columns)]
        if rows:
            self._table.append(rows)

    def state_dict(self) -> dict[str, Any]:
        """Return the columns, and the number of rows and a hash of them."""
        assert self._table is not None
        return self._table.position()

    def close(self, status: str) -> None:
        """Close the file."""
        assert self._table is not None
        self._table.close()


def _rows(table: EventTable, columns: Sequence[str]) -> Iterator[list[str]]:
    """Yield the rows of ``table`` with a cell for each of ``columns``; the iteration is the first."""
    places = {name: place for place, name in enumerate(table.names, start=2)}
    order = [places.get(name, -1) for name in columns[1:]]
    for row in table.rows:
        yield [str(row[0]), *("" if place < 0 else _text(row[place]) for place in order)]


def _text(number: float) -> str:
    if math.isfinite(number):
        return repr(number)
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"
