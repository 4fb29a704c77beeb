"""The recent values of one scalar."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from itertools import islice
from operator import add, lt
from typing import Any

import numpy as np

__all__ = ["History"]

MAX_VALUES = 1024


def _nothing() -> None:
    """A history that is told of each value at once is up to date."""


class History:
    """The last 1,024 values of one scalar, one an iteration, and the mean of all values ever put.

    An update costs the same however long the run is. Non-finite values are kept as they are, so a mean
    or median over one that is NaN is NaN.

    Args:
        catch_up: Called before it is read, to bring it up to date.
    """

    __slots__ = ("_catch_up", "_iterations", "_last_iter", "_num", "_sum_before", "_values")

    def __init__(self, catch_up: Callable[[], object] = _nothing) -> None:
        self._catch_up = catch_up
        self._values: deque[float] = deque(maxlen=MAX_VALUES)
        self._iterations: deque[int] = deque(maxlen=MAX_VALUES)
        self._num = 0
        self._sum_before = 0.0  # of all values but the last, which may still be replaced
        self._last_iter = -1

    def update(self, value: float, iteration: int) -> None:
        """Add the value of ``iteration``, or replace it if there is one."""
        self.extend((value,), (iteration,))

    def extend(self, values: Sequence[float], iterations: Sequence[int]) -> None:
        """Add the value of each of ``iterations``, as ``update`` does."""
        if iterations[0] == self._last_iter:
            self._values[-1] = values[0]
            values, iterations = values[1:], iterations[1:]
            if not values:
                return
        if not all(map(lt, (self._last_iter, *iterations), iterations)):
            for value, iteration in zip(values, iterations, strict=True):
                self._insert(value, iteration)
            return
        # One by one, so that it does not matter how values are put together; sum() may be cleverer.
        earlier = (*islice(reversed(self._values), 1), *values[:-1])
        self._sum_before = reduce(add, earlier, self._sum_before)
        self._num += len(values)
        self._last_iter = iterations[-1]
        self._values.extend(values)
        self._iterations.extend(iterations)

    def latest(self) -> float:
        """Return the value of the last iteration that has one."""
        self._catch_up()
        return self._values[-1]

    def median(self, window: int = 20) -> float:
        """Return the median of the last ``window`` values."""
        values = sorted(self._last(window))
        if any(map(math.isnan, values)):
            return math.nan
        middle = len(values) // 2
        return values[middle] if len(values) % 2 else (values[middle - 1] + values[middle]) / 2

    def avg(self, window: int = 20) -> float:
        """Return the mean of the last ``window`` values."""
        values = self._last(window)
        return sum(values) / len(values)

    def global_avg(self) -> float:
        """Return the mean of all values ever put, also of those no longer kept."""
        self._catch_up()
        return (self._sum_before + self._values[-1]) / self._num if self._num else 0.0

    def values(self) -> list[tuple[float, int]]:
        """Return the kept values as (value, iteration), oldest first."""
        self._catch_up()
        return [*zip(self._values, self._iterations, strict=True)]

    def count_since(self, iteration: int) -> int:
        """Return how many kept values are of ``iteration`` or later."""
        self._catch_up()
        count = 0
        for put_at in reversed(self._iterations):
            if put_at < iteration:
                break
            count += 1
        return count

    def state_dict(self) -> dict[str, Any]:
        """Return values and sum as JSON values and arrays."""
        self._catch_up()
        return {
            "values": np.array(self._values, np.float64),
            "iterations": np.array(self._iterations, np.int64),
            "num": self._num,
            "sum_before": np.array([self._sum_before], np.float64),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` returned."""
        self._values = deque(np.asarray(state["values"]).tolist(), maxlen=MAX_VALUES)
        self._iterations = deque(np.asarray(state["iterations"]).tolist(), maxlen=MAX_VALUES)
        self._num = state["num"]
        self._last_iter = self._iterations[-1] if self._iterations else -1
        (self._sum_before,) = np.asarray(state["sum_before"]).tolist()

    def _last(self, window: int) -> list[float]:
        if window < 1:
            raise ValueError(f"window: expected a whole number >= 1, got {window!r}.")
        self._catch_up()
        return [*islice(reversed(self._values), window)]

    def _insert(self, value: float, iteration: int) -> None:
        """Put a value in its place, which may be before those of later iterations."""
        if iteration >= self._last_iter:
            self.update(value, iteration)
            return
        kept = dict(zip(self._iterations, self._values, strict=True))
        self._num += iteration not in kept
        self._sum_before += value - kept.get(iteration, 0.0)
        kept[iteration] = value
        self._iterations = deque(sorted(kept), maxlen=MAX_VALUES)
        self._values = deque((kept[put_at] for put_at in self._iterations), maxlen=MAX_VALUES)
