"""What is trained: models, data, and the settings that every contender shares."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["CASES", "MLP", "Case", "Dataset", "Points", "char_gpt"]

_CHAR_GPT = Path(__file__).parents[1] / "examples" / "char_gpt" / "char_gpt.py"
NUM_SAMPLES = 16384


class MLP(nn.Module):
    """Linear layers with ReLU between them; takes ``(x, y)`` and returns the mean cross entropy."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        x_BF, y_B = batch
        return F.cross_entropy(self.layers(x_BF), y_B)


class Dataset:
    """Samples in memory; ``get_batch`` returns those at some indices by one indexing operation."""

    def __len__(self) -> int:
        raise NotImplementedError

    def get_batch(self, indices: Tensor) -> Any:
        raise NotImplementedError


class Points(Dataset):
    """Random points and which of ten random directions each is nearest to: something that can be learned."""

    def __init__(self, num_features: int, num_classes: int = 10) -> None:
        generator = torch.Generator().manual_seed(1)
        self.x = torch.randn(NUM_SAMPLES, num_features, generator=generator)
        directions = torch.randn(num_features, num_classes, generator=generator)
        self.y = (self.x @ directions).argmax(1)

    def __len__(self) -> int:
        return NUM_SAMPLES

    def get_batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return self.x[indices], self.y[indices]


class _Text(Dataset):
    """The example's windows of text, shuffled once: every contender then reads them in that order."""

    def __init__(self) -> None:
        self.corpus = char_gpt().Corpus("train", 64, NUM_SAMPLES)
        order = torch.randperm(len(self.corpus), generator=torch.Generator().manual_seed(1))
        self.corpus.windows = self.corpus.windows[order]

    def __len__(self) -> int:
        return len(self.corpus)

    def get_batch(self, indices: Tensor) -> dict[str, Tensor]:
        return self.corpus.get_batch(indices)


@cache
def char_gpt() -> Any:
    """Return the module of the example: it is no package."""
    spec = importlib.util.spec_from_file_location("char_gpt", _CHAR_GPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _gpt() -> nn.Module:
    return char_gpt().GPT()


@dataclass(frozen=True)
class Case:
    """One thing to train.

    Args:
        title: What it is, in a few words.
        model: Makes the model, once the generators are seeded.
        data: Makes the dataset.
        num_iters: Iterations that are timed, after ``warmup_iters`` that are not.
        variation: Of another case: by default only a few contenders run it.
    """

    name: str
    title: str
    model: Callable[[], nn.Module]
    data: Callable[[], Dataset]
    batch_size: int = 32
    lr: float = 1e-3
    clip_norm: float = 0.0
    accumulate: int = 1
    log_period: int = 20
    warmup_iters: int = 500
    num_iters: int = 2000
    variation: bool = False


def _all() -> list[Case]:
    small = Case("mlp-small", "MLP 32-64-64-10", partial(MLP, 32, 64, 64, 10), partial(Points, 32))
    wide = Case("mlp-wide", "MLP 784-256-256-10", partial(MLP, 784, 256, 256, 10), partial(Points, 784))
    wide = replace(wide, warmup_iters=100, num_iters=700)
    deep = Case("mlp-deep", "MLP, 16 layers of 64", partial(MLP, *[64] * 16, 10), partial(Points, 64))
    deep = replace(deep, warmup_iters=100, num_iters=700)
    text = Case("char-gpt", "char-GPT, 2 layers of 64", _gpt, _Text, batch_size=16)
    text = replace(text, warmup_iters=20, num_iters=120)
    clipped = [
        replace(case, name=f"{case.name}-clip", title=f"{case.title}, clipped", clip_norm=1.0, variation=True)
        for case in (small, wide, deep, text)
    ]
    vary = partial(replace, variation=True)
    return [
        *(small, wide, deep, text),
        *clipped,
        vary(
            small,
            name="mlp-small-acc8",
            title=f"{small.title}, 8 microbatches",
            accumulate=8,
            warmup_iters=100,
            num_iters=500,
        ),
        vary(small, name="mlp-small-log1", title=f"{small.title}, logged every iteration", log_period=1),
        vary(small, name="mlp-small-log50", title=f"{small.title}, logged every 50", log_period=50),
    ]


CASES = {case.name: case for case in _all()}
