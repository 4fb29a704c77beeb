"""How long an iteration takes."""

from __future__ import annotations

from time import perf_counter
from typing import Annotated

from pydantic import Field

from hookline.hookspecs import HookBase

__all__ = ["Timer"]


class Timer(HookBase):
    """Puts ``time``, the host's seconds from ``before_step`` to ``after_step``, as a volatile scalar.

    Args:
        warmup_iters: Iterations at the start that are not measured, because they are not typical.
    """

    observer = True
    graph_safe = True

    def __init__(self, warmup_iters: Annotated[int, Field(ge=0)] = 3) -> None:
        self.warmup_iters = warmup_iters
        self._start = 0.0
        self._first = 0

    def before_train(self) -> None:
        """Find out which iteration is the first to be measured."""
        self._first = self.trainer.start_iter + self.warmup_iters

    def before_step(self) -> None:
        """Start the clock."""
        self._start = perf_counter()

    def after_step(self) -> None:
        """Stop it, and put what it shows."""
        seconds = perf_counter() - self._start
        trainer = self.trainer
        if trainer.iter >= self._first:
            trainer.storage.put_scalar("time", seconds, volatile=True)
