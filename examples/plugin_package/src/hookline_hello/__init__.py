"""The smallest hookline plugin: one hook and one writer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hookline import Events, EventWriter, HookBase, Run

__all__ = ["Count", "Hello"]


class Hello(HookBase):
    """Greets every ``period`` iterations.

    Args:
        greeting: What to say.
        period: How often, iterations.
    """

    observer = True

    def __init__(self, greeting: str = "Hello", period: int = 100) -> None:
        self.greeting, self.period = greeting, period

    def after_step(self) -> None:
        """Greet when the period ends."""
        if (self.trainer.iter + 1) % self.period == 0:
            print(f"{self.greeting} after {self.trainer.iter + 1} iterations!")


class Count(EventWriter):
    """Writes how many scalars it was given to ``count.txt`` in the run directory."""

    def __init__(self) -> None:
        self.num_scalars = 0

    def open(self, run: Run) -> None:
        """Remember where to write."""
        self.path = run.dir / f"{run.writer or 'count'}.txt"

    def write(self, events: Sequence[Events]) -> None:
        """Count, and write the count."""
        self.num_scalars += sum(len(event.scalars) for event in events)
        self.path.write_text(f"{self.num_scalars}\n", encoding="utf-8")

    def state_dict(self) -> dict[str, Any]:
        """Return the count, so that a resumed run goes on counting."""
        return {"num_scalars": self.num_scalars}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a count."""
        self.num_scalars = state["num_scalars"]
