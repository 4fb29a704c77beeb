"""The learning rate as a factor of what the optimizer was given, by how much of a run is done.

A factor is a function of the iteration and of ``max_iter`` alone: nothing is stored, so a resumed run,
also one that was made longer, goes on where the formula says::

    schedule: {target: hookline.schedules:Cosine, warmup_iters: 100}

Every schedule warms up first: the factor rises in a straight line from ``warmup_factor`` to 1 in
``warmup_iters`` iterations. What follows runs over the rest, from the end of the warm-up to ``max_iter``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol, runtime_checkable

from pydantic import Field

from hookline.errors import ConfigError, Problem

__all__ = ["Constant", "Cosine", "Linear", "MultiStep", "Schedule"]

_WarmupIters = Annotated[int, Field(ge=0)]
_Factor = Annotated[float, Field(ge=0)]


@runtime_checkable
class Schedule(Protocol):
    """Anything that tells the factor of the learning rate at an iteration."""

    def factor(self, iteration: int, max_iter: int) -> float:
        """Return the factor for the update of ``iteration``, 0-based, in a run of ``max_iter``."""
        ...


@dataclass(frozen=True)
class Constant:
    """The configured learning rate, after the warm-up.

    Args:
        warmup_iters: Length of the warm-up, iterations.
        warmup_factor: Factor at iteration 0, when there is a warm-up.
    """

    warmup_iters: _WarmupIters = 0
    warmup_factor: _Factor = 0.001

    def factor(self, iteration: int, max_iter: int) -> float:
        """See `Schedule.factor`."""
        return _warmup(self, iteration)


@dataclass(frozen=True)
class Linear:
    """A straight line from 1 to ``end_factor``.

    Args:
        warmup_iters: Length of the warm-up, iterations.
        warmup_factor: Factor at iteration 0, when there is a warm-up.
        end_factor: Factor at ``max_iter``, just after the last update.
    """

    warmup_iters: _WarmupIters = 0
    warmup_factor: _Factor = 0.001
    end_factor: _Factor = 0.0

    def factor(self, iteration: int, max_iter: int) -> float:
        """See `Schedule.factor`."""
        if iteration < self.warmup_iters:
            return _warmup(self, iteration)
        return 1 + (self.end_factor - 1) * _progress(iteration, self.warmup_iters, max_iter)


@dataclass(frozen=True)
class Cosine:
    """Half a cosine from 1 to ``end_factor``.

    Args:
        warmup_iters: Length of the warm-up, iterations.
        warmup_factor: Factor at iteration 0, when there is a warm-up.
        end_factor: Factor at ``max_iter``, just after the last update.
    Source: Loshchilov and Hutter 2017, equation 5, without restarts.
    """

    warmup_iters: _WarmupIters = 0
    warmup_factor: _Factor = 0.001
    end_factor: _Factor = 0.0

    def factor(self, iteration: int, max_iter: int) -> float:
        """See `Schedule.factor`."""
        if iteration < self.warmup_iters:
            return _warmup(self, iteration)
        fallen = (1 - math.cos(math.pi * _progress(iteration, self.warmup_iters, max_iter))) / 2
        return 1 + (self.end_factor - 1) * fallen


@dataclass(frozen=True)
class MultiStep:
    """The configured learning rate, multiplied by ``gamma`` at each milestone.

    Args:
        milestones: Shares of the whole run, warm-up included, such as ``[0.6, 0.9]``; each between 0 and 1.
        gamma: What each milestone multiplies the factor by.
        warmup_iters: Length of the warm-up, iterations.
        warmup_factor: Factor at iteration 0, when there is a warm-up.

    Raises:
        ConfigError: If a milestone is not between 0 and 1.
    """

    milestones: Sequence[Annotated[float, Field(gt=0, lt=1)]]
    gamma: Annotated[float, Field(gt=0)] = 0.1
    warmup_iters: _WarmupIters = 0
    warmup_factor: _Factor = 0.001

    def __post_init__(self) -> None:
        wrong = [milestone for milestone in self.milestones if not 0 < milestone < 1]
        if wrong:
            fix = "Divide an iteration by max_iter"
            raise ConfigError([Problem("MultiStep.milestones", "shares between 0 and 1", wrong, "", fix)])

    def factor(self, iteration: int, max_iter: int) -> float:
        """See `Schedule.factor`."""
        num_passed = sum(iteration >= milestone * max_iter for milestone in self.milestones)
        return _warmup(self, iteration) * self.gamma**num_passed


class _WarmsUp(Protocol):
    @property
    def warmup_iters(self) -> int: ...
    @property
    def warmup_factor(self) -> float: ...


def _warmup(schedule: _WarmsUp, iteration: int) -> float:
    """Return the factor of the warm-up alone: 1 when it is over."""
    if iteration >= schedule.warmup_iters:
        return 1.0
    return schedule.warmup_factor + (1 - schedule.warmup_factor) * iteration / schedule.warmup_iters


def _progress(iteration: int, start: int, end: int) -> float:
    """Return how much of ``start`` to ``end`` is done, in [0, 1]; past the end is the end."""
    return min((iteration - start) / (end - start), 1.0) if end > start else 1.0
