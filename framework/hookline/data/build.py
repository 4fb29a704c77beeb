"""A data source of a config becomes something that yields batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from torch.utils.data import IterableDataset

from hookline.data.loader import Loader
from hookline.errors import ConfigError, Problem

__all__ = ["build_loader", "iterations_per_epoch"]


def build_loader(
    source: Any,
    options: Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
    pad: bool = True,
    where: str = "data",
) -> Iterable[Any]:
    """Return the loader of a data source: a `Loader` around a dataset, an iterable of batches as it is.

    Args:
        source: A dataset with ``__getitem__`` and ``__len__``, or an iterable of batches.
        options: Keyword arguments of `Loader` that a user chose; None when there are none.
        seed: As for `Loader`.
        rank: As for `Loader`.
        world_size: As for `Loader`.
        pad: As for `Loader`: False for evaluation.
        where: The key of the source in a config, and its origin, for messages.

    Raises:
        ConfigError: If a dataset comes without options, a loader with options, or an option is wrong.
    """
    kind = type(source).__name__
    is_dataset = all(hasattr(source, name) for name in ("__getitem__", "__len__"))
    if is_dataset and not isinstance(source, IterableDataset):
        if options is None:
            expected = f"a 'loader' for the dataset {kind}"
            fix = "Add 'loader: {batch_size: 32}', or make the target return an iterable of batches"
            raise ConfigError([Problem(where, expected, missing=True, fix=fix)])
        try:
            return Loader(source, **options, seed=seed, rank=rank, world_size=world_size, pad=pad)
        except ConfigError as error:
            found = [problem for problem in error.problems if isinstance(problem, Problem)]
            problems = [replace(problem, where=f"{where}: {problem.where}") for problem in found]
            raise ConfigError(problems) from error
    if not hasattr(source, "__iter__"):
        expected = "a dataset with __getitem__ and __len__, or an iterable of batches"
        raise ConfigError([Problem(where, expected, source, fix=f"Give {kind} what it lacks")])
    if options is not None:
        expected = f"no 'loader' for {kind}, which yields batches itself"
        fix = "Remove 'loader', or make the target return a dataset with __getitem__ and __len__"
        raise ConfigError([Problem(where, expected, dict(options), fix=fix)])
    iterable: Iterable[Any] = source
    return iterable


def iterations_per_epoch(loader: Any, accumulate: int) -> int | None:
    """Return how many iterations of ``accumulate`` batches an epoch has, or None where nobody knows."""
    try:  # A DataLoader always has __len__, and raises in it where its dataset has none.
        return len(loader) // accumulate
    except TypeError:
        return None
