"""Lengths of training: a number of iterations, or a number of passes over the training data."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

from hookline.errors import ConfigError, Problem

__all__ = ["Epochs", "LengthRule", "MaxIter", "Period", "is_due", "to_iterations"]

_EPOCHS = re.compile(r"(\d+) *epochs?")


@dataclass(frozen=True)
class Epochs:
    """A length in passes over the training data; a config writes it ``3 epochs``."""

    num_epochs: int

    def __str__(self) -> str:
        return f"{self.num_epochs} epoch{'' if self.num_epochs == 1 else 's'}"


@dataclass(frozen=True)
class LengthRule:
    """The rule of a length, for ``Annotated``: an int of at least ``minimum``, or ``N epochs``."""

    minimum: int

    def __str__(self) -> str:
        return f"a whole number >= {self.minimum} or epochs such as '3 epochs'"

    def parse(self, value: Any) -> int | Epochs:
        """Return ``value`` as the int it is, or as `Epochs`; raise ValueError for anything else."""
        match = _EPOCHS.fullmatch(value.strip()) if isinstance(value, str) else None
        length = Epochs(int(match[1])) if match else value
        amount = length.num_epochs if isinstance(length, Epochs) else length
        if type(amount) is not int or amount < self.minimum:  # a bool is an int, but no length
            raise ValueError(str(self))
        return length if isinstance(length, Epochs) else amount

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(self.parse)


Period: TypeAlias = Annotated[int | Epochs, LengthRule(0)]
"""Annotation of an option that says how often: iterations or `Epochs`; 0 means never."""

MaxIter: TypeAlias = Annotated[int | Epochs, LengthRule(1)]
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
        why = "has no length" if iters_per_epoch is None else "yields no iteration"
        exists = f"The loader of data.train {why}, so an epoch cannot be counted in iterations"
        fix = "Give a number of iterations, or a loader with __len__"
        raise ConfigError([Problem(where, "a whole number of iterations", str(length), exists, fix)])
    return length.num_epochs * iters_per_epoch


def is_due(iteration: int, period: int | Epochs) -> bool:
    """Return whether a period of ``period`` iterations ends with ``iteration``, 0-based; 0 never does.

    The trainer counts a plugin's periods in iterations before it makes the plugin: none is in epochs here.
    """
    return bool(period) and (iteration + 1) % int(period) == 0  # type: ignore[arg-type]
