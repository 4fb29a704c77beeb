"""The job of the command line, recorded, and what becomes of it after any loss of power.

All of this runs in the server's process, see server.py.
"""

from __future__ import annotations

import atexit
import pickle
from pathlib import Path

import job
from disk_model import Recorder, Stage, crashes
from power_loss import Survey

__all__ = ["interrupted_jobs", "recording"]

FIRST_STATES = 3
"""Of the states that there are at one instant, chosen at random besides the extreme ones."""


def recording(root: str, file: str) -> None:
    """Record all that this process does in ``root``, until it ends, in ``file``; a patch of `job.start`."""
    recorder = Recorder(Path(root))
    recorder.__enter__()

    def stop() -> None:
        recorder.__exit__()
        Path(file).write_bytes(pickle.dumps(recorder.operations))

    atexit.register(stop)


def interrupted_jobs(every: int) -> Survey:
    """Return what came of jobs that go on, with ``--resume auto``, from one in ``every`` of the states."""
    wanted, _ = job.reference()
    found, seen = Survey(), set()
    with job.place() as folder:
        root, file = folder / "recorded", folder / "operations"
        root.mkdir()
        patch = "whole_job:recording", str(root), str(file)
        ending = job.finish(root, patches=[patch], output=folder / "output.txt")
        assert ending.code == 0, ending.output
        for crash in crashes(pickle.loads(file.read_bytes()), FIRST_STATES, every=every):
            key = hash(tuple(sorted(crash.tree.items())))
            if key in seen:
                continue
            seen.add(key)
            stage = Stage(folder / "stage")
            with stage.showing(crash.tree) as again:
                ending = job.finish(again, output=folder / "output.txt")
                wrong = ending.output if ending.code else job.difference(again, wanted)
            stage.clear()
            if wrong:
                found.failures.append(
                    f"{[name for name in crash.tree if name.count('/') < 4]}: {wrong[-1500:]}"
                )
    found.num_states = len(seen)
    return found
