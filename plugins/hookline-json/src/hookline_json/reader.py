"""From lines of JSON back to events, a line at a time."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hookline import Events, Problem, RunError, Scalar

__all__ = ["events_of"]

MAX_LAYOUTS = 1000
CLOCK = "wall_time_s"

_WORDS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_END: tuple[float, dict[str, Any]] = (math.inf, {})


def events_of(metrics: Path, timings: Path, hints: Mapping[str, bool]) -> Iterator[Events]:
    """Yield the events that two files hold, ascending by iteration; a torn last line is left out.

    What the files do not say: a scalar without a hint wants smoothing, and an iteration without timings has
    the wall time of the last one before it that has some, or else of the first one.

    Raises:
        RunError: If there is a line that is none of the writer's.
    """
    # The metrics of an iteration are written before its timings. Of a run that goes on, the files end where
    # they did when they were opened: so in this order there are no timings without their metrics.
    varying_lines, stable_lines = _records(timings), _records(metrics)
    varying, stable = next(varying_lines, _END), next(stable_lines, _END)
    maker = _Maker(hints)
    clock_s = maker.clock_s(varying[1], 0.0)
    while (iteration := min(stable[0], varying[0])) < math.inf:
        texts: dict[str, str] = {}
        numbers: dict[str, float] = {}
        times: dict[str, float] = {}
        if stable[0] == iteration:
            numbers, texts = maker.split(stable[1])
            stable = next(stable_lines, _END)
        if varying[0] == iteration:
            clock_s = maker.clock_s(varying[1], clock_s)
            times, _ = maker.split(varying[1])
            varying = next(varying_lines, _END)
        yield maker.events(int(iteration), clock_s, numbers, times, texts)


class _Maker:
    """Makes events; the flags of those that have the same scalars are made once."""

    def __init__(self, hints: Mapping[str, bool]) -> None:
        self._hints = hints
        self._flags: dict[tuple[tuple[str, ...], tuple[str, ...]], dict[str, tuple[bool, bool]]] = {}

    def clock_s(self, record: dict[str, Any], default_s: float) -> float:
        """Take the wall time out of a line; where a scalar of that name is in its place, there is none."""
        clock_s = default_s if CLOCK in self._hints else record.pop(CLOCK, default_s)
        return clock_s if isinstance(clock_s, float) else default_s

    def split(self, record: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, str]]:
        """Return the numbers and the texts of a line."""
        numbers: dict[str, float] = {}
        texts: dict[str, str] = {}
        for name, value in record.items():
            if type(value) is float:
                numbers[name] = value
            elif value in _WORDS and (name in self._hints or not self._hints):
                numbers[name] = _WORDS[value]
            else:
                texts[name] = value
        return numbers, texts

    def events(
        self,
        iteration: int,
        clock_s: float,
        numbers: dict[str, float],
        times: dict[str, float],
        texts: dict[str, str],
    ) -> Events:
        """Return the events of an iteration."""
        key = tuple(numbers), tuple(times)
        if key not in self._flags:
            if len(self._flags) == MAX_LAYOUTS:
                self._flags.clear()
            hinted = {name: self._hints.get(name, True) for name in (*numbers, *times)}
            self._flags[key] = {name: (hint, name in times) for name, hint in hinted.items()}
        flags = self._flags[key]
        values = {**numbers, **times}
        if not texts:
            return Events.of_values(iteration, clock_s, values, flags)
        scalars = {name: Scalar(value, *flags[name]) for name, value in values.items()}
        return Events(iteration, clock_s, scalars, texts=texts)


def _records(path: Path) -> Iterator[tuple[float, dict[str, Any]]]:
    """Yield iteration and the rest of each line that was whole when the first one was read."""
    if not path.exists():
        return
    last = -1
    with open(path, "rb") as file:
        left = os.fstat(file.fileno()).st_size
        for number, line in enumerate(file, start=1):
            left -= len(line)
            if left < 0 or not line.endswith(b"\n"):
                return
            record = _parsed(line)
            if record is None or record["iteration"] <= last:
                rule = f"a line of the journal, of an iteration above {last}"
                got = line.decode(errors="replace").rstrip()
                fix = "The file was edited or damaged: mend or remove the line"
                raise RunError(str(Problem(f"{path}:{number}", rule, got, fix=fix)))
            last = record.pop("iteration")
            yield last, record


def _parsed(line: bytes) -> dict[str, Any] | None:
    """Return what is in ``line``, numbers as floats but for the iteration; None if it is none of ours."""
    try:
        record = json.loads(line)
        iteration = record.pop("iteration")
        values = {name: float(value) if type(value) is int else value for name, value in record.items()}
    except (ValueError, OverflowError, RecursionError, AttributeError, TypeError, KeyError):
        return None
    is_ours = type(iteration) is int and all(type(value) in (float, str) for value in values.values())
    return {**values, "iteration": iteration} if is_ours else None
