"""What is said of a state that does not fit, and of an exception that Python says nothing of."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hookline.errors import CheckpointError, HooklineError, notes

__all__ = ["restoring", "say_if_exit"]

_log = logging.getLogger(__name__)


@contextmanager
def restoring(path: Path) -> Iterator[None]:
    """Name the checkpoint at ``path`` in whatever is raised because its state is not one that fits.

    Files that are as they were written may still lack a part, or have one of another shape: they were written
    by another program, or another version of the classes that take them.

    Raises:
        CheckpointError: In place of anything that is no error of hookline's.
    """
    try:
        yield
    except HooklineError:
        raise
    except Exception as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        raise CheckpointError(
            f"checkpoint {path}: expected the state of this trainer, got one that it cannot take "
            f"({type(error).__name__}: {error}; at {at.filename}:{at.lineno}). Use the code and the config "
            "that it was saved with."
        ) from error


def say_if_exit(error: BaseException) -> None:
    """Log ``error`` if it ends a program without a word; who asked for that is in its notes."""
    if isinstance(error, SystemExit):
        _log.error("%s", "\n".join([f"{type(error).__name__}: {error}", *notes(error)]))
