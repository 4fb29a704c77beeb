"""What a check of the resume found, as data and as sentences."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from hookline.purity import described

__all__ = ["Difference", "MetricDifference", "ResumeVerification"]


@dataclass(frozen=True)
class MetricDifference:
    """The first value that was put differently.

    Args:
        iteration: Of which iteration.
        name: Its name.
        uninterrupted: What the run that was not stopped put; None for nothing.
        resumed: What the resumed run put.
    """

    iteration: int
    name: str
    uninterrupted: float | str | None
    resumed: float | str | None

    def sentence(self) -> str:
        """Return it in words."""
        one, other = ("nothing" if v is None else v for v in (self.uninterrupted, self.resumed))
        return f"{self.name} of iteration {self.iteration} is {one} uninterrupted and {other} resumed"


@dataclass(frozen=True)
class Difference:
    """The first difference between two runs that should be the same.

    Args:
        stopped_after: Iterations after which one of them was stopped and resumed; 0 where neither was.
        iteration: The first that begins differently, or ends differently where it is the last.
        parts: What differs then, as named by `hookline.purity.fingerprint`; ``plugin state/NAME.KEY`` beside.
        metric: The first value that was put differently.
        cause: What did it, as far as that can be told.
        clues: What objects remember differently.
        advice: What to do.
    """

    stopped_after: int
    iteration: int
    parts: tuple[str, ...] = ()
    metric: MetricDifference | None = None
    cause: str = ""
    clues: tuple[str, ...] = ()
    advice: str = ""

    def lines(self) -> list[tuple[str, str]]:
        """Return it as lines for people, each with a word before it."""
        lines = []
        if self.parts:
            lines.append(("first", f"iteration {self.iteration} begins with other {described(self.parts)}"))
        if self.metric is not None:
            lines.append(("metric" if self.parts else "first", self.metric.sentence()))
        lines += [("cause", self.cause), *(("look", clue) for clue in self.clues), ("mend", self.advice)]
        return [(word, text) for word, text in lines if text]


@dataclass
class ResumeVerification:
    """What a check of the resume found.

    Attributes:
        num_iters: How long each run was.
        stopped_after: After how many iterations runs were stopped and resumed.
        difference: The first difference of a resumed run, or, where two equal runs differ, of these.
        is_repeatable: False if two equal runs differ, so that nothing can be said of a resume.
        notes: What else to know.
    """

    num_iters: int
    stopped_after: list[int] = field(default_factory=list)
    difference: Difference | None = None
    is_repeatable: bool = True
    notes: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> Literal["same", "different", "unknown"]:
        """``unknown`` if training is not repeatable, or there was nothing to resume."""
        if not self.is_repeatable or not self.stopped_after:
            return "unknown"
        return "same" if self.difference is None else "different"

    @property
    def exit_code(self) -> int:
        """0 same, 1 different, 2 unknown."""
        return {"same": 0, "different": 1, "unknown": 2}[self.verdict]

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON has it."""
        return {"verdict": self.verdict, **asdict(self)}
