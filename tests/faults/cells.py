"""Runs of the job with one hook or writer that misbehaves: what became of each, and of the attempt after it.

All of this runs in the server's process, see server.py.
"""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import job

__all__ = ["Cell", "Outcome", "hasty", "outcomes"]

STOPPED_AT = 6
TIMEOUT_S = 0.4
PLUGINS = Path(__file__).parent / "misbehaving.py"
AGAIN = ("plugins.on_change=ignore",)
NUM_AT_ONCE = 6


@dataclass(frozen=True)
class Cell:
    """One cell of the table.

    Args:
        place: A hook, or a method of a writer.
        act: What happens there, see misbehaving.py.
        policy: ``on_error`` of the plugin; ``journal`` is a writer that is the run's journal.
        is_writer: Which of the two tables.
    """

    place: str
    act: str
    policy: str
    is_writer: bool = False

    def __str__(self) -> str:
        return f"{self.place} x {self.act} x {self.policy}"

    @property
    def overrides(self) -> list[str]:
        """What makes the job misbehave in this way."""
        options = f"on_error: {self.policy}, act: {self.act}"
        if not self.is_writer:
            more = (
                [f"hooks+={{{PLUGINS}:Fails: {{at: {STOPPED_AT + 1}}}}}"] if self.place == "on_error" else []
            )
            return [
                *more,
                f"hooks+={{{PLUGINS}:BadHook: {{{options}, point: {self.place}, at: {STOPPED_AT}}}}}",
            ]
        timeout = f"hooks.writers.timeout_s={TIMEOUT_S}"
        if self.policy == "journal":
            return [timeout, f"writers=[{{{PLUGINS}:BadJournal: {{act: {self.act}, method: {self.place}}}}}]"]
        return [timeout, f"writers+={{{PLUGINS}:BadWriter: {{{options}, method: {self.place}}}}}"]


@dataclass(frozen=True)
class Outcome:
    """How a run with a misbehaving plugin ended.

    Args:
        code: Exit code, negative where a signal ended it.
        state: Of status.json.
        output: What it printed.
        gaps: What writers have missed, of summary.json: their names and numbers of events.
        waited: Whether it was still there after one SIGTERM.
        then: What was wrong with the run when it went on without the plugin to its end.
    """

    code: int
    state: str
    output: str
    gaps: list[tuple[str, int]] = field(default_factory=list)
    waited: bool = False
    then: str = ""


def hasty() -> None:
    """Give an ``open`` of a writer no more time than any other call."""
    from hookline.delivery import worker

    worker.OPEN_TIMEOUT_S = TIMEOUT_S


def outcomes(cells: Sequence[Cell], goes_on_every: int = 1) -> list[Outcome]:
    """Return what becomes of a run that was paused and goes on as each of ``cells`` says, some at a time.

    One in ``goes_on_every`` of those that do not finish is given another attempt.
    """
    with job.place() as folder:
        base = folder / "base"
        ending = job.finish(base, overrides=[f"train.stop_at={STOPPED_AT}"])
        assert ending.code == 0, ending.output
        found: list[Outcome] = []
        for first in range(0, len(cells), NUM_AT_ONCE):
            chosen = cells[first : first + NUM_AT_ONCE]
            roots = [folder / str(first + number) for number in range(len(chosen))]
            for root in roots:
                shutil.copytree(base, root, symlinks=True)
            running = [_started(cell, root) for cell, root in zip(chosen, roots, strict=True)]
            for number, (attempt, cell, root) in enumerate(zip(running, chosen, roots, strict=True)):
                goes_on = (first + number) % goes_on_every == 0
                found.append(_outcome(attempt, cell, root, goes_on))
            for root in roots:
                shutil.rmtree(root)
        return found


def _started(cell: Cell, root: Path) -> job.Attempt:
    return job.start(root, overrides=[*AGAIN, *cell.overrides], patches=["cells:hasty"])


def _outcome(attempt: job.Attempt, cell: Cell, root: Path, goes_on: bool) -> Outcome:
    (run,) = (path for path in (root / "job").iterdir() if not path.is_symlink())
    waited = False
    if cell.act == "hang" and not cell.is_writer:
        _wait_for(run / "misbehaves")
        attempt.send(signal.SIGTERM)
        waited = not attempt.ended(1.1)  # two within a second are one
        attempt.send(signal.SIGTERM)
    ending = attempt.wait(20)
    status = json.loads((run / "status.json").read_text())
    gaps = [(gap["writer"], gap["num_events"]) for gap in _summary(run).get("gaps", [])]
    wrong = ""
    if status["state"] == "finished":
        wrong = _difference(root, cell)
    elif goes_on:
        again = job.finish(root, overrides=AGAIN)
        wrong = again.output if again.code else _difference(root, cell)
    return Outcome(ending.code, status["state"], ending.output, gaps, waited, wrong)


def _difference(root: Path, cell: Cell) -> str:
    """Return what of the finished run is not as if nothing had misbehaved; hooks' states know of it."""
    (wanted, _), got = job.reference(), job.outcome(root)
    names = [name for name in wanted.files if not name.startswith("hooks.")]
    wrong = [name for name in names if wanted.files[name] != got.files.get(name)]
    if cell.policy != "journal":  # which takes the place of the one that has the metrics
        wrong += ["metrics"] if wanted.metrics != got.metrics else []
        wrong += ["points"] if wanted.points != got.points else []
    return ", ".join(wrong)


def _summary(run: Path) -> dict[str, Any]:
    file = run / "summary.json"
    return json.loads(file.read_text()) if file.exists() else {}


def _wait_for(file: Path) -> None:
    deadline = time.monotonic() + 20
    while not file.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
