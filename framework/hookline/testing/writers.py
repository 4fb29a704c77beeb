"""A writer whose record is in memory, where a test finds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hookline.events import Events, EventWriter, Histogram, Run

__all__ = ["MemoryWriter"]


class MemoryWriter(EventWriter):
    """Keeps every event, in the order in which it came; read it when the run has ended.

    Args:
        position: Whether it can be rewound, as a writer of files can: what it was given twice is kept once.

    Attributes:
        events: All events, one for each iteration that has any.
        run: What it was told of the run.
        status: What it was closed with; None before.
    """

    def __init__(self, position: bool = True) -> None:
        self._has_position = position
        self.events: list[Events] = []
        self.run: Run | None = None
        self.status: str | None = None

    @property
    def iterations(self) -> list[int]:
        """The iteration of each of ``events``."""
        return [event.iteration for event in self.events]

    def names(self) -> list[str]:
        """Return the names of all scalars, in the order in which they first came."""
        return list(dict.fromkeys(name for event in self.events for name in event.scalars))

    def scalars(self, name: str) -> list[tuple[int, float]]:
        """Return (iteration, value) of each point of the scalar ``name``; an empty list where it has none."""
        return [(iteration, scalar.value) for iteration, scalar in self._points("scalars", name)]

    def images(self, name: str) -> list[tuple[int, npt.NDArray[np.uint8]]]:
        """Return (iteration, image of shape (C, H, W)) of each image ``name``."""
        return self._points("images", name)

    def histograms(self, name: str) -> list[tuple[int, Histogram]]:
        """Return (iteration, histogram) of each histogram ``name``."""
        return self._points("histograms", name)

    def texts(self, name: str) -> list[tuple[int, str]]:
        """Return (iteration, text) of each text ``name``."""
        return self._points("texts", name)

    @property
    def hparams(self) -> dict[str, bool | int | float | str]:
        """All hyper-parameters."""
        return {name: value for event in self.events for name, value in event.hparams.items()}

    def open(self, run: Run) -> None:
        """Take note of the run."""
        self.run, self.status = run, None

    def write(self, events: Sequence[Events]) -> None:
        """Keep ``events``."""
        self.events += events

    def state_dict(self) -> dict[str, Any] | None:
        """Return the last iteration it has, if it is to be rewound."""
        return {"last": self.iterations[-1] if self.events else -1} if self._has_position else None

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Forget what came after ``state``."""
        self.events = [event for event in self.events if event.iteration <= state["last"]]

    def close(self, status: str) -> None:
        """Take note of how the run ended."""
        self.status = status

    def _points(self, kind: str, name: str) -> list[tuple[int, Any]]:
        found = ((event.iteration, getattr(event, kind)) for event in self.events)
        return [(iteration, values[name]) for iteration, values in found if name in values]
