"""One point per period instead of one per iteration, for writers whose readers look at curves.

::

    Events of every iteration ─▶ PeriodReducer ─▶ Events with fewer scalars, all else unchanged
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from hookline.events import Events, Scalar

__all__ = ["PeriodReducer"]


class PeriodReducer:
    """Thins out the scalars of a stream of events to one point per period.

    A scalar that wants smoothing becomes its mean over the period. One that does not, but was put in every
    iteration of the period, becomes its last value. Both stand at the last iteration of the period that
    has events. A sparse scalar (an evaluation, say) that wants no smoothing keeps every value at its own
    iteration, and so does all that is not a scalar.

    What belongs to an unfinished period is held back, so that events come out in iteration order, at most
    one for an iteration. It is part of ``state_dict``: a stream that is cut anywhere gives the same points.

    Args:
        period: Iterations in a period; one ends where ``(iteration + 1) % period == 0``. With 0 or 1 every
            event comes out at once, as it is.
        start_iter: First iteration of the stream; the period it falls into counts from there.
    """

    def __init__(self, period: int, start_iter: int = 0) -> None:
        self._period = max(period, 1)
        self._first = start_iter
        self._last: tuple[int, float] | None = None
        self._sums: dict[str, tuple[float, int, bool]] = {}
        self._held: list[Events] = []

    def reduce(self, events: Sequence[Events]) -> list[Events]:
        """Take the next ``events`` of the stream; return those of the periods that are complete now."""
        done: list[Events] = []
        for event in events:
            if self._last is not None and event.iteration > self._end(self._last[0]):
                done += self._close(self._end(self._last[0]))
            self._take(event)
            if event.iteration == self._end(event.iteration):
                done += self._close(event.iteration)
        return done

    def flush(self) -> list[Events]:
        """Return what is held back, as if the period ended here; call it when the stream has ended."""
        return self._close(self._last[0]) if self._last is not None else []

    def state_dict(self) -> dict[str, Any]:
        """Return what is held back, as JSON values and arrays."""
        return {
            "first": self._first,
            "last": None if self._last is None else list(self._last),
            "sums": {name: list(entry) for name, entry in self._sums.items()},
            "held": [event.to_state() for event in self._held],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` returned."""
        self._first = state["first"]
        self._last = None if state["last"] is None else (state["last"][0], state["last"][1])
        self._sums = {name: (total, num, volatile) for name, (total, num, volatile) in state["sums"].items()}
        self._held = [Events.from_state(event) for event in state["held"]]

    def _end(self, iteration: int) -> int:
        """Return the last iteration of the period that ``iteration`` falls into."""
        return iteration - iteration % self._period + self._period - 1

    def _take(self, event: Events) -> None:
        self._last = (event.iteration, event.time_s)
        others = {}
        for name, scalar in event.scalars.items():
            if scalar.smoothing_hint:
                total, num, _ = self._sums.get(name, (0.0, 0, False))
                self._sums[name] = (total + scalar.value, num + 1, scalar.volatile)
            else:
                others[name] = scalar
        event = replace(event, scalars=others)
        if not _is_empty(event):
            self._held.append(event)

    def _close(self, end: int) -> list[Events]:
        """Return the events of the open period, which counts up to ``end``, and start the next one."""
        assert self._last is not None
        num_iters = end - max(self._first, end - end % self._period) + 1
        num_puts = Counter(name for event in self._held for name in event.scalars)
        points = {name: Scalar(total / num, True, vol) for name, (total, num, vol) in self._sums.items()}
        done = []
        for event in self._held:
            every = {name: scalar for name, scalar in event.scalars.items() if num_puts[name] == num_iters}
            points |= every
            event = replace(event, scalars={k: v for k, v in event.scalars.items() if k not in every})
            if not _is_empty(event):
                done.append(event)
        if points and done and done[-1].iteration == self._last[0]:
            done[-1] = replace(done[-1], scalars={**done[-1].scalars, **points})
        elif points:
            done.append(Events(*self._last, scalars=points))
        self._first, self._last, self._sums, self._held = end + 1, None, {}, []
        return done


def _is_empty(event: Events) -> bool:
    return not (event.scalars or event.images or event.histograms or event.texts or event.hparams)
