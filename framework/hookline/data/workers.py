"""Processes that make batches ahead, in which random numbers depend on the batch alone."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import random
import signal
import threading
import traceback
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from hookline.data.batches import MakeBatch, MapDataset, batch_maker
from hookline.errors import RunError

__all__ = ["Workers", "jobs", "seed_from"]

# Where torch waits for what its processes send; an error of the dataset itself it raises elsewhere.
_RECEIVING = "_try_get_data"

Job = tuple[tuple[int, int, int, int], list[int]]
"""What a batch is made from: parts of its seed, and indices of its samples."""


def jobs(indices: Iterable[Tensor], seeds: tuple[int, int, int], first: int) -> Iterator[Job]:
    """Yield the jobs of consecutive batches, the first of which is number ``first`` of its epoch."""
    # No method: a loader that its own generator leads back to takes seconds to stop its workers.
    for number, of_batch in enumerate(indices, first):
        # A list is cheaper to send than a tensor, which goes by a file descriptor of its own.
        yield (*seeds, number), of_batch.tolist()


def seed_from(*parts: int) -> int:
    """Return a 63-bit seed that differs wherever one of ``parts`` does."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class Workers:
    """Processes that stay from epoch to epoch; they start when the first batch is asked for.

    Args:
        dataset: What they read, as it is when they start.
        num_workers: How many, >= 1.
        pin_memory: A thread here puts what they made into page-locked memory.
    """

    def __init__(self, dataset: MapDataset, num_workers: int, pin_memory: bool) -> None:
        self._asked = _Asked()
        self._loader = DataLoader(
            _Batches(dataset),
            batch_size=None,  # a job is a whole batch already
            sampler=self._asked,
            collate_fn=_unchanged,
            num_workers=num_workers,
            persistent_workers=True,
            pin_memory=pin_memory,
            worker_init_fn=_leave_signals_to_the_run,
            generator=torch.Generator(),  # it would draw a seed from the global one otherwise
        )

    def fetched(self, jobs: Iterator[Job]) -> Iterator[Any]:
        """Yield the batches of ``jobs``, in order.

        Raises:
            RunError: If one of the processes has died.
        """
        self._asked.remaining = jobs
        try:
            yield from self._loader
        except (EOFError, OSError, RuntimeError) as error:
            if _RECEIVING not in (place.name for place in traceback.extract_tb(error.__traceback__)):
                raise
            raise RunError(
                f"data loader: expected {self._loader.num_workers} processes that load, got one that died "
                f"({error}). Nothing is lost: resume the run. If it was short of memory, lower num_workers."
            ) from error


class _Asked:
    """The jobs a DataLoader is to do: it asks anew each epoch, its workers stay."""

    def __init__(self) -> None:
        self.remaining: Iterator[Job] = iter(())

    def __iter__(self) -> Iterator[Job]:
        return self.remaining


class _Batches(Dataset[Any]):
    """A dataset as a DataLoader sees it: the item of a job is a batch."""

    _make: MakeBatch | None = None

    def __init__(self, dataset: MapDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, job: Job) -> Any:
        seeds, indices = job
        seed = seed_from(*seeds)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        if self._make is None:  # Not before it is in its process: it cannot be sent to one.
            self._make = batch_maker(self.dataset)
        return self._make(torch.tensor(indices))


def _leave_signals_to_the_run(worker: int) -> None:
    """Let what is sent to all processes pause or save the run, which ends its workers when it ends.

    Some send it to the process group, and SLURM to each process of a job by itself.
    """
    os.setpgid(0, 0)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    run = multiprocessing.parent_process()
    if run is not None and hasattr(signal, "sigwaitinfo"):  # macOS has none
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_told_by, args=(run.pid,), daemon=True).start()


def _end_when_told_by(run: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != run:
        pass
    os._exit(0)


def _unchanged(batch: Any) -> Any:
    return batch
