"""What a user brings along is restored without a change of the core, and what changed since is told."""

from __future__ import annotations

import pytest

from hookline import checkpoint
from hookline.purity import digests

OWN = """
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from hookline import DefaultTrainer, EventWriter, HookBase

class Hook(HookBase):
    def __init__(self):
        self.sum = 0.0

    def after_step(self):
        self.sum += torch.rand(()).item()
        with torch.no_grad():
            self.trainer.model.linear.bias.add_(1e-3 * self.sum)

    def state_dict(self):
        return {"sum": self.sum}

    def load_state_dict(self, state):
        self.sum = state["sum"]

class Busy(HookBase):
    # At other times in a run that goes on than in one that does not.
    def before_train(self):
        torch.rand(3)
        self.trainer.storage.put_scalar("begun", 1.0)
        self.trainer.storage.put_hparams({"begun": True})
        if "evaluate" in self.trainer.evaluations:
            self.trainer.request_evaluation("evaluate")

    def after_save(self, path):
        torch.rand(2)
        self.trainer.storage.put_scalar("saved", 1.0, volatile=True)

    def state_dict(self):
        return {"unused": torch.rand(1)}

    def load_state_dict(self, state):
        pass

class Loud(HookBase):
    def after_save(self, path):
        self.trainer.storage.put_scalars({"num_saves": 1.0, "upload_s": 2.0})

class Again(HookBase):
    def before_train(self):
        self.trainer.reset_data_loader(loader)

class Batches:
    def __init__(self):
        self.num_given = 0

    def __iter__(self):
        while True:
            self.num_given += 1
            generator = torch.Generator().manual_seed(self.num_given)
            x = torch.rand(8, 1, generator=generator)
            yield x, 3 * x + 1

    def state_dict(self):
        return {"num_given": self.num_given}

    def load_state_dict(self, state):
        self.num_given = state["num_given"]

class Pairs(Dataset):
    def __init__(self):
        self.generator = torch.Generator().manual_seed(1)

    def __len__(self):
        return 24

    def __getitem__(self, index):
        x = torch.tensor([index / 24]) + torch.rand(1, generator=self.generator)
        return x, 3 * x + 1

def loader(num_workers: int = 0):
    return DataLoader(Pairs(), 8, shuffle=True, num_workers=num_workers)

class Schedule:
    def __init__(self):
        self.rate = 1.0

    def factor(self, iteration, max_iter):
        self.rate *= 0.9
        return self.rate

    def state_dict(self):
        return {"rate": self.rate}

    def load_state_dict(self, state):
        self.rate = state["rate"]

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(1, 1)
        self.register_buffer("mean", torch.zeros(()))
        self.num_calls = 0

    def forward(self, batch):
        x, y = batch
        if self.training:
            self.num_calls += 1
            self.mean += (x.mean() - self.mean) / self.num_calls
        return (self.linear(x) - y - self.mean).square().mean()

    def get_extra_state(self):
        return {"num_calls": self.num_calls}

    def set_extra_state(self, state):
        self.num_calls = state["num_calls"]

class Optimizer(torch.optim.Optimizer):
    def __init__(self, params, lr: float = 0.01):
        super().__init__(params, {"lr": lr})
        self.num_steps = 0

    def step(self, closure=None):
        self.num_steps += 1
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                state["sum"] = state.get("sum", torch.zeros_like(p)) + p.grad
                p.data.add_(state["sum"], alpha=-group["lr"] / self.num_steps)

    def state_dict(self):
        return {**super().state_dict(), "num_steps": self.num_steps}

    def load_state_dict(self, state):
        self.num_steps = state["num_steps"]
        super().load_state_dict({key: state[key] for key in ("state", "param_groups")})

class Metric:
    def __init__(self):
        self.num_evaluations = 0

    def reset(self):
        pass

    def update(self, total_loss):
        pass

    def compute(self):
        self.num_evaluations += 1
        return self.num_evaluations

    def state_dict(self):
        return {"num_evaluations": self.num_evaluations}

    def load_state_dict(self, state):
        self.num_evaluations = state["num_evaluations"]

class Lines(EventWriter):
    num_lines = 0

    def open(self, run):
        self.path = run.dir / "lines.txt"
        kept = self.path.read_text().splitlines(keepends=True)[: self.num_lines] if self.num_lines else []
        self.path.write_text("".join(kept))

    def write(self, events):
        with self.path.open("a") as file:
            for event in events:
                self.num_lines += 1
                file.write(f"{self.num_lines} {event.iteration} {event.scalars['total_loss'].value!r}\\n")

    def state_dict(self):
        return {"num_lines": self.num_lines}

    def load_state_dict(self, state):
        self.num_lines = state["num_lines"]

class Trainer(DefaultTrainer):
    num_steps = 0

    def run_step(self):
        self.num_steps += 1
        super().run_step()
        self.model.linear.bias.data.add_(1e-4 * self.num_steps)

    def state_dict(self):
        return {**super().state_dict(), "own": {"num_steps": self.num_steps}}

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.num_steps = state["own"]["num_steps"]
"""

ALL = [
    "hooks=[{timer: false}, {progress: false}, {evaluate: {period: 2}}, checkpoint, ./own.py:Hook]",
    "model={target: ./own.py:Model}",
    "optimizer={target: ./own.py:Optimizer}",
    "schedule={target: ./own.py:Schedule}",
    "data.eval.metrics={m: {target: ./own.py:Metric}}",
    "trainer.target=./own.py:Trainer",
    "writers=[json, ./own.py:Lines]",
    "train.max_iter=7",
]
LOADERS = {
    "own": "data.train={target: ./own.py:Batches}",
    "torch": "data.train={target: ./own.py:loader, num_workers: 1}",
}


@pytest.fixture
def own(project):
    (project.path / "own.py").write_text(OWN)
    return project


def train(project, folder, *arguments):
    result = project.hookline("train", "run.yaml", f"run.dir={folder}", *arguments)
    assert result.exit_code == 0, result.output
    return result.output


def latest(project, folder):
    return (project.path / folder / "line" / "latest").resolve()


def saved(run, iteration):
    return checkpoint.load(run / "checkpoints" / f"iter_{iteration:07d}")


def digests_of(state):
    """Return digests of what depends on neither the clock nor where a run was stopped."""
    varying = ("hooks", "storage", "fingerprint")
    return digests({name: part for name, part in state.items() if name not in varying})


@pytest.mark.parametrize("loader", LOADERS)
def test_whatever_has_a_state_goes_on_from_it(own, loader):
    setup = [*ALL, LOADERS[loader]]
    train(own, "whole", *setup)
    train(own, "parts", *setup, "train.stop_at=3")
    train(own, "parts", *setup, "--resume", "latest")
    whole, parts = latest(own, "whole"), latest(own, "parts")
    for name in ("metrics.jsonl", "lines.txt"):
        assert (whole / name).read_bytes() == (parts / name).read_bytes()
    one, other = saved(whole, 6), saved(parts, 6)
    assert digests_of(one) == digests_of(other)
    for name in ("Hook", "schedule"):
        assert one["hooks"][name] == other["hooks"][name]
    assert one["own"] == {"num_steps": 7}
    assert one["model"]["_extra_state"] == {"num_calls": 7}
    assert one["optimizer"]["num_steps"] == 7
    assert one["evaluations"]["ranks"][0]["eval"]["metrics"] == {"m": {"num_evaluations": 4}}
    assert one["hooks"]["schedule"]["state"]["state"]["rate"] == pytest.approx(0.9**7)


@pytest.mark.parametrize("more", ["Busy", "Again"])
def test_what_hooks_do_when_a_run_begins_or_is_saved_changes_nothing_when_it_goes_on(own, more):
    setup = [*ALL, LOADERS["torch"], f"hooks+=./own.py:{more}"]
    train(own, "whole", *setup)
    train(own, "parts", *setup, "train.stop_at=2")
    train(own, "parts", *setup, "--resume", "latest", "train.stop_at=5")
    train(own, "parts", *setup, "--resume", "latest")
    whole, parts = latest(own, "whole"), latest(own, "parts")
    assert (whole / "metrics.jsonl").read_bytes() == (parts / "metrics.jsonl").read_bytes()
    assert digests_of(saved(whole, 6)) == digests_of(saved(parts, 6))


def test_a_metric_that_a_resumed_run_would_lack_is_refused(own):
    result = own.hookline("train", "run.yaml", "hooks+=./own.py:Loud")
    assert result.exit_code == 2, result.output
    assert "after_save: expected nothing put but with volatile=True, got num_saves, upload_s" in result.output


def test_best_metric_and_count_of_early_stopping_go_on(project):
    setup = ["hooks+=best-checkpoint", "hooks+={early-stopping: {patience: 9}}", "optimizer.lr=0"]
    train(project, "whole", *setup)
    train(project, "parts", *setup, "train.stop_at=6")
    train(project, "parts", *setup, "--resume", "latest")
    one, other = (saved(latest(project, folder), 11)["hooks"] for folder in ("whole", "parts"))
    for name in ("best-checkpoint", "early-stopping"):
        assert one[name] == other[name]
    assert one["early-stopping"]["state"]["num_bad"] == 2


# ---- what is told


@pytest.fixture
def paused(project):
    train(project, "runs", "train.stop_at=5")
    return project


def resume(project, *arguments):
    return project.hookline("train", "run.yaml", "--resume", "latest", *arguments)


def test_an_unchanged_resume_says_nothing_of_differences(paused):
    result = resume(paused)
    assert result.exit_code == 0, result.output
    assert "→" not in result.output.replace(
        "schedule → timer → writers → evaluate → checkpoint → progress", ""
    )
    assert "warning" not in result.output


def test_the_runs_own_config_is_the_same_config(paused):
    config = latest(paused, "runs") / "config.yaml"
    result = paused.hookline("train", str(config), "train.stop_at=", "--resume", str(latest(paused, "runs")))
    assert result.exit_code == 0, result.output
    assert "model.target" not in result.output


def test_a_changed_rate_is_told_and_takes_effect(paused):
    result = resume(paused, "optimizer.lr=0.005", "train.max_iter=13")
    assert "optimizer.lr: 0.05 → 0.005: from here on" in result.output
    assert "train.max_iter: 12 → 13: a schedule of hookline follows" in result.output
    assert "warning" not in result.output


def test_other_batches_and_another_machine_are_warned_of(paused, monkeypatch):
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    result = resume(paused, "data.train.loader.batch_size=4")
    assert result.exit_code == 0, result.output
    assert (
        "warning: data.train.loader.batch_size: 8 → 4: other batches than without the stop" in result.output
    )
    assert "warning: MKL_CBWR: not set → COMPATIBLE: the numbers may differ in the last" in result.output


def test_another_model_is_refused_before_anything_changes(project):
    with (project.path / "line.py").open("a") as file:
        file.write("\nOther = Line\n")
    train(project, "runs", "train.stop_at=5")
    before = {path: path.read_bytes() for path in latest(project, "runs").rglob("*") if path.is_file()}
    result = resume(project, "model.target=./line.py:Other")
    assert result.exit_code == 2
    assert "model.target: line.py:Line → line.py:Other. To start a run of its own" in result.output
    assert {path: path.read_bytes() for path in before} == before
    result = resume(project, "model.target=./line.py:Other", "plugins.on_change=warn")
    assert result.exit_code == 0, result.output
    assert "warning: model.target: line.py:Line → line.py:Other" in result.output
