"""Files that can be gone on with after a crash: what they held is neither lost nor doubled."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from hookline import Problem, RunError, make_directory, name_aside, sync_directory

__all__ = ["LineFile"]

CHUNK_BYTES = 2**20


class LineFile:
    """A file that only grows, by whole lines that are on the disk when ``append`` returns.

    What follows the position is moved to ``<stem>.orphaned-<generation><suffix>`` beside the file; where
    there is no position, all of it.

    Args:
        path: Where it is.
        position: What `position` returned: how long the file was, and a hash of what was in it. None for a
            file that begins here.
        generation: Number of this start of the run. None drops what follows the position.
        writer: The name of the writer whose file it is, for messages.

    Raises:
        RunError: If the file is shorter than its position, or not what it was.
    """

    def __init__(
        self, path: Path, position: Mapping[str, Any] | None, generation: int | None, writer: str
    ) -> None:
        make_directory(path.parent)
        if generation is not None:
            _finish_move(path)
        if position is None:
            _put_aside(path, generation or 0)
        elif (size_bytes := _size_bytes(path)) < position["size_bytes"]:
            raise _changed(path, position, f"{size_bytes} bytes" if path.exists() else "no file", writer)
        self._path, self._writer = path, writer
        self._size_bytes = 0
        self._hash = hashlib.sha256()
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            if position is not None:
                self._check(position)
                self._cut(generation)
            sync_directory(path.parent)
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
        """Close the file; no call follows."""
        os.close(self._descriptor)

    def _check(self, position: Mapping[str, Any]) -> None:
        """Return if the file begins with what was in it at ``position``."""
        left = position["size_bytes"]
        while left and (chunk := os.pread(self._descriptor, min(CHUNK_BYTES, left), self._size_bytes)):
            self._hash.update(chunk)
            self._size_bytes += len(chunk)
            left -= len(chunk)
        if self._hash.hexdigest() != position["sha256"]:
            raise _changed(self._path, position, "other ones", self._writer)

    def _cut(self, generation: int | None) -> None:
        """Move what follows to the file of ``generation``, where it is before it is gone here."""
        if os.fstat(self._descriptor).st_size == self._size_bytes:
            return
        moved = None
        if generation is not None:
            moved = name_aside(self._path, generation)
            copy = _copy_tail(self._path, self._size_bytes, moved)
        os.ftruncate(self._descriptor, self._size_bytes)
        os.fsync(self._descriptor)
        if moved is not None:
            os.rename(copy, moved)


def _changed(path: Path, position: Mapping[str, Any], got: str, writer: str) -> RunError:
    """Return what to say of a file that is not what it was at ``position``."""
    rule = f"the {position['size_bytes']} bytes that the checkpoint knows of"
    exists = "It was cut, replaced or edited since"
    fix = f"Put it back, or leave the writer out: writers-={writer} plugins.on_change=warn"
    return RunError(str(Problem(str(path), rule, got, exists=exists, fix=fix)))


def _put_aside(path: Path, generation: int) -> None:
    """Move all of what a run that left no checkpoint wrote."""
    if _size_bytes(path):
        os.rename(path, name_aside(path, generation))


def _copy_tail(path: Path, offset: int, orphan: Path) -> Path:
    """Return a durable copy of what follows ``offset``; its name tells what `_finish_move` has to know."""
    copy = path.with_name(f".tmp-{orphan.name}.{offset}")
    try:
        with open(path, "rb") as source, open(copy, "xb") as target:
            source.seek(offset)
            shutil.copyfileobj(source, target)
            target.flush()
            os.fsync(target.fileno())
        sync_directory(path.parent)
    except BaseException:
        with suppress(OSError):
            copy.unlink()
        raise
    return copy


def _finish_move(path: Path) -> None:
    """End what a process that was killed while it moved the end of the file left half done.

    Its copy is what is left of that end if the file was cut already, and else there is all of it in the file.
    """
    stem, suffix = re.escape(path.stem), re.escape(path.suffix)
    for name in os.listdir(path.parent):
        copied = re.fullmatch(rf"\.tmp-{stem}\.orphaned-(\d+)(?:-\d+)?{suffix}\.(\d+)", name)
        if copied is None:
            continue
        copy, generation, offset = path.with_name(name), int(copied[1]), int(copied[2])
        if _size_bytes(path) > offset:
            copy.unlink()
        else:
            os.rename(copy, name_aside(path, generation))
        sync_directory(path.parent)


def _size_bytes(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
