"""The histories of all scalars, which learn of an iteration when somebody reads them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from itertools import groupby
from typing import Any

from hookline.errors import Problem
from hookline.events.history import History

__all__ = ["Histories"]

MAX_TAKEN = 256


class Histories:
    """A `History` for every scalar, by name.

    The scalars of an iteration are taken as they are, in one operation. Only when a history is read, or
    when many iterations wait, each value goes to its history: a column of values at a time costs a
    fraction of updating every history in every iteration.

    Args:
        catch_up: What a history calls before it is read; must end in `sort_in`.
    """

    def __init__(self, catch_up: Callable[[], object]) -> None:
        self.by_name: dict[str, History] = {}
        self._catch_up = catch_up
        self._taken: list[tuple[int, Mapping[str, float]]] = []

    def take(self, iteration: int, values: Mapping[str, float]) -> None:
        """Take the scalars of ``iteration``, which do not change any more."""
        if values:
            self._taken.append((iteration, values))
        if len(self._taken) >= MAX_TAKEN:
            self.sort_in()

    def sort_in(self) -> None:
        """Tell each history of all values taken so far."""
        taken, self._taken = self._taken, []
        for names, alike in groupby(taken, key=lambda each: tuple(each[1])):
            iterations, rows = zip(*alike, strict=True)
            columns = zip(*map(dict.values, rows), strict=True)
            for name, column in zip(names, columns, strict=True):
                self._of(name).extend(column, iterations)

    def show(self, iteration: int, values: Mapping[str, float]) -> None:
        """Tell each history of ``values``, which may still change until they are taken."""
        for name, value in values.items():
            self._of(name).update(value, iteration)

    def latest(self, smoothed: Collection[str] = (), window: int = 1) -> dict[str, tuple[float, int]]:
        """Return the last value of each scalar and the iteration it was put in.

        Args:
            smoothed: Of which ones the median of their last values instead.
            window: How many iterations' values, up to that of the last one.
        """
        latest = {name: history.values()[-1] for name, history in self.by_name.items()}
        for name in latest.keys() & smoothed:
            history, (_, iteration) = self.by_name[name], latest[name]
            latest[name] = history.median(history.count_since(iteration - window + 1)), iteration
        return latest

    def missing(self, name: str, is_on_device: bool) -> KeyError:
        """Return the error for a scalar without a history, of which values may have been put on a device."""
        if is_on_device:
            exists = "Its values are still on their device"
            fix = "They arrive when a period ends, or after drain()"
        else:
            exists, fix = f"There are: {', '.join(sorted(self.by_name)) or 'none'}", ""
        where, rule = f"history of {name!r}", "a scalar that was put"
        return KeyError(str(Problem(where, rule, missing=True, exists=exists, fix=fix)))

    def state_dict(self) -> dict[str, Any]:
        """Return the state of each, by name."""
        return {name: history.state_dict() for name, history in self.by_name.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Forget all there is, and go on from what ``state_dict`` returned."""
        self.by_name, self._taken = {}, []
        for name, each in state.items():
            self._of(name).load_state_dict(each)

    def _of(self, name: str) -> History:
        history = self.by_name.get(name)
        if history is None:
            history = self.by_name[name] = History(self._catch_up)
        return history
