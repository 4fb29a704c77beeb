"""How a command with processes of its own ends when it is asked to."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["ending_in_order"]


@contextmanager
def ending_in_order() -> Iterator[None]:
    """Make SIGTERM and SIGHUP exceptions inside, so that processes and files are cleared away.

    A signal that this process ignores, as nohup asks it to, stays ignored.
    """
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    is_main = threading.current_thread() is threading.main_thread()  # no other thread may set them
    before = {number: signal.getsignal(number) for number in numbers if is_main}
    for number, handler in before.items():
        if handler == signal.SIG_DFL:
            signal.signal(number, _end)
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler == signal.SIG_DFL:
                signal.signal(number, handler)


def _end(signal_number: int, frame: object) -> None:
    sys.exit(128 + signal_number)
