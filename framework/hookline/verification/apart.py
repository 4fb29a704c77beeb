"""Work done in a process that nothing ran in before, and what became of it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from hookline.errors import HooklineError, notes
from hookline.processes import fresh_processes

__all__ = ["Ended", "apart", "filled_in"]

_REST_S = 5.0  # what a process is given to end by itself when it has told all

# The optimizers of torch import torch._dynamo when they are first used.
_PRELOAD = ("hookline.verification", "torch._dynamo")


@dataclass
class Ended:
    """How a process ended.

    Attributes:
        error: Why it did not come to its end; empty if it did.
        is_explained: True if the error is hookline's own, which says what to do.
    """

    error: str = ""
    is_explained: bool = False


_Outcome = TypeVar("_Outcome", bound=Ended)


def apart(work: Callable[..., None], outcome: _Outcome, *arguments: Any) -> _Outcome:
    """Return ``outcome`` as ``work(*arguments, outcome)`` filled it in, in a process of its own.

    So nothing that a plugin does to its process reaches another one, and one that ends it is an error. What
    it prints is seen by nobody.

    Args:
        work: A function of a module.
        outcome: Empty; it is sent there and back.
        arguments: They are sent, too.
    """
    context = fresh_processes(_PRELOAD)
    mine, theirs = context.Pipe(duplex=False)
    # Children have the method of this process, as those of a run have: loaders start workers by it.
    methods = multiprocessing.get_all_start_methods()
    method = multiprocessing.get_start_method(allow_none=True) or methods[0]
    process = context.Process(target=_be_apart, args=(work, arguments, outcome, theirs, method))
    _start(process, context.get_start_method())
    theirs.close()
    try:
        outcome = mine.recv()
        process.join(_REST_S)  # a thread of a plugin may keep it
    except EOFError:
        process.join()
        outcome.error = f"Its process ended by {_described(process.exitcode)}."
    finally:
        process.kill()
        process.join()
    return outcome


def filled_in(work: Callable[..., None], outcome: _Outcome, *arguments: Any) -> _Outcome:
    """Return ``outcome`` as ``work(*arguments, outcome)`` filled it in, here; it raises nothing."""
    try:
        work(*arguments, outcome)
    except BaseException as error:
        outcome.error, outcome.is_explained = _message(error), isinstance(error, HooklineError)
    return outcome


def _start(process: Any, method: str) -> None:
    """Start ``process`` deaf to Ctrl-C: this one hears it, too, ends the other, and tells what there is."""
    if threading.current_thread() is not threading.main_thread():
        process.start()
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # processes inherit it
    try:
        if method == "forkserver":
            from multiprocessing import forkserver  # there is none on Windows

            forkserver.ensure_running()  # its forks inherit it, too, and waiting for one takes seconds
        else:
            process.start()
    finally:
        signal.signal(signal.SIGINT, before)
    if method == "forkserver":
        process.start()


def _described(exit_code: int) -> str:
    return signal.Signals(-exit_code).name if exit_code < 0 else f"exit code {exit_code}"


def _be_apart(
    work: Callable[..., None],
    arguments: tuple[Any, ...],
    outcome: Ended,
    parent: Connection,
    start_method: str,
) -> None:
    multiprocessing.set_start_method(start_method, force=True)
    with open(os.devnull, "w") as nowhere:
        sys.stdout.flush()
        for descriptor in (1, 2):
            os.dup2(nowhere.fileno(), descriptor)
    parent.send(filled_in(work, outcome, *arguments))
    parent.close()


def _message(error: BaseException) -> str:
    """Return what a person needs of ``error``: all of one of ours, type and place of another."""
    if isinstance(error, HooklineError):
        return "\n".join([str(error), *notes(error)])
    at = traceback.extract_tb(error.__traceback__)[-1]
    place = f"It was raised at {at.filename}:{at.lineno}."
    return "\n".join([f"{type(error).__name__}: {error}", place, *notes(error)])
