"""Commands in forks of one process that has imported torch: a process for each, and seconds sooner.

Not for a test whose matter is how a process starts, or what it imports.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

SERVER = """
import atexit, gc, json, multiprocessing, os, runpy, sys, threading
from importlib import import_module
import hookline.cli.training, hookline_tensorboard.summaries, sympy, torch._dynamo
import hookline.hooks, hookline.inspection.describe, hookline.inspection.probe, hookline.inspection.worker
import hookline.testing.conformance, hookline.verification.apart
from pydantic import TypeAdapter


def worked(text, folder, deadline_s, environment):
    given = json.loads(text)
    worker = os.fork()
    if worker == 0:
        try:
            log = os.open(folder / "worker.log", os.O_CREAT | os.O_WRONLY)
            for number, file in enumerate([os.open(os.devnull, os.O_RDONLY), log, log]):
                os.dup2(file, number)
            sys.path[:] = given["path"]
            hookline.inspection.worker.serve(**given["request"])
        finally:
            os._exit(0)
    return hookline.inspection.worker.how_it_ended(os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]))


# Instead of processes that import torch anew.
hookline.inspection.probe._worked = worked
fork = multiprocessing.get_context("fork")
hookline.testing.ranks.fresh_processes = hookline.verification.apart.fresh_processes = lambda preload: fork
gc.freeze()
print("ready", flush=True)
for line in sys.stdin:
    job = json.loads(line)
    child = os.fork()
    if child == 0:
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    sys.exit()
for number, path in enumerate([os.devnull, job["stdout"], job["stderr"]]):
    os.dup2(os.open(path, os.O_APPEND | os.O_CREAT | os.O_WRONLY if number else os.O_RDONLY), number)
sys.stdout.reconfigure(line_buffering=True)
os.chdir(job["folder"])
os.environ.clear()
os.environ.update(job["environment"])
sys.path[:1] = job["path"]
kind, *sys.argv = job["argv"]
code = 0
try:
    if kind == "hookline":
        sys.argv.insert(0, kind)
        hookline.cli.main(prog_name=kind)
    elif kind == "pytest":
        import pytest
        code = int(pytest.main([*sys.argv, "-W", "ignore:Module already imported"]))
    elif kind == "python":
        sys.path.insert(0, os.path.dirname(os.path.abspath(sys.argv[0])))
        runpy.run_path(sys.argv[0], run_name="__main__")
    else:
        module, _, name = kind.partition(":")
        getattr(import_module(module), name)(**json.loads(sys.argv[0]))
except SystemExit as error:
    code = error.code or 0
    if not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
except BaseException:
    sys.excepthook(*sys.exc_info())
    code = 1
# As at the end of Python, which then takes all apart that was imported, for a third of a second.
threading._shutdown()
atexit._run_exitfuncs()
sys.stdout.flush()
sys.stderr.flush()
os._exit(code)
"""


class Forks:
    """Runs ``hookline …``, ``pytest …``, ``python FILE …``, or ``module:function`` with arguments as JSON."""

    def __init__(self) -> None:
        self.server = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert self.server.stdout.readline() == "ready\n"

    def run(
        self,
        argv: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        stdout: str | Path = os.devnull,
        stderr: str | Path = os.devnull,
    ) -> int:
        """Run a command to its end; return its exit code.

        Args:
            argv: Its words.
            folder: Where it runs.
            environment: All its variables. What is in PYTHONPATH can be imported.
            stdout: Where to what it prints is added.
            stderr: The same.
        """
        path = environment.get("PYTHONPATH", "").split(os.pathsep)
        job = {"argv": [*argv], "folder": str(folder), "environment": {**environment}, "path": path}
        job |= {"stdout": str(stdout), "stderr": str(stderr)}
        print(json.dumps(job), file=self.server.stdin, flush=True)
        return int(self.server.stdout.readline())

    def close(self) -> None:
        """End the process."""
        self.server.stdin.close()
        self.server.wait()
        self.server.stdout.close()
