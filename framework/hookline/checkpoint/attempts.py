"""What is written is tried twice, each time anew: a failed write leaves nothing that can be trusted."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from hookline.errors import CheckpointError, Problem

__all__ = ["refused", "twice"]

Result = TypeVar("Result")

_log = logging.getLogger(__name__)


def twice(attempt: Callable[[], Result], path: Path) -> Result:
    """Return what ``attempt`` returns; where it fails, say so and call it once more.

    After a failed ``fsync`` the system may have dropped what it could not write, and a second one would
    succeed: ``attempt`` must write everything again, from memory and under a new name.

    Raises:
        OSError: If the disk refuses the second time, too.
        CheckpointError: If what was written the second time is damaged, too.
    """
    try:
        return attempt()
    except (OSError, CheckpointError) as error:
        _log.warning("checkpoint %s: writing it anew, as that failed: %s", path, error)
    return attempt()


def refused(path: Path, error: Exception, fix: str = "") -> CheckpointError:
    """Return the error for a place where the disk did not do what was asked of it."""
    got = getattr(error, "strerror", None) or str(error)
    return CheckpointError(str(Problem(f"checkpoint {path}", "a disk that takes it", got, fix=fix)))
