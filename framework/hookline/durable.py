"""Files and names that outlast a loss of power: who looks finds them whole, or as they were before."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain, count
from pathlib import Path

__all__ = ["make_directory", "name_aside", "remove_leftovers", "replace_file", "sync_directory", "write_new"]

_LEFTOVER = re.compile(r"\.tmp-(.+)-[0-9a-f]{8}", re.DOTALL)
_PORTION = 4 * 2**20  # small enough to be in the cache still when it is written after it was hashed


def write_new(path: Path, pieces: Iterable[bytes | memoryview]) -> tuple[int, str]:
    """Make ``pieces`` the durable content of a new file; return its size and SHA-256.

    The checksum is that of what was to be written, not of what can be read back. The file's name is durable
    after `sync_directory` of its directory.

    Args:
        path: Where there is no file yet.
        pieces: Each is asked for when the one before it is written.

    Raises:
        OSError: If something is there already, or the disk refuses; what was written is not removed.
    """
    digest, size = hashlib.sha256(), 0
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        for portion in _portions(pieces):
            digest.update(portion)
            size += len(portion)
            while portion:
                portion = portion[os.write(descriptor, portion) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return size, digest.hexdigest()


def replace_file(path: Path, data: bytes) -> None:
    """Make ``data`` the durable content of ``path``: who reads or crashes sees the old or all of the new.

    A process that is killed here may leave a file beside ``path``, see `remove_leftovers`.

    Raises:
        OSError: If the disk refuses. ``path`` has the old content then, unless it was the last sync, that of
            the directory, which failed: then it has all of the new, which a loss of power may take back.
    """
    # Beside the target: a rename across file systems would copy.
    temporary = path.with_name(f".tmp-{path.name}-{secrets.token_hex(4)}")
    try:
        write_new(temporary, [data])
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise
    sync_directory(path.parent)


def remove_leftovers(directory: Path, name: str | None = None) -> None:
    """Remove from ``directory`` what a process left there that was killed in `replace_file`.

    Call it where nobody else can be replacing such a file: what that one has written would be gone. Removes
    nothing but plain files, and follows no link.

    Args:
        directory: May be missing.
        name: Of the file that was replaced; by default any.

    Raises:
        OSError: If the directory cannot be read, or a file in it not be removed.
    """
    with suppress(FileNotFoundError), os.scandir(directory) as entries:
        for entry in entries:
            of = _LEFTOVER.fullmatch(entry.name)
            if of and name in (None, of[1]) and entry.is_file(follow_symlinks=False):
                os.unlink(entry)


def name_aside(path: Path, generation: int) -> Path:
    """Return where to move what is at ``path`` or a part of it, instead of removing it.

    That is ``<stem>.orphaned-<generation><suffix>`` beside it; where there is something already, ``-2`` and
    so on follows the number. Nobody else may be looking for such a name at the same time.

    Args:
        path: Of the file.
        generation: Number of this start of the run.
    """
    ends = chain([""], (f"-{number}" for number in count(2)))
    names = (path.with_name(f"{path.stem}.orphaned-{generation}{end}{path.suffix}") for end in ends)
    return next(name for name in names if not os.path.lexists(name))


def make_directory(path: Path) -> None:
    """Make ``path`` and its missing parents, so that they outlast a loss of power; there may be some already.

    Raises:
        OSError: If the disk refuses, or ``path`` or a parent is something other than a directory.
    """
    if path.is_dir():
        return
    make_directory(path.parent)
    try:
        os.mkdir(path)
    except FileExistsError:
        if not path.is_dir():
            raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make durable which names are in ``path`` after files were made, renamed or removed; not their content.

    Where the file system has no such operation, as some network file systems, nothing happens.

    Raises:
        OSError: If there is no such directory, or its disk fails; what is durable then, nobody knows.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def _portions(pieces: Iterable[bytes | memoryview]) -> Iterator[memoryview]:
    for piece in pieces:
        view = memoryview(piece)
        for start in range(0, len(view), _PORTION):
            yield view[start : start + _PORTION]
