"""In words: what somebody's code raised, and how its process ended."""

from __future__ import annotations

import signal

__all__ = ["how_it_ended", "one_line", "text_of"]


def how_it_ended(code: int) -> str:
    """Return in words what the exit code of a plugin's process says; negative for a signal."""
    return f"a process that ended with {signal.Signals(-code).name if code < 0 else f'exit code {code}'}"


def one_line(error: BaseException) -> str:
    """Return type and text of what was raised."""
    return f"{type(error).__name__}: {' '.join(text_of(error).split())}".rstrip(": ")


def text_of(error: BaseException) -> str:
    """Return the text of what was raised, also where a stranger's class cannot make it."""
    try:
        return str(error)
    except BaseException as another:
        return f"no text, for its __str__ raises {type(another).__name__}"
