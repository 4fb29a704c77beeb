"""A run of milliseconds that has everything a large one has: dropout, statistics, momentum, data in order."""

from __future__ import annotations

import random
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from hookline import distributed
from hookline.data import Loader
from hookline.environment import on_all_ranks
from hookline.errors import RunError
from hookline.events import EventStorage, EventWriter
from hookline.hooks import PeriodicWriter
from hookline.trainer import SimpleTrainer

__all__ = ["TinyModel", "TinyTrainer", "seed_all", "tiny_data", "tiny_trainer"]

_NUM_FEATURES = 4
_BATCH_SIZE = 8
_NUM_SAMPLES, _NUM_EVAL_SAMPLES = 64, 20


class TinyModel(nn.Module):
    """Fits a line through `tiny_data`; ``model((x, y))`` returns the mean squared error.

    Dropout draws random numbers and batch norm keeps statistics, so a plugin that disturbs either, or a
    resume that forgets it, shows in the weights.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(_NUM_FEATURES, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 1)
        )

    def forward(self, batch: Sequence[Tensor]) -> Tensor:
        """Return the loss of ``batch``: x of shape (B, 4) and y of shape (B,)."""
        x_BF, y_B = batch
        loss: Tensor = (self.layers(x_BF).squeeze(1) - y_B).square().mean()
        return loss


class _Points(TensorDataset):
    def get_batch(self, indices: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensor[indices] for tensor in self.tensors)


def tiny_data(num_samples: int = 64) -> TensorDataset:
    """Return pairs of a point, float32 of shape (4,), and its height, 0-D float32; always the same ones."""
    x_NF = torch.linspace(-1, 1, num_samples * _NUM_FEATURES).reshape(num_samples, _NUM_FEATURES).cos()
    return _Points(x_NF, x_NF.sum(1))


class TinyTrainer(SimpleTrainer):
    """A `SimpleTrainer` whose data has a name, ``eval``, and whose ``train()`` needs no numbers."""

    data: Callable[[int], Any] = staticmethod(tiny_data)
    """Makes a dataset of so many samples."""

    def train(self, start_iter: int | None = None, max_iter: int | None = None) -> None:
        """Train from where the run stands to the ``max_iter`` it was made with; see `TrainerBase.train`."""
        first = self.iter if start_iter is None else start_iter
        super().train(first, self.max_iter if max_iter is None else max_iter)

    def eval_data(self, data: Any) -> Iterable[Any]:
        """Return the batches of ``eval``, or ``data`` itself where it is no name."""
        if data == "eval":
            return _loader(self.data(_NUM_EVAL_SAMPLES), shuffle=False, pad=False)
        return super().eval_data(data)


def tiny_trainer(
    *hooks: Any,
    max_iter: int = 10,
    run_dir: str | Path | None = None,
    seed: int = 0,
    writers: Mapping[str, EventWriter] | Sequence[EventWriter] = (),
    log_period: int = 4,
    model: Callable[[], nn.Module] = TinyModel,
    data: Callable[[int], Any] = tiny_data,
    device: str = "cpu",
    **options: Any,
) -> TinyTrainer:
    """Return a trainer that is ready to train: an iteration takes less than a millisecond.

    Seeds the global generators, so two trainers made alike train alike, to the bit. Inside `run_ranks` each
    rank makes its own, and they train together.

    Args:
        hooks: Registered in this order, after the writers.
        max_iter: Where ``train()`` ends.
        run_dir: The run directory; made where it is missing. Without one, writers are given a folder that
            goes with the trainer.
        seed: Of weights, data order and global generators.
        writers: Given every event, each on its thread; by name, or a list, named by their classes.
        log_period: Period of the writers, iterations.
        model: Makes what is trained, once the generators are seeded; it takes batches of ``data``.
        data: Makes a dataset of so many samples, to train on and to evaluate on.
        device: Where the model is.
        options: Of `SimpleTrainer`, such as ``accumulate`` and ``precision``.

    Raises:
        RunError: If ``model`` is a model instead of what makes one: its weights would not follow the seed.
    """
    if isinstance(model, nn.Module):
        raise RunError(
            f"tiny_trainer.model: expected a class or a function, got a model ({type(model).__name__}). "
            f"Give what makes it, as in model={type(model).__name__}, so that its weights follow the seed."
        )
    seed_all(seed + distributed.rank())
    made = model().to(device)
    trainer = TinyTrainer(
        on_all_ranks(made, torch.device(device)),
        _loader(data(_NUM_SAMPLES), seed=seed, drop_last=True),
        torch.optim.SGD(made.parameters(), lr=0.05, momentum=0.9),
        **options,
    )
    trainer.data, trainer.max_iter, trainer.log_period = data, max_iter, log_period
    trainer.storage = EventStorage(period=log_period)
    if run_dir is not None:
        trainer.run_dir = Path(run_dir)
        trainer.run_dir.mkdir(parents=True, exist_ok=True)
    if writers:
        if run_dir is None:
            trainer.run_dir = _folder_of(trainer)
        trainer.register_hook(PeriodicWriter(writers), "writers")
    trainer.register_hooks(hooks)
    return trainer


def _loader(data: Any, **options: Any) -> Loader:
    return Loader(
        data, batch_size=_BATCH_SIZE, rank=distributed.rank(), world_size=distributed.world_size(), **options
    )


def seed_all(seed: int) -> None:
    """Seed the global generators of Python, NumPy and torch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _folder_of(trainer: TinyTrainer) -> Path:
    """Return a new folder that is removed when ``trainer`` is."""
    folder = tempfile.mkdtemp(prefix="hookline-")
    weakref.finalize(trainer, shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
