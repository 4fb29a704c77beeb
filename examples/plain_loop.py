"""Train without a trainer: the kernel, the storage and a writer in a loop of your own.

Run it: ``python examples/plain_loop.py``. It learns y = 3x + 1 and writes runs/plain_loop/metrics.jsonl.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from hookline import Delivery, EventStorage, Loader, Run, StepKernel
from hookline_json import JSONWriter


class Line(nn.Module):
    """A straight line; the model returns its loss, as hookline's models do."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 1)

    def forward(self, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        x, y = batch
        return nn.functional.mse_loss(self.linear(x), y)


def main(directory: Path = Path("runs/plain_loop"), num_epochs: int = 20) -> float:
    """Train, and return the last loss."""
    torch.manual_seed(0)
    x = torch.linspace(-1, 1, 256).unsqueeze(1)
    dataset = torch.utils.data.TensorDataset(x, 3 * x + 1)
    loader = Loader(dataset, batch_size=32)
    model = Line()
    kernel = StepKernel(model, torch.optim.SGD(model.parameters(), lr=0.1), clip_norm=10.0)

    directory.mkdir(parents=True, exist_ok=True)
    run = Run(directory, name="plain_loop", id="plain_loop")
    with EventStorage() as storage, Delivery(storage, {"json": JSONWriter()}, run):
        for _ in range(num_epochs):
            for batch in loader:
                storage.put_scalars(**kernel.step([batch]))
                storage.step()
    loss = storage.history("total_loss").latest()
    print(f"{storage.iter} iterations, loss {loss:.2e}, metrics in {directory / 'metrics.jsonl'}")
    return loss


if __name__ == "__main__":
    main()
