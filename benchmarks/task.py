"""One run as a contender gets it: a model, batches in a given order, an optimizer, a learning rate."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from benchmarks.cases import Case, Dataset

__all__ = ["END_FACTOR", "Task"]

END_FACTOR = 0.1
"""The learning rate falls in a straight line from its value to this share of it, at the end of the run."""


class Clocked(TorchDataset[Any]):
    """A dataset that keeps when each batch was asked for.

    Attributes:
        asked_s: The moment of each.
        marks: The batches, by number, at which the CPU time of the process is kept too, in ``cpu_s``.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.asked_s: list[float] = []
        self.marks: tuple[int, ...] = ()
        self.cpu_s: list[float] = []

    def __len__(self) -> int:
        return len(self.dataset)

    def get_batch(self, indices: Tensor) -> Any:
        if len(self.asked_s) in self.marks:
            self.cpu_s.append(process_time())
        self.asked_s.append(perf_counter())
        return self.dataset.get_batch(indices)

    # A torch loader whose sampler yields the indices of whole batches asks this way.
    __getitem__ = get_batch


class Task:
    """What to train, equal for every contender, and what a contender must leave behind: the trained model.

    Attributes:
        model: Takes a batch and returns the loss.
        data: What batches are read from, by `hookline.Loader` or by one of the loaders below.
        folder: For the run's files.
    """

    def __init__(self, case: Case, num_iters: int, folder: Path) -> None:
        torch.manual_seed(0)
        self.case, self.num_iters, self.folder = case, num_iters, folder
        self.model = case.model()
        self.data = Clocked(case.data())
        self.num_batches = num_iters * case.accumulate
        indices = torch.arange(len(self.data) // case.batch_size * case.batch_size)
        self._epoch = list(indices.split(case.batch_size))
        folder.mkdir(parents=True, exist_ok=True)

    def optimizer(self, fused: bool) -> torch.optim.Optimizer:
        """Return AdamW; without ``fused`` the one that a user gets who does not ask."""
        options = {"fused": True} if fused else {}
        return torch.optim.AdamW(self.model.parameters(), lr=self.case.lr, **options)

    def factor(self, iteration: int) -> float:
        """Return what the learning rate of ``iteration`` is multiplied by."""
        return 1 + (END_FACTOR - 1) * iteration / self.num_iters

    def scheduler(self, optimizer: torch.optim.Optimizer) -> LambdaLR:
        """Return the same as a torch scheduler, to be stepped after each update."""
        return LambdaLR(optimizer, self.factor)

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[Any]:
        """Yield all batches of the run, as a hand would write it: no loader is faster."""
        for indices in self.indices():
            yield self.data.get_batch(indices)

    def indices(self) -> Iterator[Tensor]:
        """Yield the indices of each batch of the run."""
        for number in range(self.num_batches):
            yield self._epoch[number % len(self._epoch)]

    def torch_loader(self) -> DataLoader[Any]:
        """Return the fastest ``DataLoader`` of the same batches, for those who take no other loader."""
        return DataLoader(self.data, sampler=_Indices(self), batch_size=None)

    @torch.no_grad()
    def loss(self) -> float:
        """Return the loss of the model as it is now, on always the same samples."""
        return float(self.model(self.data.dataset.get_batch(torch.arange(256))))


class _Indices(torch.utils.data.Sampler[Tensor]):
    def __init__(self, task: Task) -> None:
        self.task = task

    def __iter__(self) -> Iterator[Tensor]:
        return self.task.indices()

    def __len__(self) -> int:
        return self.task.num_batches
