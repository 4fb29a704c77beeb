"""An error at a line of somebody else's code, as if that line had raised it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any

__all__ = ["InjectedError", "caused_by_injection", "tracing"]


class InjectedError(Exception):
    """Raised to see what becomes of it; of a class that no plugin knows, so none can expect it."""

    def __init__(self) -> None:
        super().__init__("raised by hookline.testing, to see what becomes of an error")


@contextmanager
def tracing(wanted: Callable[[CodeType], bool], at_line: Callable[[FrameType], None]) -> Iterator[None]:
    """Call ``at_line`` before each line of this thread that is in code that is ``wanted``.

    What it raises is raised by that line; then it is called no more.
    """

    def in_frame(frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line":
            at_line(frame)
        return in_frame

    def at_call(frame: FrameType, event: str, argument: Any) -> Any:
        return in_frame if wanted(frame.f_code) else None

    before = sys.gettrace()
    sys.settrace(at_call)
    try:
        yield
    finally:
        sys.settrace(before)  # a debugger's, or that of a measurement of coverage


def caused_by_injection(error: BaseException | None) -> bool:
    """Return whether ``error`` is an injected one, or was raised in answer to one."""
    while error is not None:
        if isinstance(error, InjectedError):
            return True
        error = error.__cause__ or error.__context__
    return False
