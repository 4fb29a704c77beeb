"""What the GPU script trains: models whose iterations are short, or wide, or wait for data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.cases import MLP, char_gpt

__all__ = ["Sizes", "gpt2", "images", "many_tensors", "mlp", "tiny", "usual"]

Batches = Sequence[Any]


@dataclass(frozen=True)
class Sizes:
    """How large everything is; `usual` for a GPU, `tiny` for a rehearsal on a CPU.

    Args:
        short_iters: Timed iterations of a model that takes a fraction of a millisecond.
        long_iters: The same of one that takes many.
        compile: What ``torch.compile`` is given.
    """

    short_iters: int
    long_iters: int
    rounds: int
    gpt_layers: int
    gpt_width: int
    vocabulary: int
    context: int
    gpt_batches: tuple[int, ...]
    image_batch: int
    image_size: int
    sync_iters: int
    compile: dict[str, Any]


usual = Sizes(2000, 30, 5, 12, 768, 50304, 1024, (12, 64), 256, 224, 200, {})
tiny = Sizes(6, 3, 2, 2, 32, 64, 16, (2, 3), 4, 8, 8, {"backend": "eager"})
NUM_BATCHES = 16


def mlp(device: torch.device) -> tuple[nn.Module, Batches]:
    """A model that a GPU computes faster than a host can ask for it."""
    return MLP(784, 256, 256, 10).to(device), _points(784, device)


def many_tensors(device: torch.device) -> tuple[nn.Module, Batches]:
    """75 layers of width 64: 150 parameter tensors."""
    return MLP(*[64] * 75, 10).to(device), _points(64, device)


def _points(num_features: int, device: torch.device) -> Batches:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(NUM_BATCHES, 32, num_features, generator=generator)
    y = torch.randint(10, (NUM_BATCHES, 32), generator=generator)
    return [(one.to(device), other.to(device)) for one, other in zip(x, y, strict=True)]


def gpt2(sizes: Sizes, batch_size: int, device: torch.device) -> tuple[nn.Module, Batches]:
    """The example's GPT with GPT-2's sizes and vocabulary, rounded up to a multiple of 128: 124 million."""
    model = char_gpt().GPT(
        num_layers=sizes.gpt_layers, width=sizes.gpt_width, context=sizes.context, num_heads=sizes.gpt_layers
    )
    model.token_embedding = nn.Embedding(sizes.vocabulary, sizes.gpt_width)
    nn.init.normal_(model.token_embedding.weight, std=0.02)
    generator = torch.Generator().manual_seed(1)
    shape = (4, batch_size, sizes.context + 1)
    tokens = torch.randint(sizes.vocabulary, shape, generator=generator).to(device)
    return model.to(device), [{"tokens": one[:, :-1], "targets": one[:, 1:]} for one in tokens]


class _ConvNet(nn.Module):
    """A few convolutions: less work than copying the images is."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 32, 7, stride=4, padding=3),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(64, 10),
        )

    def forward(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        x_BCHW, y_B = batch
        return F.cross_entropy(self.layers(x_BCHW), y_B)


def images(sizes: Sizes, device: torch.device) -> tuple[nn.Module, Batches]:
    """Images in host memory, page-locked where there is a GPU: they must be copied each iteration."""
    generator = torch.Generator().manual_seed(1)
    shape = (sizes.image_batch, 3, sizes.image_size, sizes.image_size)
    batches = []
    for _ in range(4):
        batch = torch.rand(shape, generator=generator), torch.randint(10, shape[:1], generator=generator)
        pinned = [tensor.pin_memory() for tensor in batch] if device.type == "cuda" else batch
        batches.append(tuple(pinned))
    return _ConvNet().to(device), batches
