"""A CSV file whose columns can become more, and that can be cut back to what it was."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from hookline import Problem, RunError, make_directory, name_aside, sync_directory

__all__ = ["Table"]

QUOTE = '"'
PIECE_ROWS = 4096

_SPECIAL = {*",\r\n", QUOTE}


class Table:
    """A file of numbers: a row of names, then rows that are on the disk when ``append`` returns.

    Args:
        path: Where it is.
        position: What `position` returned; what came after it, rows and columns, is cut off. None begins
            anew, and moves a table that is there to ``<stem>.orphaned-<generation><suffix>`` beside it.
        generation: Number of this start of the run.
        writer: The name of the writer whose file it is, for messages.

    Raises:
        RunError: If the file has fewer rows than at the position, or other ones.
    """

    def __init__(self, path: Path, position: Mapping[str, Any] | None, generation: int, writer: str) -> None:
        make_directory(path.parent)
        self._path, self._writer = path, writer
        self._descriptor = -1
        if position is None:
            columns = ["iteration"]
            if path.exists() and path.stat().st_size > len(_header(columns)):
                os.rename(path, name_aside(path, generation))
            self._make(columns, [])
        else:
            self._go_to(position)

    def add_columns(self, names: Iterable[str]) -> None:
        """Add those of ``names`` that are new on the right; the file is replaced by one that has them."""
        new = [name for name in names if name not in self._known]
        if new:
            end = b"," * len(new) + b"\n"
            pieces = (piece.replace(b"\n", end) for piece in _joined(_rows(self._path)))
            self._make([*self.columns, *new], pieces)

    def append(self, rows: Sequence[Sequence[str]]) -> None:
        """Add ``rows``, whole; each has a cell for each column."""
        content = "".join(f"{','.join(row)}\n" for row in rows).encode()
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]
        os.fsync(self._descriptor)
        self._hash.update(content)
        self._num_rows += len(rows)

    def position(self) -> dict[str, Any]:
        """Return what ``__init__`` goes on from."""
        return {
            "columns": list(self.columns),
            "num_rows": self._num_rows,
            "sha256": self._hash.hexdigest(),
        }

    def close(self) -> None:
        """Close the file; it can be called again."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _go_to(self, position: Mapping[str, Any]) -> None:
        """Cut the file to what it was at ``position``: columns that came later are those on the right."""
        columns, num_rows = list(position["columns"]), position["num_rows"]
        rows = (_cut(row, len(columns)) for row in islice(_rows(self._path), num_rows))
        self._make(columns, _joined(rows), position)

    def _make(
        self, columns: list[str], pieces: Iterable[bytes], position: Mapping[str, Any] | None = None
    ) -> None:
        """Replace the file by one of these rows, once it is whole, on the disk and what ``position`` says."""
        self._hash, self._num_rows = hashlib.sha256(), 0
        temporary = self._path.with_name(f".tmp-{self._path.name}")
        try:
            with open(temporary, "wb") as file:
                header = _header(columns)
                file.write(header)
                self._hash.update(header)
                for piece in pieces:
                    file.write(piece)
                    self._hash.update(piece)
                    self._num_rows += piece.count(b"\n")
                file.flush()
                os.fsync(file.fileno())
            if position is not None:
                self._check(position)
            os.replace(temporary, self._path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        sync_directory(self._path.parent)
        self.columns, self._known = columns, set(columns)
        self.close()
        self._descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    def _check(self, position: Mapping[str, Any]) -> None:
        """Return if what was made of the file is what was there at ``position``."""
        if self._num_rows == position["num_rows"] and self._hash.hexdigest() == position["sha256"]:
            return
        is_shorter = self._num_rows < position["num_rows"]
        got = f"{self._num_rows} rows" if is_shorter else "other ones"
        if not self._path.exists():
            got = "no file"
        rule = f"the {position['num_rows']} rows that the checkpoint knows of"
        exists = "It was cut, replaced or edited since"
        fix = f"Put it back, or leave the writer out: writers-={self._writer} plugins.on_change=warn"
        raise RunError(str(Problem(str(self._path), rule, got, exists=exists, fix=fix)))


def _header(columns: Sequence[str]) -> bytes:
    quoted = (f'"{name.replace(QUOTE, 2 * QUOTE)}"' if _SPECIAL & set(name) else name for name in columns)
    return f"{','.join(quoted)}\n".encode(errors="backslashreplace")


def _rows(path: Path) -> Iterator[bytes]:
    """Yield the rows below the names; a name may be quoted, and have a new line in it."""
    if not path.exists():
        return
    with open(path, "rb") as file:
        num_quotes = 0
        for line in file:
            num_quotes += line.count(QUOTE.encode())
            if num_quotes % 2 == 0:
                break
        yield from file


def _cut(row: bytes, num_columns: int) -> bytes:
    """Return the first cells of ``row``, no one of which is quoted."""
    if row.count(b",") < num_columns:
        return row
    return b",".join(row[:-1].split(b",", num_columns)[:num_columns]) + b"\n"


def _joined(rows: Iterator[bytes]) -> Iterator[bytes]:
    """Yield ``rows`` in pieces, of which there are fewer."""
    while piece := b"".join(islice(rows, PIECE_ROWS)):
        yield piece
