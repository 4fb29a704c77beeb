"""``hookline verify-resume``: what is lost by a resume is named, whatever holds it; an exact resume is the same."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest

from hookline.errors import RunError
from hookline.verification import verify_resume
from hookline.verification.apart import filled_in

from .conftest import CONFIG, LINE

LOST = (
    LINE
    + """
import random, time
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from hookline import DefaultTrainer, HookBase, hookimpl
from hookline.schedules import Constant

class Adds(HookBase):
    def add(self, amount):
        with torch.no_grad():
            self.trainer.model.linear.bias.add_(amount)

class Counter(Adds):
    def __init__(self):
        self.num_seen, self.started = 0, time.time()

    def after_step(self):
        self.num_seen += 1
        self.add(1e-3 * self.num_seen)

class Kept(Counter):
    def state_dict(self):
        return {"num_seen": self.num_seen}

    def load_state_dict(self, state):
        self.num_seen = state["num_seen"]

class Half(Kept):
    def __init__(self):
        super().__init__()
        self.other = 1

    def after_step(self):
        super().after_step()
        self.other += 1
        self.add(1e-4 * self.other)

class Rates(HookBase):
    def before_step(self):
        if self.trainer.iter == 0:
            self.rate = 0.01
        if hasattr(self, "rate"):
            self.trainer.optimizer.param_groups[0]["lr"] = self.rate

class Watches(HookBase):
    num_calls = 0

    def before_train(self):
        self.trainer.model.linear.register_forward_hook(self.scale)

    def scale(self, module, inputs, output):
        self.num_calls += 1
        return output * (1 + 1e-3 * self.num_calls)

class Best(HookBase):
    def __init__(self):
        self.best, self.started = 1e9, time.time()

    def after_step(self):
        self.best = min(self.best, self.trainer.storage.latest()["total_loss"][0])

class Resets(Adds):
    def before_train(self):
        self.trainer.model.linear.bias.data.zero_()

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass

class Empties(Kept):
    def load_state_dict(self, state):
        pass

class Tells(HookBase):
    num_told = 0

    def after_step(self):
        self.num_told += 1
        self.trainer.storage.put_scalar("told", self.num_told)

class Clock(HookBase):
    def after_step(self):
        self.trainer.storage.put_scalar("clock", time.time())

class Noise(Adds):
    def __init__(self):
        self.rng = np.random.default_rng()

    def after_step(self):
        self.add(self.rng.random() * 1e-3)

class Refused(Adds):
    def after_step(self):
        pass

    def state_dict(self):
        return {"file": object()}

    def load_state_dict(self, state):
        pass

class Fails(Kept):
    def load_state_dict(self, state):
        self.num_seen = state["count"]

class Stops(HookBase):
    def after_step(self):
        if self.trainer.iter == 1:
            self.trainer.request_stop("enough")

class Batches:
    def __iter__(self):
        x, y = points().tensors
        return iter(zip(x.split(8), y.split(8)))

class Restless(Dataset):
    def __init__(self):
        self.rng = random.SystemRandom()

    def __len__(self):
        return 64

    def __getitem__(self, index):
        return torch.tensor([self.rng.random()]), torch.tensor([1.0])

class Remembers(Restless):
    def __init__(self):
        self.num_read = 0

    def __getitem__(self, index):
        self.num_read += 1
        return torch.tensor([float(self.num_read)]), torch.tensor([1.0])

class Draws(Restless):
    def __init__(self):
        self.rng = random.Random(3)

def loader(num_workers: int = 0):
    return DataLoader(Draws(), 8, shuffle=True, num_workers=num_workers, generator=torch.Generator())

class Drifts(Line):
    num_calls = 0

    def forward(self, batch):
        self.num_calls += 1
        return super().forward(batch) * (1 + self.num_calls * 1e-3)

class Hides(Line):
    def __init__(self):
        super().__init__()
        self.register_buffer("total", torch.zeros(()), persistent=False)

    def forward(self, batch):
        if self.training:
            self.total += 1
        return super().forward(batch) + 0 * self.total

class Forgets:
    num_calls = 0

    def factor(self, iteration, max_iter):
        self.num_calls += 1
        return 1 / self.num_calls

class Momentum(torch.optim.SGD):
    num_steps = 0

    def __init__(self, params, lr: float = 0.1):
        super().__init__(params, lr=lr)

    def step(self, closure=None):
        self.num_steps += 1
        for group in self.param_groups:
            for p in group["params"]:
                p.data.add_(p.grad, alpha=-group["lr"] / self.num_steps)

class Own(DefaultTrainer):
    num_steps = 0

    def run_step(self):
        self.num_steps += 1
        super().run_step()
        self.model.linear.bias.data.add_(1e-3 * self.num_steps)
"""
)

ALONE = "hooks=[{timer: false}, {progress: false}]"
PLAIN = [ALONE, "writers=[]"]


def hook(name):
    return [*PLAIN, f"hooks+=./lost.py:{name}"]


def data(name, loader=True):
    spec = f"{{target: ./lost.py:{name}" + (", loader: {batch_size: 8}}" if loader else "}")
    return [*PLAIN, f"data.train={spec}"]


NAMED = {
    "hook_without_state": (
        hook("Counter"),
        (3, "weights/linear.bias"),
        [
            "after_step of Counter (./lost.py)",
            "Counter.num_seen is 2 in the uninterrupted run and 0 in the resumed one",
            "Give Counter state_dict and load_state_dict",
        ],
    ),
    "hook_with_half_a_state": (
        hook("Half"),
        (3, "weights/linear.bias"),
        ["Half.other is 3 in the uninterrupted run and 1 in", "Keep in state_dict of Half all"],
    ),
    "hook_that_remembers_a_rate": (
        hook("Rates"),
        (2, "optimizer options/0.lr"),
        ["before_step of Rates", "Rates.rate is 0.01 in the uninterrupted run and not there in the resumed"],
    ),
    "hook_on_the_model": (
        hook("Watches"),
        (3, "weights/linear.bias"),
        ["Watches.num_calls is 2 in the uninterrupted run", "what a plugin put on it, in state_dict of the"],
    ),
    "hook_that_resets": (
        hook("Resets"),
        (2, "weights/linear.bias"),
        ["before_train of Resets", "is called in a resumed run too"],
    ),
    "hook_that_loads_nothing": (
        hook("Empties"),
        (2, "plugin state/Empties.num_seen"),
        ["plugin state (Empties.num_seen) not restored", "Let load_state_dict restore all"],
    ),
    "loader_without_state": (
        data("Batches", loader=False),
        (3, "data/batches of the iteration"),
        ["the batch from Batches", "Batches has no state_dict and load_state_dict: give it both, or"],
    ),
    "dataset_that_remembers": (
        data("Remembers"),
        (3, "data/batches of the iteration"),
        [
            "the batch from Loader of Remembers",
            "Loader.dataset.num_read is 16 in the uninterrupted run and 0 in the resumed one",
        ],
    ),
    "model_with_a_counter": (
        [*PLAIN, "model.target=./lost.py:Drifts"],
        (3, "weights/linear.bias"),
        [
            "Drifts computes something else from the same batch, weights and random numbers",
            "Drifts.num_calls is 2 in the uninterrupted run and not there in the resumed one",
            "register_buffer",
        ],
    ),
    "buffer_that_is_not_saved": (
        [*PLAIN, "model.target=./lost.py:Hides"],
        (2, "buffers/total"),
        ["buffers (total) not restored", "persistent=True"],
    ),
    "schedule_without_state": (
        [*PLAIN, "schedule={target: ./lost.py:Forgets}"],
        (2, "optimizer options/0.lr"),
        ["before_step of schedule", "schedule.schedule.num_calls is 3", "Give the schedule state_dict and"],
    ),
    "optimizer_with_a_counter": (
        [*PLAIN, "optimizer={target: ./lost.py:Momentum}"],
        (3, "weights/linear.bias"),
        ["Momentum makes another update of the same gradients", "Momentum.num_steps is 2"],
    ),
    "step_of_a_trainer": (
        [*PLAIN, "trainer.target=./lost.py:Own"],
        (3, "weights/linear.bias"),
        ["run_step of Own", "Own.num_steps is 2", "Keep in state_dict of Own"],
    ),
}
UNREPEATABLE = {
    "dataset_without_a_seed": (
        data("Restless"),
        "data/batches of the iteration",
        [
            "two equal runs read other batches from Loader of Restless",
            "Loader.dataset.rng is a random.SystemRandom, which has no seed",
            "random.SystemRandom, os.urandom or numpy's default_rng() without a seed",
        ],
    ),
    "hook_without_a_seed": (
        hook("Noise"),
        "weights/linear.bias",
        ["after_step of Noise (./lost.py)", "Noise.rng is a Generator in another state", "a seed"],
    ),
}
EXACT = {
    "all_that_is_built_in": ["hooks+=best-checkpoint", "hooks+=early-stopping", "model.dropout=0.5"],
    "loader_of_torch": [*data("loader", loader=False), "hooks+=./lost.py:Kept"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("verify")
    (folder / "line.py").write_text(LINE)
    (folder / "lost.py").write_text(LOST)
    (folder / "run.yaml").write_text(CONFIG)
    return folder


@pytest.fixture
def here(monkeypatch):
    """Make each run in this process: as good where nothing is to disturb another run, and much faster."""
    monkeypatch.setattr("hookline.verification.resume_trial.apart", filled_in)
    monkeypatch.setattr("os.fsync", lambda descriptor: None)  # no power is lost here


def snapshot(folder):
    return sorted(path for path in folder.rglob("*") if "__pycache__" not in path.parts)


def told(found):
    return "\n".join(text for _, text in found.difference.lines())


@pytest.mark.parametrize("case", NAMED)
def test_what_is_lost_is_named_with_its_owner_and_what_to_do(folder, case, here):
    overrides, (iteration, part), sentences = NAMED[case]
    found = verify_resume(folder / "run.yaml", overrides, 2, at=[2])
    assert (found.verdict, found.exit_code) == ("different", 1)
    assert found.difference.iteration == iteration
    assert part in found.difference.parts
    for sentence in sentences:
        assert sentence in told(found)
    assert "started" not in told(found), "what differs in equal runs too is no clue"


@pytest.mark.parametrize("case", UNREPEATABLE)
def test_what_nobody_seeds_is_named_and_gives_no_verdict(folder, case, here):
    overrides, part, sentences = UNREPEATABLE[case]
    found = verify_resume(folder / "run.yaml", overrides, 2, at=[2])
    assert (found.verdict, found.exit_code) == ("unknown", 2)
    assert (found.difference.iteration, part in found.difference.parts) == (1, True)
    for sentence in sentences:
        assert sentence in told(found)


@pytest.mark.parametrize("case", EXACT)
def test_an_exact_resume_is_the_same_wherever_it_is_stopped(folder, case, monkeypatch, tmp_path, here):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = snapshot(folder)
    found = verify_resume(folder / "run.yaml", EXACT[case], 3)
    assert (found.verdict, found.exit_code, found.difference) == ("same", 0, None)
    assert found.stopped_after == [3, 1]
    assert snapshot(folder) == before, "it leaves nothing behind"
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith("pymp-")] == []


def test_a_metric_that_alone_is_different_is_named_with_both_values(folder, here):
    found = verify_resume(folder / "run.yaml", hook("Tells"), 2, at=[2])
    assert found.difference.parts == ()
    assert "told of iteration 2 is 3.0 uninterrupted and 1.0 resumed" in told(found)
    assert "after_step of Tells (./lost.py)" in told(found)


def test_what_a_plugin_without_state_forgot_is_noted_though_nothing_came_of_it_yet(folder, here):
    found = verify_resume(folder / "run.yaml", hook("Best"), 2, at=[2])
    assert found.verdict == "same"
    (note,) = found.notes
    assert note.startswith("Best.best is ")
    assert note.endswith(
        "and 1000000000.0 in the resumed one; if anything depends on it, Best needs state_dict"
    )


def test_a_metric_that_equal_runs_put_differently_is_told_and_not_compared(folder, here):
    found = verify_resume(folder / "run.yaml", hook("Clock"), 2, at=[2])
    assert found.verdict == "same"
    assert found.notes == ["clock differs between two equal runs: put it with volatile=True"]


def test_a_state_that_its_plugin_cannot_take_is_a_difference(folder, here):
    found = verify_resume(folder / "run.yaml", hook("Fails"), 2, at=[2])
    assert (found.exit_code, found.difference.stopped_after) == (1, 2)
    assert "the resume fails: Fails (./lost.py): expected its load_state_dict to take" in told(found)


def test_a_state_that_cannot_be_saved_is_an_error_as_in_training(folder, here):
    with pytest.raises(RunError, match=r"checkpoint: hooks.Refused.state.file: expected"):
        verify_resume(folder / "run.yaml", hook("Refused"), 2, at=[2])


def test_a_run_that_ends_before_it_can_be_stopped_gives_no_verdict(folder, here):
    found = verify_resume(folder / "run.yaml", hook("Stops"), 2, at=[2])
    assert (found.verdict, found.exit_code) == ("unknown", 2)
    assert found.notes == ["the run ends by itself after 2 iterations (enough)"]


def test_several_processes_are_refused(folder, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RunError, match="expected one process, got 2. Run it without a launcher"):
        verify_resume(folder / "run.yaml")


# ---- the command


@pytest.fixture
def lost(project):
    (project.path / "lost.py").write_text(LOST)
    return project


def test_the_command_prints_the_first_difference_and_what_to_do(lost):
    result = lost.hookline("verify-resume", "run.yaml", "--iters", 2, "--at", 2, *hook("Counter"))
    assert result.exit_code == 1, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("first   iteration 3 begins with other weights (linear.bias)")
    assert (
        lines[-1] == "Different: a run of 4 iterations that is stopped after 2 and resumed is not the same."
    )
    assert [line.split()[0] for line in lines[1:-1]] == ["metric", "cause", "look", "mend"]
    assert lost.runs() == []


def test_the_command_says_what_was_compared_when_it_is_the_same(lost, here):
    result = lost.hookline("verify-resume", "run.yaml", "--iters", 2, *PLAIN)
    assert result.exit_code == 0, result.output
    said = "Same: 4 iterations in one go, and stopped after 1 and 2 and resumed, to the bit."
    assert result.stdout.splitlines()[-1] == said


def test_the_command_prints_json_alone_on_standard_output(lost):
    result = lost.hookline("verify-resume", "run.yaml", "--iters", 1, "--json", *hook("Stops"))
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {
        "verdict": "same",
        "num_iters": 2,
        "stopped_after": [1],
        "difference": None,
        "is_repeatable": True,
        "notes": [],
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nope.yaml"], "nope.yaml: expected a YAML file"),
        (["run.yaml", "hooks+=tymer"], "Did you mean 'timer'?"),
        (["run.yaml", "train.max_iter=-1"], "train.max_iter (override 'train.max_iter=-1'): expected"),
        (["run.yaml", "hooks.evaluate.perod=3"], "Did you mean 'period'?"),
        (["run.yaml", "whatever"], "expected KEY=VALUE"),
        (["run.yaml", "hooks+=./lost.py:Nothing"], "Nothing"),
        (["run.yaml", "model.width=3"], "Make 'hookline train run.yaml' work first"),
        (["run.yaml", "--iters", "0"], "0 is not in the range x>=1"),
        (["run.yaml", "--iters", "many"], "'many' is not a valid integer"),
        (["run.yaml", "--at", "0"], "0 is not in the range x>=1"),
        (["run.yaml", "--iters", "2", "--at", "4"], "--at: expected iterations of a run of 4, from 1 to 3"),
        (["run.yaml", "--at", "half"], "'half' is not a valid integer"),
        ([], "Missing argument 'CONFIG'"),
    ],
)
def test_wrong_input_is_one_message_and_exit_code_2(lost, arguments, message):
    result = lost.hookline("verify-resume", *arguments)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_the_example_is_resumed_to_the_bit(here):
    config = Path(__file__).parents[2] / "examples/char_gpt/config.yaml"
    found = verify_resume(config, ["train.device=cpu", "train.threads=1"], 2, at=[2])
    assert found.verdict == "same"
