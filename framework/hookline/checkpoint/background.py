"""Work on a thread beside training, and what became of it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from threading import Thread
from time import sleep

__all__ = ["in_background"]

# A thread begins with the interpreter's lock, and would keep it from the one that trains for milliseconds.
_HEAD_START_S = 0.001


def in_background(write: Callable[[], Path]) -> Future[Path]:
    """Return at once, with a future of what ``write`` returns or raises on a thread of its own.

    The thread does not keep the process from ending: whoever needs the result waits for the future.
    """
    future: Future[Path] = Future()

    def work() -> None:
        sleep(_HEAD_START_S)
        try:
            future.set_result(write())
        except BaseException as error:
            future.set_exception(error)

    Thread(target=work, name="hookline-checkpoint", daemon=True).start()
    return future
