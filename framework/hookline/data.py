"""Batches of a dataset in an order that a resumed run can take up at the very next batch."""

from __future__ import annotations

import hashlib
import logging
import os
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any, Protocol

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate, get_worker_info

from hookline.errors import CheckpointError, ConfigError, Problem

__all__ = ["Loader", "MapDataset", "build_loader", "iterations_per_epoch"]

_log = logging.getLogger(__name__)


class MapDataset(Protocol):
    """What a `Loader` needs of a dataset: a length, and a sample for every index below it.

    A batch is made by the first of these that the dataset has:

    1. ``get_batch(indices)``: takes the indices as an int64 tensor and returns the finished batch. A
       dataset in memory is read by one indexing operation this way, and one whose samples differ in
       size puts them together as it likes.
    2. ``__getitems__(indices)``: takes a list and returns the list of samples, as in torch.
    3. ``__getitem__(index)`` for each index.

    What 2 and 3 return is put together by ``torch.utils.data.default_collate``.
    """

    def __len__(self) -> int:
        """Return the number of samples."""
        ...

    def __getitem__(self, index: int, /) -> Any:
        """Return one sample."""
        ...


class Loader:
    """Yields the batches of one epoch after another; each ``iter()`` goes on at the next batch.

    The order of an epoch depends on ``seed`` and the epoch alone: it draws nothing from global
    generators and is the same however often a run is stopped. Batches that were fetched ahead and not
    yielded do not count as seen. Iterate over it in one place at a time.

    Batch ``i`` of all ranks together is batch ``i`` of one process with ``world_size`` times the batch size.

    In worker processes, Python's, NumPy's and torch's generators are seeded anew for every batch, from
    seed, rank, epoch and batch: random augmentation is the same for any number of workers, and after
    a resume. Without workers a dataset draws from the global generators of the training process.

    Args:
        dataset: What to load; see `MapDataset`.
        batch_size: Samples a batch, on each rank.
        shuffle: Draw a new order every epoch; otherwise go by index.
        drop_last: Leave out what does not fill a batch on every rank, instead of a smaller last batch.
        num_workers: Processes that fetch batches ahead; 0 fetches in the training process.
        pin_memory: Put batches in page-locked memory, from where a GPU copies without waiting; without
            CUDA it has no effect.
        seed: Seed of the order; the same on every rank.
        rank: This process, in ``range(world_size)``.
        world_size: How many processes share each epoch.
        pad: Give every rank equally many samples, by repeating a few of the epoch's first where ``drop_last``
            does not: training needs it. Without, every sample is seen exactly once, and a rank may
            have one fewer than another: what an evaluation needs.

    Raises:
        ConfigError: If an argument is out of range or an epoch would have no batch.
    """

    def __init__(
        self,
        dataset: MapDataset,
        *,
        batch_size: Annotated[int, Field(ge=1)],
        shuffle: bool = True,
        drop_last: bool = False,
        num_workers: Annotated[int, Field(ge=0)] = 0,
        pin_memory: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        pad: bool = True,
    ) -> None:
        _check(len(dataset), batch_size, drop_last, num_workers, rank, world_size)
        self.dataset = dataset
        self.batch_size, self.shuffle, self.drop_last = batch_size, shuffle, drop_last
        self.num_workers, self.pin_memory = num_workers, pin_memory
        self.seed, self.rank, self.world_size, self.pad = seed, rank, world_size, pad
        self._epoch = 0
        self._num_yielded = 0  # of this epoch
        self._jobs = _Jobs()
        self._loader: DataLoader[Any] | None = None

    def __len__(self) -> int:
        """Return the number of batches an epoch, on this rank."""
        if self.drop_last:
            return len(self.dataset) // (self.batch_size * self.world_size)
        return -(-self._num_samples() // self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        """Yield the batches of the current epoch that are left, or those of the next when none is."""
        if self._num_yielded >= len(self):
            self._epoch, self._num_yielded = self._epoch + 1, 0
        seeds = self.seed, self.rank, self._epoch
        numbers = range(self._num_yielded, len(self))
        for batch in self._fetched(_remaining(self._order(), self.batch_size, seeds, numbers)):
            self._num_yielded += 1
            yield batch

    def rewind(self) -> None:
        """Go back to the first batch of epoch 0; `evaluate` does, so that each evaluation sees the same."""
        self._epoch = self._num_yielded = 0

    def state_dict(self) -> dict[str, int]:
        """Return the position: epoch, batches yielded of it, and how many batches an epoch has."""
        return {"epoch": self._epoch, "batch": self._num_yielded, "num_batches": len(self)}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go to the position ``state``; the next ``iter()`` yields what follows it.

        Where an epoch has another number of batches than when the state was saved (another batch size,
        dataset or number of ranks), go to the same share of the epoch, with a warning.

        Raises:
            CheckpointError: If it is not the state of a loader.
        """
        try:
            epoch, batch, num_batches = int(state["epoch"]), int(state["batch"]), int(state["num_batches"])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"data loader: expected a state with epoch, batch and num_batches, got {state!r}. "
                "It is not the state of a hookline.Loader."
            ) from error
        if num_batches != len(self):
            _log.warning(
                "data loader: an epoch has %d batches now, %d when the state was saved; "
                "going on at the same share of epoch %d, which is not the very next sample.",
                len(self), num_batches, epoch,
            )  # fmt: skip
            batch = batch * len(self) // max(num_batches, 1)
        self._epoch, self._num_yielded = epoch, batch

    def _num_samples(self) -> int:
        """Return how many samples of an epoch are this rank's, before ``drop_last``."""
        whole, rest = divmod(len(self.dataset), self.world_size)
        return whole + (rest > 0 if self.pad else self.rank < rest)

    def _order(self) -> Tensor:
        """Return the indices of this rank's samples in the order of the current epoch, int64."""
        num_samples = len(self.dataset)
        if self.shuffle:
            generator = torch.Generator().manual_seed(_seed_from(self.seed, self._epoch))
            order = torch.randperm(num_samples, generator=generator)
        else:
            order = torch.arange(num_samples)
        if num_samples % self.world_size:
            order = order[torch.arange(self._num_samples() * self.world_size) % num_samples]
        return order[self.rank :: self.world_size]

    def _fetched(self, jobs: Iterator[_Job]) -> Iterable[Any]:
        """Return the batches of ``jobs``, in order, fetched by workers where there are any."""
        pin_memory = self.pin_memory and torch.cuda.is_available()
        if not self.num_workers and not pin_memory:
            return (_fetch(self.dataset, indices) for _, indices in jobs)
        if self._loader is None:
            self._loader = DataLoader(
                _Fetch(self.dataset),
                batch_size=None,  # a job is a whole batch already
                sampler=self._jobs,
                collate_fn=_unchanged,
                num_workers=self.num_workers,
                persistent_workers=self.num_workers > 0,
                pin_memory=pin_memory,
                worker_init_fn=_leave_signals_to_the_run,
                generator=torch.Generator(),  # it would draw a seed from the global one otherwise
            )
        self._jobs.remaining = jobs
        return self._loader


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


_Job = tuple[tuple[int, int, int, int], Tensor]


def iterations_per_epoch(loader: Any, accumulate: int) -> int | None:
    """Return how many iterations of ``accumulate`` batches an epoch has, or None where nobody knows."""
    try:  # A DataLoader always has __len__, and raises in it where its dataset has none.
        return len(loader) // accumulate
    except TypeError:
        return None


def _remaining(order: Tensor, batch_size: int, seeds: tuple[int, int, int], numbers: range) -> Iterator[_Job]:
    """Yield what is needed to fetch each of the batches ``numbers`` of ``order``."""
    # No method: a loader that its own generator leads back to takes seconds to stop its workers.
    for number in numbers:
        yield (*seeds, number), order[number * batch_size : (number + 1) * batch_size]


class _Jobs:
    """The batches a DataLoader is to fetch: it asks anew each epoch, its workers stay."""

    def __init__(self) -> None:
        self.remaining: Iterator[_Job] = iter(())

    def __iter__(self) -> Iterator[tuple[tuple[int, int, int, int], list[int]]]:
        # A list is cheaper to send than a tensor, which goes by a file descriptor of its own.
        return ((seeds, indices.tolist()) for seeds, indices in self.remaining)


class _Fetch(Dataset[Any]):
    """A dataset as a DataLoader sees it: the item of a job is a batch."""

    def __init__(self, dataset: MapDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, job: tuple[tuple[int, int, int, int], list[int]]) -> Any:
        seeds, indices = job
        if get_worker_info() is not None:
            seed = _seed_from(*seeds)
            random.seed(seed)
            np.random.seed(seed % 2**32)
            torch.manual_seed(seed)
        return _fetch(self.dataset, torch.tensor(indices))


def _fetch(dataset: Any, indices: Tensor) -> Any:
    """Return the batch of the samples at ``indices``; see `MapDataset` for the three ways."""
    if hasattr(dataset, "get_batch"):
        return dataset.get_batch(indices)
    if getattr(dataset, "__getitems__", None):
        return default_collate(dataset.__getitems__(indices.tolist()))
    return default_collate([dataset[index] for index in indices.tolist()])


def _leave_signals_to_the_run(worker: int) -> None:
    """Leave the process group: what is sent to all of it pauses the run, which then ends its workers."""
    os.setpgid(0, 0)


def _unchanged(batch: Any) -> Any:
    return batch


def _seed_from(*parts: int) -> int:
    """Return a 63-bit seed that differs wherever one of ``parts`` does."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _check(
    num_samples: int, batch_size: int, drop_last: bool, num_workers: int, rank: int, world_size: int
) -> None:
    """Raise every problem with the arguments of a `Loader` at once."""
    problems = []
    if batch_size < 1:
        problems.append(Problem("loader.batch_size", "a whole number >= 1", batch_size))
    if num_workers < 0:
        problems.append(Problem("loader.num_workers", "a whole number >= 0", num_workers))
    if not 0 <= rank < world_size:
        problems.append(Problem("loader.rank", f"a rank below world_size ({world_size})", rank))
    if num_samples < 1:
        problems.append(
            Problem("loader.dataset", "at least one sample", num_samples, fix="Check the dataset's files")
        )
    elif drop_last and not problems and num_samples < batch_size * world_size:
        ranks = f" on each of {world_size} ranks" if world_size > 1 else ""
        exists = f"The dataset has {num_samples} samples and drop_last leaves out a smaller batch"
        fix = "Lower batch_size, or set drop_last to false"
        problems.append(
            Problem("loader.batch_size", f"at least one full batch{ranks}", batch_size, exists, fix)
        )
    if problems:
        raise ConfigError(problems)
