"""Small files beside checkpoints, such as ``latest`` and ``best``, each with the name of one of them."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from hookline.checkpoint.attempts import refused, twice
from hookline.checkpoint.manifest import CHECKPOINT_NAME, COMPONENT_NAME, checkpoints, iteration_of
from hookline.durable import replace_file, sync_directory
from hookline.errors import CheckpointError, Problem

__all__ = ["advance_pointer", "leave_newer", "pointed_names", "read_pointer", "write_pointer"]

_MAX_BYTES = 100


def write_pointer(root: Path, name: str, target: Path) -> None:
    """Make the file ``name`` in ``root`` hold the name of the checkpoint ``target``, atomically.

    Raises:
        CheckpointError: If ``name`` is not a plain name, or the file cannot be written.
    """
    if not COMPONENT_NAME.fullmatch(name) or CHECKPOINT_NAME.fullmatch(name):
        raise CheckpointError(str(Problem("checkpoint pointer", "a name of letters, digits, _ and -", name)))
    place = Path(root) / name
    try:
        twice(lambda: replace_file(place, f"{Path(target).name}\n".encode()), place)
    except OSError as error:
        raise refused(place, error) from error


def read_pointer(root: Path, name: str) -> Path | None:
    """Return the checkpoint that the pointer ``name`` names, or None where it names none that is there.

    While a checkpoint is being replaced by one of the same iteration, that is the one that is replaced.
    """
    root, target = Path(root), _content(Path(root) / name)
    if CHECKPOINT_NAME.fullmatch(target):
        found = [root / target, *sorted(root.glob(f"{target}.old-*"))]
        return next((path for path in found if path.is_dir() and not path.is_symlink()), None)
    return None


def advance_pointer(root: Path, name: str, iteration: int) -> None:
    """Let ``name`` name the checkpoint of ``iteration``, if that is there and it names none or an earlier.

    Raises:
        CheckpointError: If the file cannot be written.
    """
    is_there = any(iteration_of(path) == iteration for path in checkpoints(Path(root)))
    named = read_pointer(root, name)
    if is_there and (named is None or iteration_of(named) < iteration):
        write_pointer(root, name, Path(root) / f"iter_{iteration:07d}")


def leave_newer(root: Path, iteration: int) -> None:
    """Let no pointer in ``root`` name a checkpoint after ``iteration``, be that there or not; durably.

    Call it before such checkpoints go: another one of the same iteration would be taken for what was named.
    ``latest`` names the newest of the others then; any other pointer is removed.

    Raises:
        CheckpointError: If the disk refuses.
    """
    older = [path for path in checkpoints(root) if iteration_of(path) <= iteration]
    try:
        for file in list(root.iterdir()):
            target = _content(file)
            if CHECKPOINT_NAME.fullmatch(target) and iteration_of(Path(target)) > iteration:
                if file.name == "latest" and older:
                    write_pointer(root, "latest", older[0].with_suffix(""))
                else:
                    file.unlink()
        sync_directory(root)
    except OSError as error:
        raise refused(root, error) from error


def pointed_names(root: Path) -> set[str]:
    """Return the names of the checkpoints in ``root`` that any pointer in it names."""
    return {target.name for file in root.iterdir() if (target := read_pointer(root, file.name))}


def _content(path: Path) -> str:
    # Only a plain file is opened, and little of it read: a pipe would wait, a device never end.
    with suppress(OSError, UnicodeDecodeError):
        if stat.S_ISREG(os.lstat(path).st_mode):
            with open(path, encoding="utf-8") as file:
                return file.read(_MAX_BYTES).strip()
    return ""
