"""Batches of a dataset in an order that a resumed run can take up at the very next batch."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from hookline.data.batches import MapDataset, batch_maker, pinned
from hookline.data.workers import Workers, jobs, seed_from
from hookline.errors import CheckpointError, ConfigError, Problem

__all__ = ["Loader"]

_log = logging.getLogger(__name__)

# To cut many pieces at once is twice as fast as one by one; all of a long epoch would take much memory.
_BATCHES_OF_BLOCK = 256


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
        pin_memory: Put batches in page-locked memory, from where a GPU copies without waiting; with workers
            a thread does it. Without CUDA it has no effect.
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
        self._workers: Workers | None = None

    def __len__(self) -> int:
        """Return the number of batches an epoch, on this rank."""
        if self.drop_last:
            return len(self.dataset) // (self.batch_size * self.world_size)
        return -(-self._num_samples() // self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        """Yield the batches of the current epoch that are left, or those of the next when none is."""
        if self._num_yielded >= len(self):
            self._epoch, self._num_yielded = self._epoch + 1, 0
        for batch in self._batches():
            self._num_yielded += 1
            yield batch

    def rewind(self) -> None:
        """Go back to the first batch of epoch 0; `evaluate` does, so that each evaluation sees the same."""
        self._epoch = self._num_yielded = 0

    def indices_of(self, epoch: int, batch: int) -> Tensor:
        """Return the indices of the samples of one batch on this rank, int64; the position stays as it is.

        Args:
            epoch: Which epoch, from 0 on.
            batch: Which of its batches, from 0 on.

        Raises:
            ConfigError: If an epoch has no such batch.
        """
        if not (_is_whole(batch) and 0 <= batch < len(self)):
            raise ConfigError([Problem("loader.indices_of: batch", f"one of 0 to {len(self) - 1}", batch)])
        first = batch * self.batch_size
        return self._order(epoch)[first : first + self.batch_size]

    def state_dict(self) -> dict[str, int]:
        """Return the position: seed, epoch, batches yielded of it, and how many batches an epoch has."""
        place = {"epoch": self._epoch, "batch": self._num_yielded, "num_batches": len(self)}
        return {**place, "seed": self.seed}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go to the position ``state``; the next ``iter()`` yields what follows it.

        Its seed is taken over, too: in another order an epoch would hold some samples twice, some never.
        Where an epoch has another number of batches than when the state was saved (another batch size,
        dataset or number of ranks), go to the same share of the epoch, with a warning.

        Raises:
            CheckpointError: If it is not the state of a loader.
        """
        try:
            epoch, batch, num_batches = int(state["epoch"]), int(state["batch"]), int(state["num_batches"])
            self.seed = int(state.get("seed", self.seed))
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

    def _order(self, epoch: int) -> Tensor:
        """Return the indices of this rank's samples in the order of ``epoch``, int64."""
        num_samples = len(self.dataset)
        if self.shuffle:
            generator = torch.Generator().manual_seed(seed_from(self.seed, epoch))
            order = torch.randperm(num_samples, generator=generator)
        else:
            order = torch.arange(num_samples)
        if num_samples % self.world_size:
            order = order[torch.arange(self._num_samples() * self.world_size) % num_samples]
        return order[self.rank :: self.world_size]

    def _batches(self) -> Iterable[Any]:
        """Return the batches of the current epoch that are left, in order."""
        first, last = self._num_yielded, len(self)
        order = self._order(self._epoch)[first * self.batch_size : last * self.batch_size]
        indices = _split(order, self.batch_size)
        pin_memory = self.pin_memory and torch.cuda.is_available()
        if self.num_workers:
            if self._workers is None:
                self._workers = Workers(self.dataset, self.num_workers, pin_memory)
            return self._workers.fetched(jobs(indices, (self.seed, self.rank, self._epoch), first))
        batches = map(batch_maker(self.dataset), indices)
        return map(pinned, batches) if pin_memory else batches


def _split(order: Tensor, batch_size: int) -> Iterator[Tensor]:
    """Return ``order`` in pieces of ``batch_size``, of which only some hundred exist at a time."""
    size = batch_size * _BATCHES_OF_BLOCK
    blocks: Iterable[Tensor] = order.split(size) if len(order) else ()  # type: ignore[no-untyped-call]
    return chain.from_iterable(block.split(batch_size) for block in blocks)  # type: ignore[no-untyped-call]


def _check(
    num_samples: int, batch_size: int, drop_last: bool, num_workers: int, rank: int, world_size: int
) -> None:
    """Raise every problem with the arguments of a `Loader` at once."""
    problems = []
    if not _is_whole(batch_size) or batch_size < 1:
        problems.append(Problem("loader.batch_size", "a whole number >= 1", batch_size))
    if not _is_whole(num_workers) or num_workers < 0:
        problems.append(Problem("loader.num_workers", "a whole number >= 0", num_workers))
    if not (_is_whole(rank) and _is_whole(world_size) and 0 <= rank < world_size):
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


def _is_whole(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool)
