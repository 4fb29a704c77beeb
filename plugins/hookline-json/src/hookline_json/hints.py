"""Which scalars want smoothing, beside the lines that do not say it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from hookline import RunError, remove_leftovers, replace_file

__all__ = ["HintFile", "path_of_hints", "read_hints"]


def path_of_hints(metrics: Path) -> Path:
    """Return the file that belongs to ``metrics``: ``metrics.hints.json`` to ``metrics.jsonl``."""
    return metrics.with_name(f"{metrics.stem}.hints.json")


def read_hints(path: Path) -> dict[str, bool]:
    """Return whether each scalar that was written so far wants smoothing; empty where there is no file.

    Raises:
        RunError: If there is something else in it.
    """
    try:
        hints = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError:
        hints = None
    if not isinstance(hints, dict) or not all(isinstance(hint, bool) for hint in hints.values()):
        raise RunError(
            f"{path}: expected true or false for each scalar, got something else. "
            "Remove it: without it every scalar counts as one that wants smoothing."
        )
    return hints


class HintFile:
    """The file at ``path``, which is written anew when a scalar comes up or changes its mind.

    Args:
        path: Where it is.
        fresh: Begin with none, instead of those that are there.
    """

    def __init__(self, path: Path, *, fresh: bool) -> None:
        remove_leftovers(path.parent, path.name)
        if fresh:
            path.unlink(missing_ok=True)
        self._path = path
        self.hints = read_hints(path)

    def keep(self, hints: Mapping[str, bool]) -> None:
        """Make ``hints`` what is in the file, if they are not."""
        if hints != self.hints:
            replace_file(self._path, f"{json.dumps(hints, sort_keys=True)}\n".encode())
            self.hints = dict(hints)
