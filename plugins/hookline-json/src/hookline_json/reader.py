"""From lines of JSON back to events, a line at a time."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from hookline import Events, Problem, RunError, Scalar

__all__ = ["events_of"]

MAX_LAYOUTS = 1000
CLOCK = "wall_time_s"

_WORDS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class _Line(NamedTuple):
    """What is in one line."""

    iteration: float
    numbers: dict[str, float]
    texts: dict[str, str]


_END = _Line(math.inf, {}, {})


def events_of(metrics: Path, timings: Path, hints: Mapping[str, bool]) -> Iterator[Events]:
    """Yield the events that two files hold, ascending by iteration; a torn last line is left out.

    What the files do not say: a scalar without a hint wants smoothing, and an iteration without timings has
    the wall time of the last one before it that has some, or else of the first one.

    Raises:
        RunError: If there is a line that is none of the writer's.
    """
    # The metrics of an iteration are written before its timings. Of a run that goes on, the files end where
    # they did when they were opened: so in this order there are no timings without their metrics.
    varying_lines, stable_lines = _lines(timings, hints), _lines(metrics, hints)
    varying, stable = next(varying_lines, _END), next(stable_lines, _END)
    has_clock = CLOCK not in hints  # or a scalar of that name is in its place
    clock_s = varying.numbers.get(CLOCK, 0.0) if has_clock else 0.0
    flags = _Flags(hints)
    while (iteration := min(stable.iteration, varying.iteration)) < math.inf:
        numbers, times, texts = _END.numbers, _END.numbers, _END.texts
        if stable.iteration == iteration:
            _, numbers, texts = stable
            stable = next(stable_lines, _END)
        if varying.iteration == iteration:
            times = varying.numbers
            if has_clock:
                clock_s = times.pop(CLOCK, clock_s)
            varying = next(varying_lines, _END)
        yield _events(int(iteration), clock_s, {**numbers, **times}, texts, flags.of(numbers, times))


class _Flags:
    """The flags of scalars; those of iterations that have the same scalars are made once."""

    def __init__(self, hints: Mapping[str, bool]) -> None:
        self._hints = hints
        self._made: dict[tuple[tuple[str, ...], tuple[str, ...]], dict[str, tuple[bool, bool]]] = {}

    def of(self, stable: Iterable[str], varying: Iterable[str]) -> dict[str, tuple[bool, bool]]:
        """Return (smoothing_hint, volatile) of each name."""
        key = tuple(stable), tuple(varying)
        if key not in self._made:
            if len(self._made) == MAX_LAYOUTS:
                self._made.clear()
            self._made[key] = {
                name: (self._hints.get(name, True), is_volatile)
                for names, is_volatile in zip(key, (False, True), strict=True)
                for name in names
            }
        return self._made[key]


def _events(
    iteration: int,
    clock_s: float,
    values: dict[str, float],
    texts: dict[str, str],
    flags: Mapping[str, tuple[bool, bool]],
) -> Events:
    if not texts:
        return Events.of_values(iteration, clock_s, values, flags)
    scalars = {name: Scalar(value, *flags[name]) for name, value in values.items()}
    return Events(iteration, clock_s, scalars, texts=texts)


def _lines(path: Path, hints: Mapping[str, bool]) -> Iterator[_Line]:
    """Yield each line that was whole when the first one was read."""
    if not path.exists():
        return
    last = -1
    with open(path, "rb") as file:
        left = os.fstat(file.fileno()).st_size
        for number, text in enumerate(file, start=1):
            left -= len(text)
            if left < 0 or not text.endswith(b"\n"):
                return
            line = _parsed(text, hints)
            if line is None or line.iteration <= last:
                rule = f"a line of the journal, of an iteration above {last}"
                got = text.decode(errors="replace").rstrip()
                fix = "The file was edited or damaged: mend or remove the line"
                raise RunError(str(Problem(f"{path}:{number}", rule, got, fix=fix)))
            last = int(line.iteration)
            yield line


def _parsed(text: bytes, hints: Mapping[str, bool]) -> _Line | None:
    """Return what is in a line; None if it is none of ours."""
    try:
        record = json.loads(text)
        iteration = record.pop("iteration")
        kinds = set(map(type, record.values()))
        if int in kinds:  # a tool has written it anew
            record = {name: float(value) if type(value) is int else value for name, value in record.items()}
    except (ValueError, OverflowError, RecursionError, AttributeError, TypeError, KeyError):
        return None
    if type(iteration) is not int or not kinds <= {float, int, str}:
        return None
    if str not in kinds:
        return _Line(iteration, record, {})
    # One of the three words may be a text, too; who is no scalar has one.
    texts = {
        name: value
        for name, value in record.items()
        if type(value) is str and (value not in _WORDS or (hints and name not in hints))
    }
    numbers = {name: _WORDS.get(value, value) for name, value in record.items() if name not in texts}
    return _Line(iteration, numbers, texts)
