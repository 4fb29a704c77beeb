"""One iteration: being measured, or sealed and waiting for values from a device."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from hookline.events.convert import histogram
from hookline.events.device import Batch
from hookline.events.records import Events, Scalar

__all__ = ["Record"]


def _image(array: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    return array.astype(np.uint8, copy=False)


_FROM_ARRAY: dict[str, Callable[[npt.NDArray[Any]], Any]] = {"image": _image, "histogram": histogram}


class Record:
    """What was put in one iteration, and what reads the rest once ``batch`` has arrived."""

    __slots__ = ("_puts", "_reads", "arrays", "batch", "hparams", "iteration", "scalars", "texts", "time_s")

    def __init__(self) -> None:
        self.iteration = 0
        self.time_s = 0.0
        self.scalars: dict[str, Scalar] = {}
        self.arrays: dict[str, dict[str, Any]] = {"image": {}, "histogram": {}}
        self.texts: dict[str, str] = {}
        self.hparams: dict[str, bool | int | float | str] = {}
        self.batch: Batch | None = None
        # All numbers of a scalar that was put more than once, or from a device.
        self._puts: dict[str, list[float]] = {}
        self._reads: list[tuple[str, str, Callable[[], Any]]] = []

    def put_again(self, key: str, number: float) -> float:
        """Keep one more number of a scalar; return the mean of those that have arrived."""
        puts = self._puts_of(key)
        puts.append(number)
        return sum(puts) / len(puts)

    def put_later(self, key: str, smoothing_hint: bool, volatile: bool) -> None:
        """Keep a place for a scalar whose number has not arrived."""
        puts = self._puts_of(key)
        mean = sum(puts) / len(puts) if puts else math.nan
        self.scalars[key] = Scalar(mean, smoothing_hint, volatile)

    def put_array(self, kind: str, key: str, array: npt.NDArray[Any]) -> None:
        """Keep an image or a histogram."""
        self.arrays[kind][key] = _FROM_ARRAY[kind](array)

    def expect(self, kind: str, key: str, read: Callable[[], Any], batch: Batch) -> None:
        """Keep what reads a value once ``batch`` has arrived; no batch is followed by an earlier one."""
        self._reads.append((kind, key, read))
        self.batch = batch

    def finish(self) -> dict[str, float]:
        """Read what has arrived; return the scalars among it."""
        reads, self._reads, self.batch = self._reads, [], None
        arrived = {}
        for kind, key, read in reads:
            if kind == "scalar":
                arrived[key] = self.put_again(key, read())
                self.scalars[key] = self.scalars[key]._replace(value=arrived[key])
            else:
                self.put_array(kind, key, read())
        return arrived

    def is_empty(self) -> bool:
        """Return whether nothing was put."""
        return not (self.scalars or self.texts or self.hparams or any(self.arrays.values()))

    def events(self) -> Events:
        """Return what was put; all of it must have arrived."""
        images, histograms = self.arrays["image"], self.arrays["histogram"]
        return Events(self.iteration, self.time_s, self.scalars, images, histograms, self.texts, self.hparams)

    def to_state(self) -> dict[str, Any]:
        """Return the same as nested dicts of JSON values and arrays."""
        return {
            "events": self.events().to_state(),
            "puts": {key: list(puts) for key, puts in self._puts.items()},
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Record:
        """Return the record that ``to_state`` was called on."""
        events, record = Events.from_state(state["events"]), cls()
        record.scalars, record.texts, record.hparams = events.scalars, events.texts, events.hparams
        record.arrays = {"image": events.images, "histogram": events.histograms}
        record._puts = {key: list(puts) for key, puts in state["puts"].items()}
        return record

    def _puts_of(self, key: str) -> list[float]:
        before = self.scalars.get(key)
        return self._puts.setdefault(key, [] if before is None else [before.value])
