"""Ctrl-C and SIGTERM pause a run instead of killing it; a second one exits at once."""

from __future__ import annotations

import logging
import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

__all__ = ["Interrupts"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_log = logging.getLogger(__name__)


class Interrupts:
    """Within this context the first SIGINT or SIGTERM is only noted; the second ends the process.

    Signals can be caught in a process's main thread only; elsewhere the context does nothing.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        """The signal that arrived, or None."""
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def raise_again(self) -> None:
        """Raise what the noted signal would have raised, so that the program around the run ends too."""
        if self.signal is signal.SIGINT:
            raise KeyboardInterrupt
        if self.signal is not None:
            raise SystemExit(128 + self.signal)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            os._exit(128 + number)
        self.signal = signal.Signals(number)
        _log.warning(
            "%s: finishing the iteration, then saving. Send it again to exit at once.", self.signal.name
        )
