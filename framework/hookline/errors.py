"""Every exception that hookline raises on purpose, and the form of its message.

::

    HooklineError                 exit code 2: what was asked for cannot be done as asked
    ├── ConfigError               a config, an override or an option is wrong; holds every Problem found
    ├── PluginError               a plugin cannot be found, loaded, registered or ordered
    ├── CheckpointError           a checkpoint cannot be written or read
    ├── RunError                  a run directory, a process group or a device is not as needed
    │   └── RankError             another rank failed first (its exit code)
    ├── WriterError               an event writer that must not fail failed (exit code 1)
    └── NonFiniteError            a loss or gradient is not finite (exit code 1); also a FloatingPointError

A message reads ``<where>: expected <rule>, got <value>. <what exists>. <what to do>.``
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

__all__ = [
    "CheckpointError",
    "ConfigError",
    "Fault",
    "HooklineError",
    "NonFiniteError",
    "PluginError",
    "Problem",
    "RankError",
    "RunError",
    "WriterError",
    "add_note",
    "did_you_mean",
    "notes",
]

_MAX_SHOWN = 50


class HooklineError(Exception):
    """Base of every exception that hookline raises on purpose."""

    exit_code = 2


class PluginError(HooklineError):
    """A plugin cannot be found, loaded, registered or ordered."""


class CheckpointError(HooklineError):
    """A checkpoint cannot be written, or cannot be read back as it was written."""


class RunError(HooklineError):
    """A run directory, a process group or a device is not as the run needs it."""


class RankError(RunError):
    """Another rank failed first, and this one could not go on without it.

    Args:
        rank: The rank that failed.
        cause: The type and message of its exception.
        exit_code: The exit code that goes with it.
    """

    def __init__(self, rank: int, cause: str, exit_code: int) -> None:
        self.rank, self.cause, self.exit_code = rank, cause, exit_code
        super().__init__(f"rank {rank} failed, and this one with it: {cause}")


class WriterError(HooklineError):
    """An event writer failed and its policy is to end the run."""

    exit_code = 1


class NonFiniteError(HooklineError, FloatingPointError):
    """A loss or a gradient was NaN or infinite; the update was skipped, so the weights are clean.

    Args:
        iteration: The 0-based iteration whose update ended the run.
        values: Losses and gradient norm of that iteration, by name.
        num_skipped: How many updates in a row were skipped, this one included.
    """

    exit_code = 1

    def __init__(self, iteration: int, values: Mapping[str, float], num_skipped: int = 1) -> None:
        self.iteration, self.values, self.num_skipped = iteration, dict(values), num_skipped
        shown = ", ".join(f"{name}={value:g}" for name, value in values.items())
        super().__init__(
            f"iteration {iteration}: expected finite losses and gradients, got {shown}. "
            f"{num_skipped} update{'s' if num_skipped != 1 else ''} in a row skipped; the weights are those "
            "before them. Look for NaN in the data, lower the learning rate, set train.clip_norm, or allow "
            "some with train.max_skips."
        )


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with what a user wrote, and how to mend it.

    Args:
        where: The key and its origin, such as ``hooks.evaluate.period (run.yaml:12)``.
        expected: The rule, such as ``a whole number >= 0``.
        got: The offending value, shown with ``repr``; None with ``missing`` for a value that is not there.
        exists: What there is instead, one sentence without a full stop; may be empty.
        fix: What to do, one sentence without a full stop; may be empty.
        missing: True when the value is absent.
    """

    where: str
    expected: str
    got: Any = None
    exists: str = ""
    fix: str = ""
    missing: bool = False

    def __str__(self) -> str:
        got = "nothing" if self.missing else _shortened(self.got)
        sentences = [f"{self.where}: expected {self.expected}, got {got}", self.exists, self.fix]
        return " ".join(
            sentence if sentence.endswith("?") else f"{sentence}." for sentence in sentences if sentence
        )


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong in the code of a plugin, and how to mend it.

    Args:
        where: The plugin, and what of it.
        expected: The rule.
        got: What is there instead.
        mend: What to do, one sentence without a full stop.
        file: The file it is in; may be empty.
        line: The line in ``file``; 0 when it is not known.
    """

    where: str
    expected: str
    got: str
    mend: str
    file: str = ""
    line: int = 0

    def __str__(self) -> str:
        end = "" if self.mend.endswith("?") else "."
        return f"{self.where}: expected {self.expected}, got {self.got}. {self.mend}{end}"


class ConfigError(HooklineError):
    """A config, an override or a plugin's options are wrong; every problem found is in ``problems``."""

    def __init__(self, problems: Sequence[Problem | HooklineError]) -> None:
        self.problems = list(problems)
        lines = [str(problem) for problem in self.problems[:_MAX_SHOWN]]
        if len(self.problems) > 1:
            lines = [f"{len(self.problems)} problems:", *(f"  {line}" for line in lines)]
        if (num_more := len(self.problems) - _MAX_SHOWN) > 0:
            lines.append(f"  … and {num_more} more")
        super().__init__("\n".join(lines))


def did_you_mean(name: str, choices: Iterable[str], cutoff: float = 0.6) -> str:
    """Return ``Did you mean 'x'?`` for the choice nearest to ``name``, or an empty string.

    Args:
        name: What was written.
        choices: What could have been meant.
        cutoff: Least similarity, 0 to 1, as in `difflib.get_close_matches`.
    """
    close = get_close_matches(name, list(choices), n=1, cutoff=cutoff)
    return f"Did you mean {close[0]!r}?" if close else ""


def add_note(error: BaseException, note: str) -> None:
    """Attach ``note`` to ``error`` as Python 3.11's ``add_note`` does, on 3.10 too."""
    error.__notes__ = [*notes(error), note]  # type: ignore[attr-defined]


def notes(error: BaseException) -> list[str]:
    """Return the notes attached to ``error``, oldest first."""
    return list(getattr(error, "__notes__", ()))


def _shortened(value: Any, limit: int = 120) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
