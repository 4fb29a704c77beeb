"""Small files beside checkpoints, such as ``latest`` and ``best``, each with the name of one of them."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from hookline.checkpoint.attempts import refused, twice
from hookline.checkpoint.manifest import CHECKPOINT_NAME, COMPONENT_NAME
from hookline.durable import replace_file
from hookline.errors import CheckpointError, Problem

__all__ = ["pointed_names", "read_pointer", "write_pointer"]

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
