"""Which shape is it? Noisy pictures of four shapes, and a small convolutional network to tell them apart."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NAMES = ("bar", "cross", "frame", "dot")


def drawings(size: int) -> Tensor:
    """Return one clean picture of each shape, (4, size, size), 0 for paper and 1 for ink."""
    middle, edge = slice(size // 2 - 1, size // 2 + 1), [0, 1, size - 2, size - 1]
    bar, cross, frame, dot = torch.zeros(4, size, size)
    bar[middle] = 1
    cross[middle] = cross[:, middle] = 1
    frame[edge] = frame[:, edge] = 1
    dot[size // 3 : -(size // 3), size // 3 : -(size // 3)] = 1
    return torch.stack([bar, cross, frame, dot])


class Shapes:
    """Pictures of (1, 12, 12) in [0, 1] with their labels.

    Args:
        num_pictures: How many.
        noise: Standard deviation of the noise.
        seed: Other pictures for another seed.
    """

    def __init__(self, num_pictures: int, noise: float = 1.5, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.labels = torch.randint(len(NAMES), (num_pictures,), generator=generator)
        clean = drawings(12)[self.labels].unsqueeze(1)
        self.pictures = (clean + noise * torch.randn(clean.shape, generator=generator)).clamp(0, 1)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"pictures": self.pictures[index], "labels": self.labels[index]}


class Net(nn.Module):
    """Features, then a head; in evaluation mode it also returns the logits and the labels."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, width, 3, stride=2), nn.ReLU(), nn.Conv2d(width, width, 3, stride=2), nn.ReLU()
        )
        self.head = nn.Linear(width * 4, len(NAMES))

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Any]:
        logits = self.head(self.features(batch["pictures"]).flatten(1))
        losses = {"loss": F.cross_entropy(logits, batch["labels"])}
        if self.training:
            return losses
        return {**losses, "num_items": len(logits), "logits": logits, "labels": batch["labels"]}
