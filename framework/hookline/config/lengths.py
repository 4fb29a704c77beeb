"""Lengths of training: a number of iterations, or a number of passes over the training data."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

from hookline.config.rules import Rule
from hookline.errors import ConfigError, Problem

__all__ = ["Epochs", "MaxIter", "Period", "is_due", "to_iterations"]

_EPOCHS = re.compile(r"(\d+) *epochs?")


@dataclass(frozen=True)
class Epochs:
    """A length in passes over the training data; a config writes it ``3 epochs``."""

    num_epochs: int

    def __str__(self) -> str:
        return f"{self.num_epochs} epoch{'' if self.num_epochs == 1 else 's'}"


def _at_least(minimum: int) -> Rule:
    def parse(value: Any) -> int | Epochs:
        match = _EPOCHS.fullmatch(value.strip()) if isinstance(value, str) else None
        length = Epochs(int(match[1])) if match else value
        amount = length.num_epochs if isinstance(length, Epochs) else length
        if type(amount) is not int or amount < minimum:  # a bool is an int, but no length
            raise ValueError
        return length if isinstance(length, Epochs) else amount

    amount = r"\d+" if minimum == 0 else r"0*[1-9]\d*"
    epochs = {"type": "string", "pattern": rf"^\s*{amount} *epochs?\s*$"}
    schema = {"anyOf": [{"type": "integer", "minimum": minimum}, epochs]}
    return Rule(f"a whole number >= {minimum} or epochs such as '3 epochs'", parse, schema)


Period: TypeAlias = Annotated[int | Epochs, _at_least(0)]
"""Annotation of an option that says how often: iterations or `Epochs`; 0 means never."""

MaxIter: TypeAlias = Annotated[int | Epochs, _at_least(1)]
"""Annotation of an option that says how long: iterations or `Epochs`, at least 1."""


def to_iterations(length: int | Epochs, iters_per_epoch: int | None, where: str) -> int:
    """Return ``length`` in iterations.

    Args:
        length: A `Period` or `MaxIter`.
        iters_per_epoch: Iterations in one pass over the training data; None when it has no length.
        where: The key and its origin, for the message.

    Raises:
        ConfigError: If ``length`` is in epochs and the training data has no length, or none to give.
    """
    if not isinstance(length, Epochs):
        return length
    if not iters_per_epoch:
        why = "has no length" if iters_per_epoch is None else "has less than one iteration"
        exists = f"The loader of data.train {why}, so an epoch is no number of iterations"
        raise ConfigError([Problem(where, "a whole number of iterations", str(length), exists)])
    return length.num_epochs * iters_per_epoch


def is_due(iteration: int, period: int | Epochs) -> bool:
    """Return True in the last iteration of each ``period``; never when it is 0.

    Raises:
        TypeError: If ``period`` is still in epochs; `DefaultTrainer` makes iterations of it.
    """
    if isinstance(period, Epochs):
        raise TypeError(f"period: expected a number of iterations, got '{period}'. Use to_iterations first.")
    return period > 0 and (iteration + 1) % period == 0
