"""One iteration: being measured, or sealed and waiting for values from a device."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from hookline.events.convert import histogram
from hookline.events.device import Batch
from hookline.events.records import Events

__all__ = ["Flags", "Record"]

Flags = dict[str, tuple[bool, bool]]


def _image(array: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    return array.astype(np.uint8, copy=False)


_FROM_ARRAY: dict[str, Callable[[npt.NDArray[Any]], Any]] = {"image": _image, "histogram": histogram}


class Record:
    """What was put in one iteration, and what reads the rest once ``batch`` has arrived.

    Most iterations have scalars of the host and nothing else, so all else is made when it is needed.

    Attributes:
        values: The numbers of the scalars; NaN where none has arrived yet.
        flags: (smoothing_hint, volatile) of these and others, shared with other records.
        timings: Scalars without a history.
        rest: Images, histograms, texts and hyper-parameters: what ``Events`` calls them, by name.
        batch: What must have arrived before the iteration is complete.
    """

    iteration = 0
    time_s = 0.0
    timings: dict[str, float] | None = None
    rest: dict[str, dict[str, Any]] | None = None
    batch: Batch | None = None
    # All numbers of a scalar that was put more than once.
    _puts: dict[str, list[float]] | None = None
    _reads: list[tuple[str, Collection[str], Callable[[], Any]]] | None = None

    def __init__(self, flags: Flags) -> None:
        self.values: dict[str, float] = {}
        self.flags = flags

    def put_again(self, key: str, number: float) -> float:
        """Keep one more number of a scalar; return the mean of those that have arrived."""
        puts = self._puts_of(key)
        puts.append(number)
        return sum(puts) / len(puts)

    def put_later(self, keys: Collection[str], read: Callable[[], list[float]], batch: Batch) -> None:
        """Keep places for scalars whose numbers have not arrived, and what reads them then."""
        for key in keys:
            if key not in self.values:
                self.values[key] = math.nan
                continue
            puts = self._puts_of(key)
            self.values[key] = sum(puts) / len(puts) if puts else math.nan
        self.expect("scalar", keys, read, batch)

    def put_array(self, kind: str, key: str, array: npt.NDArray[Any]) -> None:
        """Keep an image or a histogram."""
        self.others(f"{kind}s")[key] = _FROM_ARRAY[kind](array)

    def others(self, kind: str) -> dict[str, Any]:
        """Return what was put of ``images``, ``histograms``, ``texts`` or ``hparams``, to add to."""
        if self.rest is None:
            self.rest = {}
        return self.rest.setdefault(kind, {})

    def expect(self, kind: str, keys: Collection[str], read: Callable[[], Any], batch: Batch) -> None:
        """Keep what reads values once ``batch`` has arrived; no batch is followed by an earlier one."""
        if self._reads is None:
            self._reads = []
        self._reads.append((kind, keys, read))
        self.batch = batch

    def finish(self) -> dict[str, float]:
        """Read what has arrived; return the scalars among it."""
        reads, self._reads, self.batch = self._reads or (), None, None
        arrived = {}
        for kind, keys, read in reads:
            if kind == "scalar":
                for key, number in zip(keys, read(), strict=True):
                    if self._puts is not None and key in self._puts:
                        number = self.put_again(key, number)
                    self.values[key] = arrived[key] = number
            else:
                (key,) = keys
                self.put_array(kind, key, read())
        return arrived

    def arrived(self) -> dict[str, float]:
        """Return the numbers of the scalars that have arrived."""
        if self._reads is None:
            return self.values
        awaited = {key for kind, keys, _ in self._reads if kind == "scalar" for key in keys}
        return {key: number for key, number in self.values.items() if key not in awaited}

    def is_empty(self) -> bool:
        """Return whether nothing was put."""
        return not (self.values or self.timings or self.rest)

    def events(self) -> Events:
        """Return what was put; all of it must have arrived."""
        values = self.values if self.timings is None else {**self.values, **self.timings}
        events = Events.of_values(self.iteration, self.time_s, values, self.flags)
        if self.rest is not None:
            vars(events).update(self.rest)
        return events

    def to_state(self) -> dict[str, Any]:
        """Return the same as nested dicts of JSON values and arrays."""
        return {
            "events": self.events().to_state(),
            "puts": {key: list(puts) for key, puts in (self._puts or {}).items()},
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Record:
        """Return the record that ``to_state`` was called on."""
        events = Events.from_state(state["events"])
        record = cls(dict(events.flags))
        record.values = events.values
        kinds = ("images", "histograms", "texts", "hparams")
        record.rest = {kind: getattr(events, kind) for kind in kinds if getattr(events, kind)} or None
        record._puts = {key: list(puts) for key, puts in state["puts"].items()} or None
        return record

    def _puts_of(self, key: str) -> list[float]:
        """Return the numbers of a scalar that is put more than once, those that have arrived."""
        if self._puts is None:
            self._puts = {}
        if key not in self._puts:
            is_awaited = any(key in keys for kind, keys, _ in self._reads or () if kind == "scalar")
            self._puts[key] = [] if is_awaited else [self.values[key]]
        return self._puts[key]
