"""The journal of a hookline run: one JSON object an iteration, in ``metrics.jsonl``."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from hookline import Events, EventWriter, Run, RunError
from hookline_json.lines import Lines

__all__ = ["JSONWriter"]

CHUNK_BYTES = 2**20


class JSONWriter(EventWriter):
    """Writes every scalar and text of every iteration, one JSON object a line, as the run's journal.

    Two equal runs write ``file`` equal byte for byte, and so does a run that was killed and resumed: keys are
    sorted, ``iteration`` among them, and what differs from run to run (scalars put as volatile, the wall
    clock) goes to ``timings`` instead. Numbers are written exactly; one that is not finite is the string
    ``"NaN"``, ``"Infinity"`` or ``"-Infinity"``, since JSON has no such number. Images, histograms and
    hyper-parameters are left to other writers.

    What ``write`` was given is on the disk when it returns. A position is the length of both files and a hash
    of what is in them: going on from it cuts what follows, and refuses files that were cut or changed.

    Args:
        file: The metrics, relative to the run directory.
        timings: What differs between two equal runs, relative to the run directory.
    """

    journal = True

    def __init__(
        self,
        file: Annotated[str, Field(min_length=1)] = "metrics.jsonl",
        timings: Annotated[str, Field(min_length=1)] = "timings.jsonl",
    ) -> None:
        if Path(file) == Path(timings):
            raise ValueError(f"timings: expected another file than that of the metrics, got {timings!r}.")
        self._names = {"metrics": file, "timings": timings}
        self._files: dict[str, _File] = {}
        self._lines = Lines()
        self._position: Mapping[str, Any] = {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state`` at the next ``open``."""
        self._position = state

    def open(self, run: Run) -> None:
        """Open both files and cut them to the position; without one, put aside what is there."""
        self._close_files()
        for key, name in self._names.items():
            self._files[key] = _File(run.dir / name, self._position.get(key))

    def write(self, events: Sequence[Events]) -> None:
        """Append the lines of ``events`` to both files, whole and at once."""
        metrics, timings = self._lines.of(events)
        self._files["metrics"].append(metrics)
        self._files["timings"].append(timings)

    def state_dict(self) -> dict[str, Any]:
        """Return length and hash of each file."""
        return {key: file.position() for key, file in self._files.items()}

    def close(self, status: str) -> None:
        """Close both files."""
        self._close_files()

    def _close_files(self) -> None:
        for file in self._files.values():
            file.close()
        self._files = {}


class _File:
    """A file that only grows, by whole lines that are on the disk when ``append`` returns."""

    def __init__(self, path: Path, position: Mapping[str, Any] | None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if position is None:
            _put_aside(path)
        self._path = path
        self._size_bytes = 0
        self._hash = hashlib.sha256()
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            if position is not None:
                self._go_to(position["size_bytes"], position["sha256"])
            _sync_directory(path.parent)
        except BaseException:
            self.close()
            raise

    def append(self, lines: bytes) -> None:
        """Add ``lines``, each of them whole."""
        if not lines:
            return
        rest = memoryview(lines)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]
        os.fsync(self._descriptor)
        self._hash.update(lines)
        self._size_bytes += len(lines)

    def position(self) -> dict[str, Any]:
        """Return what ``__init__`` goes on from."""
        return {"size_bytes": self._size_bytes, "sha256": self._hash.hexdigest()}

    def close(self) -> None:
        """Close the file; it can be called again."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _go_to(self, size_bytes: int, sha256: str) -> None:
        """Cut the file to ``size_bytes``, if these are what was written then."""
        there = os.fstat(self._descriptor).st_size
        if there < size_bytes:
            raise RunError(
                f"{self._path}: expected the {size_bytes} bytes that the checkpoint knows of, got {there}. "
                "It was cut or replaced. Put the whole file back, or start a new run."
            )
        while self._size_bytes < size_bytes:
            wanted = min(CHUNK_BYTES, size_bytes - self._size_bytes)
            chunk = os.pread(self._descriptor, wanted, self._size_bytes)
            if not chunk:
                break
            self._hash.update(chunk)
            self._size_bytes += len(chunk)
        if self._hash.hexdigest() != sha256:
            raise RunError(
                f"{self._path}: expected its first {size_bytes} bytes as they were written, got other ones. "
                "It was edited since the checkpoint. Put the file back, or start a new run."
            )
        os.ftruncate(self._descriptor, size_bytes)
        os.fsync(self._descriptor)


def _put_aside(path: Path) -> None:
    """Keep what a run that left no checkpoint wrote, as ``<stem>.orphaned-<n><suffix>``."""
    if not path.exists() or not path.stat().st_size:
        return
    number = 1
    while (orphan := path.with_name(f"{path.stem}.orphaned-{number}{path.suffix}")).exists():
        number += 1
    path.rename(orphan)


def _sync_directory(path: Path) -> None:
    """Make a file's name as durable as its contents."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
