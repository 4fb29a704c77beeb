"""Commands on files that somebody may have made to do harm, each in a fork with little memory and little time.

All of this runs in the server's process, see server.py.
"""

from __future__ import annotations

import os
import resource
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import job

__all__ = ["Verdict", "base_run", "run_command"]

EXTRA_BYTES = 768 * 2**20
"""What a command may have beyond what the process has; a checkpoint of the job takes a thousandth."""
TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Verdict:
    """How a command ended: its exit code, negative where a signal ended it, and what it said."""

    code: int
    output: str
    seconds: float

    @property
    def is_one_error(self) -> bool:
        """Whether it ended with one message for a person and exit code 2."""
        told = [line for line in self.output.splitlines() if line.startswith("hookline: ")]
        return (
            self.code == 2 and len(told) == 1 and "Traceback" not in self.output and len(self.output) < 20_000
        )


def base_run(root: str) -> str:
    """Train the job for four iterations, a checkpoint each, and return the run directory."""
    place = Path(root)
    overrides = ["train.max_iter=4", "hooks.checkpoint.period=1", "hooks.checkpoint.keep=4", "writers=[json]"]
    ending = job.finish(place, overrides=overrides)
    assert ending.code == 0, ending.output
    (run,) = (path for path in (place / "job").iterdir() if not path.is_symlink())
    return str(run)


def run_command(arguments: Sequence[str], folder: str, memory_bytes: int = EXTRA_BYTES) -> Verdict:
    """Run ``hookline`` with ``arguments`` in ``folder``, in a fork that can take ``memory_bytes`` more."""
    output = Path(folder) / "output.txt"
    output.write_text("")
    start = time.monotonic()
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            os.chdir(folder)
            _print_to(output)
            _limit(memory_bytes)
            code = _command(arguments)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    ending = job.Attempt(pid, output).wait(TIMEOUT_S)
    return Verdict(ending.code, ending.output, time.monotonic() - start)


def _print_to(output: Path) -> None:
    descriptor = os.open(output, os.O_WRONLY | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)


def _limit(memory_bytes: int) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _command(arguments: Sequence[str]) -> int:
    from hookline.cli import main

    try:
        main(list(arguments))
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0
