"""What only a real device can show of StepKernel: that the host does not wait for it."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from hookline.kernel import StepKernel

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

FUSED = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, fused=True),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, fused=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Linear(16, 32, bias=False), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 8)
        )

    def forward(self, batch):
        x, y = batch
        return {
            "fit": mse_loss(self.layers(x).float(), y),
            "size": 1e-3 * self.layers[0].weight.square().mean(),
            "num_items": torch.full((), len(x), device=x.device),
        }


def make_batch(seed, device="cpu"):
    """A batch in pinned memory, as a loader gives it, or on the device."""
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(24, 16, generator=generator), torch.randn(24, 8, generator=generator)
    return tuple(t.pin_memory() if device == "cpu" else t.to(device) for t in (x, y))


@pytest.mark.parametrize("name", FUSED)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("hooked", [False, True])
def test_the_host_does_not_wait_with_a_fused_optimizer(name, precision, hooked, waiting_is_an_error):
    model = Net().cuda()
    kernel = StepKernel(
        model, FUSED[name](model.parameters()), precision=precision, accumulate=2, clip_norm=1.0
    )
    if hooked:
        kernel.after_backward = lambda: [p.grad.mul_(0.5) for p in model.parameters()]
    x, y = make_batch(0)
    iterations = [
        [make_batch(1), make_batch(2)],
        [(torch.full_like(x, math.nan, pin_memory=True), y)],
        [make_batch(3)],
    ]
    kernel.step(iterations[0])  # Libraries start up.
    with waiting_is_an_error():
        results = [kernel.step(batches) for batches in iterations]
    assert [bool(metrics["grad_norm"].isnan()) for metrics in results] == [False, True, False]
    assert all(value.is_cuda for value in results[0].values())


def test_another_optimizer_waits(waiting_is_an_error):
    model = Net().cuda()
    kernel = StepKernel(model, torch.optim.AdamW(model.parameters(), foreach=True))
    kernel.step([make_batch(0)])
    with waiting_is_an_error(), pytest.raises(RuntimeError, match="synchroniz"):
        kernel.step([make_batch(1)])


@pytest.mark.parametrize("name", FUSED)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_skipped_update_leaves_no_trace(name, precision):
    model = Net().cuda()
    optimizer = FUSED[name](model.parameters())
    kernel = StepKernel(model, optimizer, precision=precision, clip_norm=1.0)
    x, y = make_batch(0, "cuda")
    for batch in ((x, y * math.inf), (x, y), (x * math.nan, y)):
        before = copy.deepcopy([model.state_dict(), *optimizer.state.values()])
        metrics = kernel.step([batch])
        if metrics["grad_norm"].isfinite():
            continue
        for kept, now in zip(before, [model.state_dict(), *optimizer.state.values()], strict=False):
            assert all(torch.equal(kept[key], now[key]) for key in kept)
    assert metrics["grad_norm"].isnan()


@pytest.mark.parametrize("name", FUSED)
def test_it_equals_a_plain_loop(name):
    model = Net().cuda()
    other = copy.deepcopy(model)
    optimizer, reference = FUSED[name](model.parameters()), FUSED[name](other.parameters())
    kernel = StepKernel(model, optimizer, accumulate=2, clip_norm=0.5)
    for i in range(4):
        batches = [make_batch(2 * i, "cuda"), make_batch(2 * i + 1, "cuda")]
        norm = kernel.step(batches)["grad_norm"]
        reference.zero_grad()
        for batch in batches:
            losses = other(batch)
            ((losses["fit"] + losses["size"]) / 2).backward()
        torch.testing.assert_close(norm, nn.utils.clip_grad_norm_(other.parameters(), 0.5))
        reference.step()
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
