"""The writer: which events it keeps, and where in its file a resumed run goes on."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hookline import Events, EventWriter, PeriodReducer, Run
from hookline_tensorboard.charts import DEFAULT_CHARTS, Charts
from hookline_tensorboard.event_file import EventFile

__all__ = ["TensorBoardWriter"]

NAME = "tensorboard"
# One file of a fixed name: a resumed run cuts it and goes on, so no reader ever sees a point twice.
FILE_NAME = "events.out.tfevents.hookline"
LATER_HPARAMS = "hyper-parameters put later"


class TensorBoardWriter(EventWriter):
    """Writes scalars, images, histograms, texts and hyper-parameters for TensorBoard.

    They go to one file in ``tensorboard/`` of the run directory; those of an instance with another name than
    ``tensorboard`` to a folder of that name in there.

    Args:
        every_value: Keep every value of every scalar, instead of one point per period.
        charts: Scalars to show together in "Custom Scalars", by title: a regular expression that their
            names match from the start. The scalars it leaves over are grouped by the prefix of their names.
    """

    def __init__(self, *, every_value: bool = False, charts: Mapping[str, str] = DEFAULT_CHARTS) -> None:
        self._every_value = every_value
        self._patterns = dict(charts)
        self._charts = Charts(charts)
        self._state: Mapping[str, Any] | None = None
        self._file: EventFile | None = None
        self._folder: Path | None = None

    def open(self, run: Run) -> None:
        """Cut the file to where the run goes on; without a position, move one that is there aside.

        There is no file then before the first event.
        """
        from hookline_tensorboard import summaries

        if self._file is not None:
            self._file.close()
        state = self._state or {}
        self._summaries = summaries
        self._run_id = run.id
        self._reducer = PeriodReducer(0 if self._every_value else run.period, run.start_iter)
        if state:
            self._reducer.load_state_dict(state["reducer"])
        self._charts = Charts(self._patterns)
        self._charts.add(state.get("scalars", ()))
        self._has_hparams: bool = state.get("has_hparams", False)
        self._last_iteration: int = state.get("last_iteration", 0)
        own = "" if run.writer in (NAME, type(self).__name__) else run.writer
        # A position that names no folder is of a version that had only one.
        self._subfolder: str = state.get("folder", "") if state else own
        self._folder = run.dir / NAME / self._subfolder
        self._file = EventFile(self._folder / FILE_NAME, state.get("offset", 0), run.writer or NAME)
        if not state:
            self._file.put_aside(run.generation)

    def write(self, events: Sequence[Events]) -> None:
        """Append the events of the periods that are complete."""
        self._append(self._reducer.reduce(events))

    def state_dict(self) -> dict[str, Any]:
        """Return the length of the file, which is durable then, and what is not in it yet."""
        assert self._file is not None
        self._file.sync()
        return {
            "folder": self._subfolder,
            "offset": self._file.offset,
            "last_iteration": self._last_iteration,
            "scalars": self._charts.names(),
            "has_hparams": self._has_hparams,
            "reducer": self._reducer.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the position that ``open`` goes back to."""
        self._state = state

    def close(self, status: str) -> None:
        """Write the unfinished period and how the run ended."""
        assert self._file is not None
        try:
            self._append(self._reducer.flush())
            now_s = time.time()
            end = self._summaries.session_end(status, now_s) if self._has_hparams else None
            if end is not None:
                self._file.append([self._summaries.iteration(Events(self._last_iteration, now_s), [end])])
            self._file.sync()
        finally:
            self._file.close()

    def view_command(self) -> str | None:
        """Return the command that opens the charts in a browser."""
        return None if self._folder is None else shlex.join(["tensorboard", "--logdir", str(self._folder)])

    def _append(self, events: Sequence[Events]) -> None:
        assert self._file is not None
        if not events:
            return
        protos = [self._proto(event) for event in events]
        if self._file.offset == 0:
            protos.insert(0, self._summaries.file_header(events[0].time_s))
        self._file.append(protos)
        self._last_iteration = events[-1].iteration

    def _proto(self, event: Events) -> Any:
        extra = []
        if event.hparams and not self._has_hparams:
            self._has_hparams = True
            extra.append(self._summaries.session_start(event.hparams, self._run_id, event.time_s))
        elif event.hparams:
            # The table shows only what the file has first.
            lines = [f"- {name}: {value}" for name, value in event.hparams.items()]
            extra.append(self._summaries.text(LATER_HPARAMS, "\n".join(lines)))
        if self._charts.add(event.scalars):
            extra.append(self._summaries.layout(self._charts.shown))
        return self._summaries.iteration(event, extra)
