"""Work on a thread beside training, and what became of it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from threading import Thread

__all__ = ["in_background"]


def in_background(write: Callable[[], Path]) -> Future[Path]:
    """Return at once, with a future of what ``write`` returns or raises on a thread of its own.

    The thread does not keep the process from ending: whoever needs the result waits for the future.
    """
    future: Future[Path] = Future()

    def work() -> None:
        try:
            future.set_result(write())
        except BaseException as error:
            future.set_exception(error)

    Thread(target=work, name="hookline-checkpoint", daemon=True).start()
    return future
