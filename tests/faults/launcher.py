"""The job under ``hookline train --nproc 2``, as a user starts it: real processes, which take seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from job import CONFIG, runs

__all__ = ["Launch"]

LONGER = ("train.max_iter=300", "hooks.checkpoint.period=100", "hooks.evaluate.period=100")
"""The job with some seconds to train, so that a signal meets it while it does."""
_START_S = 120.0
_END_S = 60.0


class Launch:
    """One start of the job in ``root`` on two ranks, in a session of its own."""

    def __init__(self, root: Path, *overrides: str, acts: Sequence[Sequence[Any]] = ()) -> None:
        self.root, self.overrides = root, (*LONGER, *overrides)
        root.mkdir(parents=True)
        self._began, self._output = root / "began", root / "output.txt"
        every = [["before_step", 0, "acts:mark", [str(self._began)]], *acts]
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(CONFIG.parent),
            "HOOKLINE_FAULTS_ACTS": json.dumps(every),
        }
        command = [sys.executable, "-m", "hookline", "train", str(CONFIG), f"run.dir={root}", *self.overrides]
        with open(self._output, "wb") as output:
            self.process = subprocess.Popen(
                [*command, "--nproc", "2", "--resume", "auto"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    def wait_until_it_trains(self) -> None:
        """Return when the first iteration is about to run."""
        deadline = time.monotonic() + _START_S
        while not self._began.exists() and time.monotonic() < deadline and self.process.poll() is None:
            time.sleep(0.01)
        assert self._began.exists(), self._output.read_text()

    def wrong_ending(self, codes: set[int], says: str = "") -> str:
        """Wait for the end; return how it is another one than with ``codes`` and no process left, or nothing."""
        try:
            code = self.process.wait(_START_S + _END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return f"it did not end:\n{self._output.read_text()}"
        output = self._output.read_text()
        if code not in codes or says not in output:
            return f"exit code {code}:\n{output[-3000:]}"
        time.sleep(0.2)  # those that were just killed are there until somebody has seen it
        left = self._left()
        return f"processes left: {left}" if left else ""

    def wrong_status(self, state: str, reason: str) -> str:
        """Return what else than this the run says of itself, or nothing."""
        (run,) = runs(self.root)
        status = json.loads((run / "status.json").read_text())
        return "" if (status["state"], status["reason"]) == (state, reason) else f"{status}"

    def _left(self) -> list[str]:
        """Return the processes of the session that are still there."""
        left = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(") ")[2].split()
            except OSError:
                continue
            if int(fields[3]) == self.process.pid and fields[0] != "Z":
                left.append((stat.parent / "cmdline").read_text().replace("\0", " "))
        return left
