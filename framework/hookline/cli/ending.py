"""How a command with processes of its own ends when it is asked to."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from hookline.processes import end_with_launcher, launch_command

__all__ = ["OUT_OF_TIME", "end_out_of_time", "ending_in_order", "starting"]

OUT_OF_TIME = 75
"""Exit code of a run that its time limit paused: EX_TEMPFAIL of sysexits.h, "try again later"."""


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


@contextmanager
def starting() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end, with a word of how to start again, what has not begun to train.

    From here to the end of the process SIGUSR1 waits until a run listens: it asks one to save, and would
    otherwise end the process. On a rank, the death of the launcher is a SIGTERM.

    Raises:
        SystemExit: With code 130 after Ctrl-C, 143 after SIGTERM.
    """
    # torch's launcher handles SIGHUP also where nohup has it ignored, and ends the ranks by it.
    ignored = {number for number in (signal.SIGHUP,) if signal.getsignal(number) == signal.SIG_IGN}
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1} | ignored)
    end_with_launcher()
    came: list[int] = []

    def end(number: int, frame: object) -> None:
        came.append(number)
        sys.exit(128 + number)

    before = _handle((signal.SIGINT, signal.SIGTERM), end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if came:  # Whatever became of the exception: some that are raised amid imports are lost.
            _tell_to_start_again()
            sys.exit(128 + came[0])


def end_out_of_time() -> None:
    """End the process as one that a time limit paused.

    Raises:
        SystemExit: With `OUT_OF_TIME`; with 0 where torchrun would take any other code for a failure, and
            start anew what has no time left.
    """
    restarts = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0))
    done = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))
    sys.exit(OUT_OF_TIME if done >= restarts else 0)


def _handle(numbers: Iterable[int], handler: Any) -> dict[int, Any]:
    """Install ``handler`` for those signals that are not ignored; return what was there before.

    That is None where Python cannot tell it.
    """
    if threading.current_thread() is not threading.main_thread():  # no other thread may
        return {}
    return {
        number: signal.signal(number, handler)
        for number in numbers
        if signal.getsignal(number) is not signal.SIG_IGN
    }


def _tell_to_start_again() -> None:
    if os.environ.get("RANK", "0") == "0":
        command = shlex.join([*launch_command(), *sys.argv[2:]])
        click.echo(f"hookline: ended before training began. Start again with: {command}", err=True)


def _end(signal_number: int, frame: object) -> None:
    sys.exit(128 + signal_number)
