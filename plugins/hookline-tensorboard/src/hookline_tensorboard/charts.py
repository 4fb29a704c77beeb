"""Which scalars are shown together in one chart."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from hookline import ConfigError, Problem

__all__ = ["DEFAULT_CHARTS", "Charts"]

DEFAULT_CHARTS = {
    "losses": r"[^/]*loss[^/]*$",
    "times": r"([^/]*_)?time$|[^/]*_s$",
}


class Charts:
    """The charts that have at least one scalar so far.

    A scalar belongs to every chart whose pattern matches its name from the start. One that no pattern
    matches, ``eval/accuracy`` say, belongs to a chart of its prefix, ``eval``; without a prefix, to none.

    Args:
        patterns: Title to regular expression.

    Raises:
        ConfigError: If an expression is not valid.
    """

    def __init__(self, patterns: Mapping[str, str]) -> None:
        self._patterns = {title: _compiled(title, pattern) for title, pattern in patterns.items()}
        self._names: dict[str, None] = {}
        self.shown: dict[str, str] = {}
        """Title to regular expression, in the order they came up."""

    def add(self, names: Iterable[str]) -> bool:
        """Take note of scalars; return whether a chart came up that was not shown before."""
        num_shown = len(self.shown)
        for name in names:
            if name not in self._names:
                self._names[name] = None
                self.shown.update(self._of(name))
        return len(self.shown) > num_shown

    def names(self) -> list[str]:
        """Return all names taken note of; adding them to new charts gives the same charts."""
        return list(self._names)

    def _of(self, name: str) -> dict[str, str]:
        matching = {title: p.pattern for title, p in self._patterns.items() if p.match(name)}
        prefix, slash, _ = name.rpartition("/")
        if matching or not slash or prefix in self.shown:
            return matching
        return {prefix: f"{re.escape(prefix)}/[^/]*$"}


def _compiled(title: str, pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        rule = f"a regular expression of scalar names ({error})"
        problem = Problem(f"writers.tensorboard.charts.{title}", rule, pattern)
        raise ConfigError([problem]) from error
