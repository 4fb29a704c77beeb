"""What makes the host wait is found by CUDA's own debug mode: who, which hook, which line."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from hookline import HookBase, RunError, SimpleTrainer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

PERIOD = 5


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, batch):
        return self.layers(batch).square().mean()


class WaitingNet(Net):
    def forward(self, batch):
        loss = super().forward(batch)
        self.last = loss.item()
        return loss


class Waiting(HookBase):
    def after_step(self):
        return next(self.trainer.model.parameters()).sum().item()


class Printing(HookBase):
    def before_step(self):
        return f"{next(self.trainer.model.parameters()).sum()}"


class Quiet(HookBase):
    def after_step(self):
        weight = next(self.trainer.model.parameters())
        self.trainer.storage.put_scalar("weight", weight.detach().sum())


def trainer_with(*hooks, model=None, **options):
    model = (model or Net()).to("cuda")
    batches = [torch.randn(4, 8, device="cuda") for _ in range(4)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
    trainer = SimpleTrainer(model, batches, optimizer, **options)
    trainer.log_period = PERIOD
    trainer.register_hooks(hooks)
    return trainer


@pytest.fixture(autouse=True)
def _mode():
    yield
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Synchronization debug mode is a prototype")
        torch.cuda.set_sync_debug_mode(0)
    assert mode == 0


@pytest.mark.parametrize(
    ("hook", "who"),
    [(Waiting, "after_step of plugin 'Waiting'"), (Printing, "before_step of plugin 'Printing'")],
)
def test_error_ends_the_run_at_a_hook_that_waits_and_names_its_line(hook, who):
    trainer = trainer_with(hook(), sync_check="error")
    with pytest.raises(RunError) as raised:
        trainer.train(0, 10)
    assert f"got a wait in {who} (" in str(raised.value)
    assert f"{Path(__file__)}:" in str(raised.value)
    assert "called a synchronizing CUDA operation" in str(raised.value.__cause__)
    assert trainer.status == "failed"


@pytest.mark.parametrize("mode", ["warn", "error"])
def test_a_model_that_waits_is_told_from_the_plugins(mode, caplog):
    trainer = trainer_with(Quiet(), model=WaitingNet(), sync_check=mode)
    if mode == "error":
        with pytest.raises(RunError, match=r"in run_step, iteration 1.*self\.last = loss\.item\(\)"):
            trainer.train(0, 10)
        return
    trainer.train(0, 10)
    told = [record.message for record in caplog.records if "train.sync_check" in record.message]
    assert len(told) == 1
    assert "in run_step, iteration 1" in told[0]
    assert "self.last = loss.item()" in told[0]


def test_warn_tells_of_a_place_once_and_goes_on(caplog):
    trainer = trainer_with(Waiting(), Quiet(), sync_check="warn")
    trainer.train(0, 10)
    told = [record.message for record in caplog.records if "train.sync_check" in record.message]
    assert trainer.status == "finished"
    assert [("'Waiting'" in text, ".item()" in text) for text in told] == [(True, True)]


@pytest.mark.parametrize("options", [{}, {"clip_norm": 1.0, "accumulate": 2}, {"precision": "bf16"}])
def test_an_iteration_of_a_quiet_plugin_and_a_fused_optimizer_never_waits(options):
    trainer = trainer_with(Quiet(), sync_check="error", **options)
    trainer.train(0, 4 * PERIOD)
    assert trainer.status == "finished"
