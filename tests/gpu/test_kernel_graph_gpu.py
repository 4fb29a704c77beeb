"""GraphKernel with real graphs: the same results as eagerly, without waiting, and one line where it cannot be."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from hookline import HookBase, get_event_storage
from hookline.kernel import GraphKernel, StepKernel
from hookline.testing import MemoryWriter, TinyModel, tiny_trainer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
}


class Net(nn.Module):
    def __init__(self, dropout=0.0):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(16, 32), nn.ReLU(), nn.BatchNorm1d(32), nn.Dropout(dropout), nn.Linear(32, 8)
        )

    def forward(self, batch):
        return mse_loss(self.layers(batch["x"]).float(), batch["y"])


def make_batches(count, seed, rows=24):
    generator = torch.Generator().manual_seed(seed)
    return [
        {
            "x": torch.randn(rows, 16, generator=generator).pin_memory(),
            "y": torch.randn(rows, 8, generator=generator).pin_memory(),
        }
        for _ in range(count)
    ]


def pair(name="adamw", choose=False, dropout=0.0, model=Net, **options):
    torch.manual_seed(0)
    ours = model(dropout).cuda()
    other = copy.deepcopy(ours)
    said = []
    kernel = GraphKernel(ours, OPTIMIZERS[name](ours.parameters()), choose=choose, say=said.append, **options)
    return kernel, said, StepKernel(other, OPTIMIZERS[name](other.parameters()), **options)


def assert_same(actual, expected, rtol=1e-4, atol=1e-5):
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol, equal_nan=True)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"clip_norm": 0.1},
        {"accumulate": 3, "clip_norm": 0.1},
        {"precision": "bf16"},
        {"precision": "fp16", "accumulate": 2},
    ],
)
def test_the_result_is_that_of_eager_iterations(name, options):
    kernel, said, eager = pair(name, **options)
    close = {} if options.get("precision", "fp32") == "fp32" else {"rtol": 2e-2, "atol": 2e-3}
    for i in range(20):
        for each in (kernel, eager):
            each.optimizer.param_groups[0]["lr"] = 0.01 / (1 + i)
        microbatches = make_batches(options.get("accumulate", 1), i)
        assert_same(kernel.step(microbatches), eager.step(microbatches), **close)
    assert said == []
    assert kernel._captured is not None
    assert_same(kernel.model.state_dict(), eager.model.state_dict(), **close)


def test_dropout_draws_what_it_draws_eagerly_and_goes_on_from_a_saved_state():
    kernel, said, eager = pair(dropout=0.5)
    results = []
    for each in (kernel, eager):
        torch.cuda.manual_seed(3)
        results.append([each.step(make_batches(1, i)) for i in range(8)])
        state = torch.cuda.get_rng_state()
        again = [each.step(make_batches(1, 9))["total_loss"]]
        torch.cuda.set_rng_state(state)
        results[-1].append(again)
    assert said == []
    assert_same(*results)
    assert len({float(metrics["total_loss"]) for metrics in results[0][:8]}) == 8


def test_the_host_never_waits_for_a_replay(waiting_is_an_error):
    kernel, _, _ = pair(clip_norm=0.5, precision="fp16", accumulate=2)
    for i in range(6):
        kernel.step(make_batches(2, i))
    with waiting_is_an_error():
        for i in range(20):
            kernel.step(make_batches(2, i))


def test_a_nan_leaves_weights_buffers_and_state_to_the_bit():
    kernel, _, _ = pair()
    for i in range(6):
        kernel.step(make_batches(1, i))
    before = copy.deepcopy([kernel.model.state_dict(), kernel.optimizer.state_dict()["state"]])
    bad = make_batches(1, 7)
    bad[0]["x"][0, 0] = torch.nan
    assert kernel.step(bad)["grad_norm"].isnan()
    assert_same([kernel.model.state_dict(), kernel.optimizer.state_dict()["state"]], before, rtol=0, atol=0)


def test_other_shapes_and_other_options_come_right():
    kernel, said, eager = pair()
    for i in range(12):
        if i == 8:
            for each in (kernel, eager):
                each.optimizer.param_groups[0]["weight_decay"] = 0.5
        microbatches = make_batches(1, i, rows=7 if i in (5, 10) else 24)
        assert_same(kernel.step(microbatches), eager.step(microbatches))
    assert len(said) == 1
    assert "other shapes" in said[0]
    assert_same(kernel.model.state_dict(), eager.model.state_dict())


class Reading(Net):
    def forward(self, batch):
        loss = super().forward(batch)
        return loss * (2 if loss.item() > 1e9 else 1)


class Counting(Net):
    def __init__(self, dropout):
        super().__init__(dropout)
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, batch):
        self.mean = 0.9 * self.mean + batch["x"].mean()
        return super().forward(batch)


@pytest.mark.parametrize(("model", "words"), [(Reading, "test_kernel_graph_gpu.py:"), (Counting, "buffer")])
def test_a_model_that_cannot_be_captured_is_named_and_trained_eagerly(model, words):
    kernel, said, eager = pair(model=model)
    for i in range(8):
        assert_same(kernel.step(make_batches(1, i)), eager.step(make_batches(1, i)))
    assert kernel.mode == "eager"
    assert len(said) == 1
    assert words in said[0]
    assert_same(kernel.model.state_dict(), eager.model.state_dict())


def test_auto_leaves_no_trace_of_measuring():
    kernel, said, eager = pair(choose=True, dropout=0.5)
    results = []
    for each in (kernel, eager):
        torch.cuda.manual_seed(3)
        results.append([each.step(make_batches(1, i)) for i in range(6)])
    assert_same(*results)
    assert kernel.mode in ("graph", "eager")
    assert len(said) == 1


class Putting(nn.Module):
    """Puts a scalar in its forward."""

    def __init__(self):
        super().__init__()
        self.inner = TinyModel()

    def forward(self, batch):
        loss = self.inner(batch)
        get_event_storage().put_scalar("gate/twice", 2 * loss.detach())
        return loss


class Nothing(HookBase):
    graph_safe = True

    def after_step(self):
        """Do nothing."""


def test_scalars_of_a_forward_reach_writers_in_every_iteration(tmp_path):
    writer = MemoryWriter()
    trainer = tiny_trainer(
        Nothing(), max_iter=12, writers={"memory": writer}, model=Putting, device="cuda", kernel="graph", run_dir=tmp_path
    )  # fmt: skip
    trainer.train()
    events = writer.events
    assert [event.iteration for event in events] == list(range(12))
    for event in events:
        assert event.scalars["gate/twice"].value == pytest.approx(
            2 * event.scalars["total_loss"].value, rel=1e-5
        )
    assert trainer.kernel._captured is not None


def test_after_a_failed_capture_everything_goes_on():
    kernel, said, eager = pair(model=Reading, dropout=0.5)
    here = torch.cuda.current_stream()
    results = []
    for each in (kernel, eager):
        torch.cuda.manual_seed(3)
        results.append([each.step(make_batches(1, i)) for i in range(8)])
    assert len(said) == 1
    assert torch.cuda.current_stream() == here
    assert_same(*results)
    torch.empty(1 << 20, device="cuda").record_stream(torch.cuda.Stream())
    torch.cuda.empty_cache()
