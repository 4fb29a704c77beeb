"""The contract of an event writer plugin."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from hookline.errors import Problem, WriterError
from hookline.events.records import Events

__all__ = ["EventWriter", "Run"]


@dataclass(frozen=True)
class Run:
    """What a writer may know of the run whose events it is given.

    Args:
        dir: The run directory; it exists.
        name: The run's name, shared by runs of one experiment.
        id: Unique to the run and the same after a resume.
        config: The resolved config, nested plain values.
        start_iter: The first iteration of this process; above 0 after a resume.
        period: Log period of this writer, iterations; 0 means never.
        generation: How often training was started in the run directory; 0 where nobody counts.
        writer: Instance name of this writer, which no other of the run has: name after it what it makes.
    """

    dir: Path
    name: str
    id: str
    config: Mapping[str, Any] = field(default_factory=dict)
    start_iter: int = 0
    period: int = 20
    writer: str = ""
    generation: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "dir", Path(self.dir))


class EventWriter(ABC):
    """Base of an event writer plugin: override ``write``, and of the others what you need.

    The parameters of ``__init__`` are the writer's options; do nothing there but keep them. Every other
    method is called on one daemon thread of the writer's own, one call at a time, so it may block. There is
    no event storage on that thread.

    Every event reaches ``write`` in iteration order, exactly once. After a failure or a resume a writer with
    a position goes ``load_state_dict`` ─▶ ``open`` ─▶ ``write`` of all that follows that position.
    """

    journal: ClassVar[bool] = False
    """True for the run's own record: training waits for it, and fails when it cannot be written.

    One that can be read back defines ``read``, so that ``hookline export`` finds it.
    """
    state_version: ClassVar[int] = 1
    """Raise it when the meaning of ``state_dict`` changes: a position of another version is not loaded."""

    def open(self, run: Run) -> None:  # noqa: B027  (optional to override, like the next two)
        """Start, or go on from the position given to ``load_state_dict``.

        Called before the first ``write``, and again after a failed call: free what the failed one left
        open. An error here, before the first iteration, ends the run unless ``on_error`` is ``disable``.
        """

    @abstractmethod
    def write(self, events: Sequence[Events]) -> None:
        """Record ``events``: one or more, ascending by iteration, never empty.

        Called at most a few times a second. The last event need not be the last of a period.
        """

    def state_dict(self) -> dict[str, Any] | None:
        """Return the position after all that ``write`` was given, to be found again by another process.

        Called after ``open`` and after each ``write``; becomes part of checkpoints, so what lies before the
        position must be durable. JSON values and arrays. None, the default, says that the writer cannot be
        rewound: a failed ``write`` then switches it off, and after a resume it is told again what followed
        the checkpoint.
        """
        return None

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """Take the position to go on from; ``open`` follows and forgets what was written after it."""

    def read(self, run_dir: Path) -> Iterator[Events]:
        """Yield what is recorded in ``run_dir``, ascending by iteration; of a journal alone.

        Called on a writer that has the options of the run and was never opened, in any process and on any
        thread, also while the run goes on or after it was killed: yield what is whole, and change nothing.
        A run may be long: read as much at a time as is asked for.

        Raises:
            WriterError: If the writer cannot read back what it writes, which is the default.
        """
        where, rule = type(self).__name__, "a journal that can be read back"
        fix = "See hookline.EventWriter.read"
        raise WriterError(str(Problem(where, rule, "one without read()", fix=fix)))

    def view_command(self) -> str | None:
        """Return the shell command that shows a person what was written, or None; asked on any thread."""
        return None

    def close(self, status: str) -> None:  # noqa: B027
        """Finish; no call follows.

        Called when ``open`` has succeeded, however the run ended.

        Args:
            status: ``finished``, ``stopped``, ``paused`` or ``failed``.
        """
