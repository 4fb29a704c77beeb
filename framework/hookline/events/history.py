"""The recent values of one scalar."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from itertools import islice
from typing import Any

import numpy as np

__all__ = ["History"]

MAX_VALUES = 1024


class History:
    """The last 1,024 values of one scalar, one an iteration, and the mean of all values ever put.

    An update costs the same however long the run is. Non-finite values are kept as they are, so a mean
    or median over one that is NaN is NaN.
    """

    __slots__ = ("_last_iter", "_mean", "_mean_before", "_num", "_values")

    def __init__(self) -> None:
        self._values: deque[tuple[float, int]] = deque(maxlen=MAX_VALUES)
        self._num = 0
        self._mean = 0.0
        self._mean_before = 0.0
        self._last_iter = -1

    def update(self, value: float, iteration: int) -> None:
        """Add the value of ``iteration``, or replace it if there is one."""
        if iteration > self._last_iter:
            self._last_iter = iteration
            self._num = num = self._num + 1
            self._mean_before = before = self._mean
            self._mean = before + (value - before) / num
            self._values.append((value, iteration))
        elif iteration == self._last_iter:
            self._values[-1] = (value, iteration)
            self._mean = self._mean_before + (value - self._mean_before) / self._num
        else:
            self._insert(value, iteration)

    def latest(self) -> float:
        """Return the value of the last iteration that has one."""
        return self._values[-1][0]

    def median(self, window: int = 20) -> float:
        """Return the median of the last ``window`` values."""
        values = sorted(self._last(window))
        if any(math.isnan(value) for value in values):
            return math.nan
        middle = len(values) // 2
        return values[middle] if len(values) % 2 else (values[middle - 1] + values[middle]) / 2

    def avg(self, window: int = 20) -> float:
        """Return the mean of the last ``window`` values."""
        values = self._last(window)
        return sum(values) / len(values)

    def global_avg(self) -> float:
        """Return the mean of all values ever put, also of those no longer kept."""
        return self._mean

    def values(self) -> list[tuple[float, int]]:
        """Return the kept values as (value, iteration), oldest first."""
        return list(self._values)

    def count_since(self, iteration: int) -> int:
        """Return how many kept values are of ``iteration`` or later."""
        count = 0
        for _, put_at in reversed(self._values):
            if put_at < iteration:
                break
            count += 1
        return count

    def state_dict(self) -> dict[str, Any]:
        """Return values and means as JSON values and arrays."""
        return {
            "values": np.array([value for value, _ in self._values], np.float64),
            "iterations": np.array([iteration for _, iteration in self._values], np.int64),
            "num": self._num,
            "means": np.array([self._mean, self._mean_before], np.float64),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` returned."""
        pairs = zip(
            np.asarray(state["values"]).tolist(), np.asarray(state["iterations"]).tolist(), strict=True
        )
        self._values = deque(pairs, maxlen=MAX_VALUES)
        self._num = state["num"]
        self._last_iter = self._values[-1][1] if self._values else -1
        self._mean, self._mean_before = np.asarray(state["means"]).tolist()

    def _last(self, window: int) -> list[float]:
        if window < 1:
            raise ValueError(f"window: expected a whole number >= 1, got {window!r}.")
        return [value for value, _ in islice(reversed(self._values), window)]

    def _insert(self, value: float, iteration: int) -> None:
        """Put a value in its place that arrives after those of later iterations."""
        kept = {put_at: old for old, put_at in self._values}
        if iteration in kept:
            change = value - kept[iteration]
        else:
            self._num += 1
            change = value - self._mean_before
        kept[iteration] = value
        self._values = deque(((kept[put_at], put_at) for put_at in sorted(kept)), maxlen=MAX_VALUES)
        self._mean_before += change / (self._num - 1)
        self._mean = self._mean_before + (self.latest() - self._mean_before) / self._num
