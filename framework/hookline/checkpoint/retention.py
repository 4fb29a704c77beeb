"""Which checkpoints are kept, and how the others go: never before enough are known to be good."""

from __future__ import annotations

import logging
import os
import re
import secrets
import shutil
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

from hookline.checkpoint.attempts import refused
from hookline.checkpoint.manifest import MANIFEST, checkpoints, iteration_of, read_manifest, verify
from hookline.checkpoint.pointers import leave_newer, pointed_names
from hookline.durable import sync_directory
from hookline.errors import CheckpointError, Problem

__all__ = [
    "KEEP_RULE",
    "Fence",
    "Ledger",
    "check_keep",
    "discard",
    "discard_newer",
    "no_fence",
    "remove",
    "remove_leftovers",
    "retain",
]

KEEP_RULE = "0 for all, or a whole number >= 2"

Fence = Callable[[], None]
"""Raises when another process writes in the directory by now, and this one must not any more."""

_LEFTOVER = re.compile(r"\.tmp-[\w.-]+-[0-9a-f]{8}")

_log = logging.getLogger(__name__)


def no_fence() -> None:
    """Raise nothing: for a directory that no other process writes in."""


class Ledger:
    """Which checkpoints are as they were written, as far as this process has looked: it reads each once."""

    def __init__(self) -> None:
        self._is_good: dict[tuple[str, str], bool] = {}

    def add(self, path: Path, save_id: str) -> None:
        """Note that the checkpoint at ``path`` is good."""
        self._is_good[path.name, save_id] = True

    def is_good(self, path: Path) -> bool:
        """Return whether the checkpoint at ``path`` is good; a damaged one is named in a warning, once."""
        key = path.name, _save_id(path)
        if key not in self._is_good:
            try:
                verify(path)
            except CheckpointError as error:
                _log.warning("a damaged checkpoint does not count as one that is kept: %s", error)
                self._is_good[key] = False
            else:
                self._is_good[key] = True
        return self._is_good[key]


def check_keep(keep: int) -> None:
    """Return if so many checkpoints may be kept.

    Raises:
        CheckpointError: If it is one alone, or no number of them.
    """
    if keep < 0 or keep == 1:
        fix = "One alone is no way back when it turns out to be damaged"
        raise CheckpointError(str(Problem("checkpoint: keep", KEEP_RULE, keep, fix=fix)))


def retain(
    root: Path,
    keep: int,
    protected: Collection[str] = (),
    *,
    fence: Fence = no_fence,
    ledger: Ledger | None = None,
) -> list[Path]:
    """Delete the checkpoints in ``root`` before the ``keep`` newest good ones; return them, oldest first.

    Looks at the disk, so it also counts what a process before this one saved. What a pointer in ``root``
    names, ``latest``, ``best`` or any other, is kept in addition. Follows no link.

    Args:
        root: Directory of checkpoints.
        keep: How many; 0 keeps all.
        protected: Directory names to keep besides, such as a checkpoint being read.
        fence: Called before anything is deleted.
        ledger: What is known of the checkpoints; without one, those that count are read.

    Raises:
        CheckpointError: If ``keep`` is 1, or one cannot be deleted.
    """
    check_keep(keep)
    root = Path(root)
    found = [path for path in checkpoints(root) if (path / MANIFEST).is_file()]
    old = _before_the_good(found, keep, ledger or Ledger()) if keep else []
    kept = {*pointed_names(root), *protected} if old else set()
    return discard([path for path in reversed(old) if path.name not in kept], fence)


def discard_newer(root: Path, iteration: int) -> list[Path]:
    """Delete the checkpoints after ``iteration`` and the pointers to them, and return the checkpoints.

    For a run that goes on from an earlier one: otherwise `newest_valid` finds the future that it has left.
    ``latest`` names the newest of the others then.
    """
    root = Path(root)
    if root.is_dir():
        leave_newer(root, iteration)
    return discard([path for path in checkpoints(root) if iteration_of(path) > iteration])


def discard(paths: Collection[Path], fence: Fence = no_fence) -> list[Path]:
    """Delete the checkpoints ``paths``, durably, and return them."""
    for path in paths:
        fence()
        trash = path.with_name(f".tmp-{path.name}-{secrets.token_hex(4)}")
        try:
            # Renamed first: a deletion that is interrupted must not leave what looks like a checkpoint.
            os.rename(path, trash)
            sync_directory(path.parent)
        except OSError as error:
            raise refused(path, error) from error
        remove(trash)
    return list(paths)


def remove_leftovers(root: Path) -> None:
    """Remove what a save or a deletion that was killed left in ``root``."""
    for path in list(root.iterdir()):
        if _LEFTOVER.fullmatch(path.name):
            remove(path)
    for path in checkpoints(root):
        successor = path.with_suffix("")
        if path.suffix and not os.path.lexists(successor):
            os.rename(path, successor)
        elif path.suffix and Ledger().is_good(successor):
            sync_directory(root)  # the successor's name, before that of what it has replaced goes
            discard([path])


def remove(path: Path) -> None:
    """Remove ``path``, as far as it can be, without following links; the next save tries again."""
    with suppress(OSError):
        if path.is_symlink() or not path.is_dir():
            path.unlink()
        else:
            shutil.rmtree(path, ignore_errors=True)


def _before_the_good(newest_first: list[Path], keep: int, ledger: Ledger) -> list[Path]:
    """Return those after the ``keep`` first good ones."""
    num_good = 0
    for index, path in enumerate(newest_first):
        if num_good == keep:
            return newest_first[index:]
        num_good += ledger.is_good(path)
    return []


def _save_id(path: Path) -> str:
    try:
        return read_manifest(path).save_id
    except CheckpointError:
        return ""
