"""What only a real device can show of DeviceFeed: values, no waiting, and a copy beside the computation."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from hookline import Loader, SimpleTrainer
from hookline.prefetch import DeviceFeed

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

DEVICE = torch.device("cuda", 0)


def long_computation(rounds=60):
    """Queue some tens of milliseconds of work on the current stream."""
    matrix = torch.randn(4096, 4096, device=DEVICE)
    for _ in range(rounds):
        matrix = matrix @ matrix
    return matrix


@pytest.mark.parametrize("pin", [False, True])
def test_values_and_layouts_arrive_whole(pin):
    rows = torch.arange(96.0)
    batch = {
        "plain": rows,
        "transposed": rows.view(8, 12).t(),
        "channels last": rows.view(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "columns": [rows.view(8, 12)[:, ::3], (rows[:1].expand(5), torch.tensor(7))],
        "packed": nn.utils.rnn.pack_sequence([rows[:3], rows[:2]]),
        "there": rows.to(DEVICE),
        "text": "a",
    }
    if pin:
        batch["plain"] = batch["plain"].pin_memory()
    sent = DeviceFeed(DEVICE)(batch)
    assert sent["there"] is batch["there"]
    assert sent["text"] == "a"
    assert torch.equal(sent["packed"].data.cpu(), batch["packed"].data)
    pairs = [(sent[name], batch[name]) for name in ("plain", "transposed", "channels last")]
    pairs += [
        (sent["columns"][0], batch["columns"][0]),
        *zip(sent["columns"][1], batch["columns"][1], strict=True),
    ]
    for there, here in pairs:
        assert there.device == DEVICE
        assert torch.equal(there.cpu(), here)
        assert there.stride() == here.to(DEVICE).stride()


def test_the_host_never_waits(waiting_is_an_error):
    feed = DeviceFeed(DEVICE)
    feed([torch.ones(1000), torch.ones(4, 6)[:, ::2]])  # The first pinned memory is allocated.
    with waiting_is_an_error():
        for _ in range(20):
            feed([torch.ones(1000), torch.ones(4, 6)[:, ::2]])[0].sum()


def test_a_copy_ends_while_the_computation_queued_before_it_still_runs():
    feed = DeviceFeed(DEVICE)
    image = torch.randn(1 << 20)
    feed(image)
    long_computation(2)
    torch.cuda.synchronize()
    computed, copied = torch.cuda.Event(), torch.cuda.Event()
    long_computation()
    computed.record()
    sent = feed(image)
    copied.record(feed._side)
    copied.synchronize()
    assert not computed.query()
    assert torch.equal(sent.cpu(), image)


def test_memory_of_a_batch_that_is_still_read_is_not_given_to_a_later_one():
    feed = DeviceFeed(DEVICE)
    images = [torch.full((1 << 18,), float(number)) for number in range(8)]
    sums = []
    for image in images:
        long_computation(3)
        sums.append(feed(image).sum())  # The batch is dropped at once, and read much later.
    assert [float(total) for total in sums] == [float(image.sum()) for image in images]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_trainer_with_it_gives_the_weights_of_one_without(num_workers):
    class Net(nn.Linear):
        def forward(self, batch):
            x, y = batch
            return (super().forward(x) - y).square().mean()

    weights = []
    for prefetch in (False, True):
        torch.manual_seed(0)
        model = Net(8, 2).to(DEVICE)
        data = TensorDataset(torch.randn(256, 8), torch.randn(256, 2))
        loader = Loader(data, batch_size=16, num_workers=num_workers, pin_memory=num_workers > 0)
        trainer = SimpleTrainer(
            model, loader, torch.optim.AdamW(model.parameters(), fused=True), accumulate=2, prefetch=prefetch
        )
        trainer.train(0, 30)
        assert all(part.device.type == "cpu" for part in trainer.microbatches[0])
        weights.append(model.weight.detach().clone())
    assert torch.equal(*weights)
