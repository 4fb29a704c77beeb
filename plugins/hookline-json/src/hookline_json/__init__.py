"""The journal of a hookline run: one JSON object an iteration, in ``metrics.jsonl``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from hookline import Events, EventWriter, Run
from hookline_json.files import LineFile
from hookline_json.hints import HintFile, path_of_hints, read_hints
from hookline_json.lines import Lines
from hookline_json.reader import events_of

__all__ = ["JSONWriter"]


class JSONWriter(EventWriter):
    """Writes every scalar and text of every iteration, one JSON object a line, as the run's journal.

    Two equal runs write ``file`` equal byte for byte, and so does a run that was killed and resumed: keys are
    sorted, ``iteration`` among them, and what differs from run to run (scalars put as volatile, the wall
    clock) goes to ``timings`` instead. Numbers are written exactly; one that is not finite is the string
    ``"NaN"``, ``"Infinity"`` or ``"-Infinity"``, since JSON has no such number. Which scalars want smoothing
    is in a small file beside the metrics. Images, histograms and hyper-parameters are left to other writers.

    What ``write`` was given is on the disk when it returns. A position is the length of both files and a hash
    of what is in them: going on from it moves what follows to ``<file>.orphaned-<generation>``, named after
    the start of the run that did so, and refuses files that were cut or changed.

    Args:
        file: The metrics, relative to the run directory.
        timings: What differs between two equal runs, relative to the run directory.
    """

    journal = True

    def __init__(
        self,
        file: Annotated[str, Field(min_length=1)] = "metrics.jsonl",
        timings: Annotated[str, Field(min_length=1)] = "timings.jsonl",
    ) -> None:
        if Path(file) == Path(timings):
            raise ValueError(f"timings: expected another file than that of the metrics, got {timings!r}.")
        self._names = {"metrics": file, "timings": timings}
        self._files: dict[str, LineFile] = {}
        self._is_open = False
        self._position: Mapping[str, Any] = {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state`` at the next ``open``."""
        self._position = state

    def open(self, run: Run) -> None:
        """Open both files and move what follows the position aside; without a position, all that is there.

        Opened again after a failed call, it drops what that call has left: it will be told again.
        """
        self._close_files()
        generation = None if self._is_open and self._position else run.generation
        for key, name in self._names.items():
            position = self._position.get(key)
            self._files[key] = LineFile(run.dir / name, position, generation, run.writer or "json")
        path = path_of_hints(run.dir / self._names["metrics"])
        self._hints = HintFile(path, fresh=not self._position)
        self._lines = Lines(self._hints.hints)
        self._is_open = True

    def write(self, events: Sequence[Events]) -> None:
        """Append the lines of ``events`` to both files, whole and at once."""
        metrics, timings = self._lines.of(events)
        self._hints.keep(self._lines.hints)
        self._files["metrics"].append(metrics)
        self._files["timings"].append(timings)

    def state_dict(self) -> dict[str, Any]:
        """Return length and hash of each file."""
        return {key: file.position() for key, file in self._files.items()}

    def read(self, run_dir: Path) -> Iterator[Events]:
        """Yield what the files in ``run_dir`` hold, a line at a time: scalars, bit for bit, and texts."""
        metrics, timings = (run_dir / name for name in self._names.values())
        return events_of(metrics, timings, read_hints(path_of_hints(metrics)))

    def close(self, status: str) -> None:
        """Close both files."""
        self._close_files()
        self._is_open = False

    def _close_files(self) -> None:
        for file in self._files.values():
            file.close()
        self._files = {}
