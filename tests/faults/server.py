"""A process that is warm, torch imported and a job done once, and forks instead of starting anew.

A trial costs then what it breaks, not the two seconds that the import of torch takes. The process has one
thread, so that forking is safe, which a process that runs tests need not be.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import subprocess
import sys
import traceback
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

__all__ = ["Server", "ServerError"]

_START_S = 120.0


class ServerError(AssertionError):
    """What a function raised in the server, with its traceback there."""


class Server:
    """Runs functions of the modules in this folder in a warm process, and there in forks of it.

    A context; leaving it ends the process and all that it started.
    """

    def __enter__(self) -> Server:
        mine, theirs = socket.socketpair()
        self._pipe = Connection(mine.detach())
        number = theirs.fileno()
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, str(Path(__file__)), str(number)]
        self._process = subprocess.Popen(
            command,
            pass_fds=[number],
            env=environment,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        theirs.close()
        assert self._pipe.poll(_START_S), "the fork server did not start"
        self._answer()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pipe.close()
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def call(self, function: str, *arguments: Any, **named: Any) -> Any:
        """Return what ``function``, written ``module:name``, returns in the server.

        Raises:
            ServerError: If it raised.
        """
        self._pipe.send((function, arguments, named))
        return self._answer()

    def _answer(self) -> Any:
        is_well, answer = self._pipe.recv()
        if not is_well:
            raise ServerError(answer)
        return answer


def resolve(function: str) -> Any:
    """Return what ``module:name`` names."""
    module, _, name = function.partition(":")
    return getattr(import_module(module), name)


def _serve(pipe: Connection) -> None:
    while True:
        try:
            function, arguments, named = pipe.recv()
        except EOFError:
            return
        try:
            answer = True, resolve(function)(*arguments, **named)
        except Exception:
            answer = False, traceback.format_exc()
        pipe.send(answer)


if __name__ == "__main__":
    import job

    job.warm_up()
    gc.collect()
    gc.freeze()
    channel = Connection(int(sys.argv[1]))
    channel.send((True, os.getpid()))
    _serve(channel)
