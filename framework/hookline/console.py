"""The one console that a run prints to, and how log records look on it."""

from __future__ import annotations

import logging
import os
import sys
from functools import cache

from rich.console import Console

__all__ = ["console", "print_line", "show_logs"]


@cache
def console() -> _Console:
    """Return the console of this process; colour and a live bar only where it is a terminal."""
    return _Console()


def print_line(text: str) -> None:
    """Print ``text`` as it is; without a terminal for a tenth of what the console's ``print`` costs."""
    to = console()
    if to.was_rich or to.quiet:
        to.print(text, markup=False)
        return
    try:
        to.file.write(f"{text}\n")
        to.file.flush()
    except BrokenPipeError:
        to.on_broken_pipe()


class _Console(Console):
    """A console whose reader may leave, as ``head`` does: the run goes on, and is told to nobody.

    Attributes:
        was_rich: Whether it was a terminal or a notebook when it was made; to ask rich each time costs more
            than to print.
    """

    def __init__(self) -> None:
        super().__init__(soft_wrap=True, highlight=False)
        self.was_rich = self.is_terminal or self.is_jupyter

    def on_broken_pipe(self) -> None:
        """Print nothing any more; rich would end the process."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _ConsoleHandler(logging.Handler):
    """Prints records through the console, so that they stand above a live bar and do not break it."""

    def emit(self, record: logging.LogRecord) -> None:
        style = (
            "red"
            if record.levelno >= logging.ERROR
            else "yellow"
            if record.levelno >= logging.WARNING
            else None
        )
        console().print(self.format(record), style=style, markup=False)


def show_logs(rank: int = 0, world_size: int = 1) -> None:
    """Print what hookline logs: everything of interest from rank 0, warnings from the others."""
    logger = logging.getLogger("hookline")
    handler = _ConsoleHandler(logging.INFO if rank == 0 else logging.WARNING)
    handler.setFormatter(_Formatter(f"[rank {rank}] " if world_size > 1 else ""))
    logger.handlers = [other for other in logger.handlers if not isinstance(other, _ConsoleHandler)]
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


class _Formatter(logging.Formatter):
    """The rank where there are several, the level where it matters, the message."""

    def __init__(self, prefix: str) -> None:
        super().__init__()
        self._prefix = prefix

    def format(self, record: logging.LogRecord) -> str:
        level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        trace = f"\n{self.formatException(record.exc_info)}" if record.exc_info else ""
        return f"{self._prefix}{level}{record.getMessage()}{trace}"
