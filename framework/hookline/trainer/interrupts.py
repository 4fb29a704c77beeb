"""Ctrl-C and SIGTERM pause a run instead of killing it, SIGUSR1 saves it; a second Ctrl-C exits at once."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any

from hookline import distributed

__all__ = ["Interrupts"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
_SAME_S = 1.0  # `timeout`, and launchers whose group a terminal interrupts too, send one signal twice.

_log = logging.getLogger(__name__)


class Interrupts:
    """Within this context the first SIGINT or SIGTERM is only noted; a later one ends the process.

    SIGUSR1 is noted as often as it comes, also when it was blocked until now. May be entered again inside
    itself. Signals can be caught in a process's main thread only; elsewhere the context does nothing.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        """The signal that arrived, here or on another rank, or None."""
        self.ending = False
        """Whether the run ends anyway, so that a signal changes nothing."""
        self.save_due = False
        """Whether SIGUSR1 arrived, and nothing was saved since."""
        self.last_words: Callable[[], str] = str
        """Returns what is to be said when the process ends at once."""
        self._noted_at = 0.0
        self._depth = 0
        self._process = 0
        self._previous: dict[signal.Signals, Any] = {}
        self._mask: set[Any] = set()

    def __enter__(self) -> Interrupts:
        if self._depth == 0:
            self.signal, self.ending, self.save_due, self._process = None, False, False, os.getpid()
            if threading.current_thread() is threading.main_thread():
                self._previous = {number: signal.signal(number, self._note) for number in _SIGNALS}
                self._mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
        self._depth += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._depth -= 1
        if self._depth == 0 and self._previous:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        while self._depth == 0 and self._previous:
            number, handler = self._previous.popitem()
            # None: it was not installed from Python, and cannot be.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def raise_again(self) -> None:
        """Raise what the noted signal would have raised, so that the program around the run ends too."""
        if self.signal is signal.SIGINT:
            raise KeyboardInterrupt
        if self.signal is not None:
            raise SystemExit(128 + self.signal)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # Forked from here: Ctrl-C is for the run, it ends when that does.
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        if number == signal.SIGUSR1:
            self.save_due = True
            self._tell("SIGUSR1: saving at the end of this iteration.")
            return
        now = time.monotonic()
        if self.signal is None:
            self.signal, self._noted_at = signal.Signals(number), now
            self._tell(f"{self.signal.name}: pausing the run. Send it again to exit at once.")
        elif now - self._noted_at > _SAME_S:
            with suppress(Exception):
                os.write(2, self.last_words().encode())
            os._exit(128 + number)

    def _tell(self, line: str) -> None:
        if not self.ending:
            # On every rank, but a person need not read it more than once.
            level = logging.WARNING if distributed.is_main() else logging.INFO
            with suppress(Exception):  # It may come amid printing, or the import of what prints.
                _log.log(level, "%s", line)
