"""``hookline verify-plugins``: impure plugins of every kind are named, with the hook; pure ones are not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from hookline.errors import RunError
from hookline.verification import verify

from .conftest import CONFIG, LINE

IMPURE = """
import os, random, threading, time
from pathlib import Path
import numpy as np
import torch
from hookline import HookBase, hookimpl

class Observer(HookBase):
    observer = True

    @property
    def bias(self):
        return self.trainer.model.linear.bias

class Weight(Observer):
    def after_step(self):
        with torch.no_grad():
            self.bias.add_(1e-6)

class Seventh(Observer):
    def after_step(self):
        if self.trainer.iter % 7 == 6:
            self.bias.data.add_(1e-6)

class Draws(Observer):
    def after_step(self):
        torch.rand(1)

class DrawsPython(Observer):
    def before_step(self):
        random.random()

class DrawsNumpy(Observer):
    def before_train(self):
        np.random.rand()

class Rate(Observer):
    def before_step(self):
        self.trainer.optimizer.param_groups[0]["lr"] *= 0.99

class Gradients(Observer):
    def after_backward(self):
        self.bias.grad.mul_(0.5)

class LateGradients(Observer):
    def after_step(self):
        self.bias.grad.zero_()

class Momentum(Observer):
    def after_step(self):
        for state in self.trainer.optimizer.state.values():
            state["exp_avg"].zero_()

class EvalMode(Observer):
    def after_step(self):
        self.trainer.model.eval()

class Batch(Observer):
    def before_train(self):
        next(iter(self.trainer.data_loader))

class Dtype(Observer):
    def before_train(self):
        torch.set_default_dtype(torch.float64)

class Evaluated(Observer):
    def before_evaluate(self):
        self.bias.data.add_(1e-6)

class Init(Observer):
    def __init__(self):
        torch.rand(1)

    def after_step(self):
        pass

class Thread(Observer):
    def before_train(self):
        self.go, self.done = threading.Event(), threading.Event()
        threading.Thread(target=self.work, args=[self.trainer.model], daemon=True).start()

    def work(self, model):
        self.go.wait()
        step = self.trainer.run_step
        def changed():
            step()
            model.linear.bias.data.add_(1e-6)
        self.trainer.run_step = changed
        self.done.set()

    def before_step(self):
        self.go.set()
        self.done.wait()

class Forward(Observer):
    def before_train(self):
        self.trainer.model.linear.register_forward_hook(lambda module, inputs, output: output * 1.01)

class Freezes(Observer):
    def before_train(self):
        self.trainer.model.linear.weight.requires_grad_(False)

class Longer(Observer):
    def before_train(self):
        self.trainer.max_iter += 1

class Wraps(Observer):
    @hookimpl(wrapper=True)
    def after_step(self):
        yield
        torch.manual_seed(0)

class AtEnd(Observer):
    def after_train(self):
        self.bias.data.zero_()

class Rarely(Observer):
    def __init__(self, period: int = 100):
        self.period = period

    def after_step(self):
        if (self.trainer.iter + 1) % self.period == 0:
            torch.rand(1)

class Swaps(Observer):
    def before_evaluate(self):
        self.kept = self.bias.detach().clone()
        self.bias.data.zero_()
        torch.rand(1)

    def after_evaluate(self):
        self.bias.data.copy_(self.kept)

class Stops(Observer):
    def after_step(self):
        if self.trainer.iter == 5:
            self.trainer.request_stop("enough")

class OnlyErrors(Observer):
    def on_error(self):
        pass

class NoObserver(HookBase):
    def after_step(self):
        torch.rand(1)

class NeedsWeight(Observer):
    def before_train(self):
        if "Weight" not in self.trainer.hooks.names():
            raise ValueError("Weight is not there")

class First(Observer):
    def before_train(self):
        self.trainer.storage.first = True

class Second(Observer):
    def after_step(self):
        if getattr(self.trainer.storage, "first", False):
            torch.rand(1)

class Asks(HookBase):
    def after_step(self):
        self.trainer.request_evaluation("evaluate")

class Noise(HookBase):
    def after_step(self):
        self.trainer.model.linear.bias.data.add_(float.fromhex("0x1." + os.urandom(4).hex()))

class OfLateNoise(Noise):
    def before_train(self):
        runs = Path(__file__).with_name("runs.txt")
        self.num_runs = len(runs.read_text()) if runs.exists() else 0
        runs.write_text("x" * (self.num_runs + 1))

    def after_step(self):
        if self.num_runs >= 3:
            super().after_step()

class Leaves(Observer):
    def after_step(self):
        os._exit(3)

class Killed(Observer):
    def after_step(self):
        os.kill(os.getpid(), 9)

class Stays(Observer):
    def before_train(self):
        threading.Thread(target=time.sleep, args=[600]).start()

class Slow(Observer):
    def after_step(self):
        time.sleep(60)
"""

FOUND = {
    "Weight": ("after_step", "weights/linear.bias", 0, 8),
    "Seventh": ("after_step", "weights/linear.bias", 6, 1),
    "Draws": ("after_step", "random numbers/torch", 0, 8),
    "DrawsPython": ("before_step", "random numbers/Python", 0, 8),
    "DrawsNumpy": ("before_train", "random numbers/NumPy", 0, 1),
    "Rate": ("before_step", "optimizer options/0.lr", 0, 8),
    "Gradients": ("after_backward", "gradients/linear.bias", 0, 8),
    "LateGradients": ("after_step", "gradients/linear.bias", 0, 8),
    "Momentum": ("after_step", "optimizer state/linear.bias.exp_avg", 0, 8),
    "EvalMode": ("after_step", "training mode/linear", 0, 1),
    "Batch": ("before_train", "data/position", 0, 1),
    "Dtype": ("before_train", "torch settings/default dtype", 0, 1),
    "Evaluated": ("before_evaluate", "weights/linear.bias", 3, 2),
    "Init": ("__init__", "random numbers/torch", -1, 0),
    "Thread": ("", "weights/linear.bias", 1, 0),
    "Forward": ("", "optimizer state/linear.bias.exp_avg", 1, 0),
    "Freezes": ("before_train", "requires_grad/linear.weight", 0, 1),
    "Longer": ("before_train", "trainer/max_iter", 0, 1),
    "Wraps": ("after_step", "random numbers/torch", 0, 8),
    "AtEnd": ("after_train", "weights/linear.bias", 8, 1),
    "Rarely": ("after_step", "random numbers/torch", 3, 2),
}
PURE = (
    "timer",
    "writers",
    "evaluate",
    "checkpoint",
    "best-checkpoint",
    "early-stopping",
    "Swaps",
    "progress",
)


def make_project(folder: Path) -> Path:
    (folder / "line.py").write_text(LINE)
    (folder / "run.yaml").write_text(CONFIG)
    (folder / "impure.py").write_text(IMPURE)
    return folder / "run.yaml"


def local(*names):
    return [f"hooks+=./impure.py:{name}" for name in names]


ALONE = ["hooks=[{schedule: false}, {timer: false}, {writers: false}, {progress: false}]"]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return make_project(tmp_path_factory.mktemp("verify"))


@pytest.fixture(scope="module")
def everything(config):
    """One verification of all that can stand beside each other, by plugin."""
    before = snapshot(config.parent)
    overrides = ["hooks+=best-checkpoint", "hooks+=early-stopping", *local(*FOUND, "Swaps", "OnlyErrors")]
    found = verify(config, [*overrides, *local("NoObserver")], 8)
    assert snapshot(config.parent) == before, "it leaves nothing behind"
    return found


def snapshot(folder):
    return sorted(path for path in folder.rglob("*") if "__pycache__" not in path.parts)


def report(verification, name):
    return next(plugin for plugin in verification.plugins if plugin.name == name)


@pytest.mark.parametrize("name", FOUND)
def test_an_impure_plugin_is_named_with_the_hook_and_what_it_changed(everything, name):
    hook, part, iteration, num_changes = FOUND[name]
    plugin = report(everything, name)
    assert plugin.verdict == "impure"
    (finding,) = plugin.findings
    assert (finding.hook, finding.iteration, finding.num_changes) == (hook, iteration, num_changes)
    assert part in finding.parts


@pytest.mark.parametrize("name", PURE)
def test_a_pure_observer_is_found_pure_beside_impure_ones(everything, name):
    plugin = report(everything, name)
    assert (plugin.verdict, plugin.findings) == ("pure", [])
    assert plugin.calls


def test_evaluations_really_run(everything):
    assert report(everything, "early-stopping").calls == {"before_train": 1, "after_evaluate": 2}
    assert report(everything, "best-checkpoint").calls["after_evaluate"] == 2


def test_what_is_no_observer_is_not_checked(everything):
    for name in ("schedule", "NoObserver"):
        assert report(everything, name).verdict == "not checked"
    assert report(everything, "schedule").source.startswith("hookline ")


def test_a_plugin_whose_hooks_were_not_called_is_told(everything):
    plugin = report(everything, "OnlyErrors")
    assert (plugin.verdict, plugin.never_called) == ("not called", ["on_error"])


def test_a_period_that_is_too_long_is_shortened_and_told(everything):
    assert report(everything, "Rarely").period == ("100", 4)
    assert report(everything, "evaluate").period is None


def test_a_change_that_training_does_not_see_is_told_apart(everything):
    assert "began and ended the same to the bit" in report(everything, "LateGradients").notes[0]
    assert report(everything, "Weight").notes == []


def test_the_verdict_of_all_is_that_of_the_worst(everything):
    assert (everything.verdict, everything.exit_code) == ("impure", 1)
    assert everything.together is None


def test_pure_observers_alone_are_pure(config):
    found = verify(config, [*ALONE, *local("Swaps", "OnlyErrors"), "hooks+=evaluate"], 3)
    assert (found.verdict, found.exit_code) == ("pure", 0)


def test_an_observer_that_ends_the_run_is_compared_up_to_there(config):
    # The schedule has gone on by the time that the other run is looked at.
    found = verify(
        config, ["hooks=[{timer: false}, {writers: false}, {progress: false}]", *local("Stops")], 9
    )
    assert found.verdict == "pure"
    assert report(found, "Stops").notes == ["it ended the run (enough): 6 iterations were compared"]


def test_an_observer_that_needs_another_is_checked_beside_it(config):
    found = verify(config, [*ALONE, *local("Weight", "NeedsWeight")], 3)
    assert report(found, "NeedsWeight").verdict == "pure"
    plugin = report(found, "Weight")  # NeedsWeight is not on when it is tried
    assert plugin.verdict == "impure"


def test_observers_that_change_something_together_only_are_found(config):
    found = verify(config, [*ALONE, *local("First", "Second")], 3)
    assert [plugin.verdict for plugin in found.plugins] == ["pure", "pure"]
    assert (found.together.hook, found.together.parts) == ("Second.after_step", ("random numbers/torch",))
    assert found.exit_code == 1


def test_an_observer_that_another_plugin_needs_stays_on_in_every_run(config):
    found = verify(config, [*ALONE, "hooks+=evaluate", *local("Asks", "Draws")], 3)
    assert report(found, "Draws").verdict == "impure"
    plugin = report(found, "evaluate")
    assert plugin.verdict == "unknown"
    assert "a run without evaluate fails" in plugin.notes[0]
    assert "request_evaluation: expected one of none" in plugin.notes[0]


def test_training_that_is_not_repeatable_gives_no_verdict(config):
    found = verify(config, [*ALONE, *local("Noise", "Draws")], 3)
    assert (found.verdict, found.exit_code) == ("unknown", 2)
    assert "weights/linear.bias" in found.unrepeatable.parts
    assert found.unrepeatable.iteration == 1
    assert report(found, "Draws").verdict == "unknown"


def test_training_that_turns_out_not_to_be_repeatable_is_not_put_down_to_an_observer(tmp_path):
    config = make_project(tmp_path)
    found = verify(config, [*ALONE, *local("OfLateNoise", "Swaps")], 3)
    assert found.verdict == "unknown"
    assert report(found, "Swaps").notes == ["two runs without it differ too: training is not repeatable"]


def test_a_config_without_observers_is_pure_at_once(config):
    told = []
    found = verify(config, [*ALONE, *local("NoObserver")], 3, told.append)
    assert found.exit_code == 0
    assert told == ["run 1: all observers at once"]


@pytest.mark.parametrize(("name", "how"), [("Leaves", "exit code 3"), ("Killed", "SIGKILL")])
def test_a_plugin_that_ends_its_process_ends_no_more_than_that(config, name, how):
    with pytest.raises(RunError, match=rf"(?s)run.yaml: expected a config that trains.*ended by {how}\."):
        verify(config, [*ALONE, *local(name)], 3)


def test_a_thread_that_stays_does_not_hold_up_the_check(config, monkeypatch):
    monkeypatch.setattr("hookline.verification.apart._REST_S", 0.1)
    start = time.monotonic()
    assert verify(config, [*ALONE, *local("Stays")], 1).verdict == "pure"
    assert time.monotonic() - start < 60


def test_what_the_config_writes_elsewhere_is_left_alone(config, tmp_path):
    mine = tmp_path / "checkpoints"
    overrides = [*ALONE, "hooks+=checkpoint", f"hooks.checkpoint.dir={mine}", "hooks.checkpoint.period=1"]
    assert verify(config, overrides, 2).verdict == "pure"
    assert not mine.exists()


def test_temporary_files_are_removed(config, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    verify(config, [*ALONE, "hooks+=checkpoint"], 2)
    # Python's fork server, once started, keeps its socket as long as this process.
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith("pymp-")] == []


def test_several_processes_are_refused(config, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RunError, match="expected one process, got 2. Run it without a launcher"):
        verify(config)


# ---- the command


@pytest.fixture
def impure(project):
    (project.path / "impure.py").write_text(IMPURE)
    return project


def test_the_command_prints_a_table_and_what_each_impure_plugin_changed(impure):
    result = impure.hookline("verify-plugins", "run.yaml", "--iters", 8, *local("Seventh", "Rarely"))
    assert result.exit_code == 1, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["plugin", "calls", "verdict", "from"]
    assert max(map(len, lines[:8])) <= 80
    assert any(line.split()[:3] == ["Seventh", "8", "impure"] for line in lines)
    assert any(line.startswith("schedule") and "no observer" in line for line in lines)
    assert (
        "Seventh: after_step changes weights (linear.bias), first at iteration 6, in 1 of 8 calls." in lines
    )
    assert "Rarely: checked with a period of 4, not 100, so that something is due in 8 iterations." in lines
    assert lines[-1] == "Impure: Seventh, Rarely. An observer must change nothing that training depends on."
    assert "\x1b" not in result.stdout
    assert impure.runs() == []


def test_the_command_prints_json_alone_on_standard_output(impure):
    result = impure.hookline("verify-plugins", "run.yaml", "--iters", 2, "--json", *ALONE, *local("Draws"))
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {
        "verdict": "impure",
        "num_iters": 2,
        "plugins": [
            {
                "name": "Draws",
                "source": "./impure.py",
                "observer": True,
                "verdict": "impure",
                "calls": {"after_step": 2},
                "never_called": [],
                "findings": [
                    {
                        "hook": "after_step",
                        "iteration": 0,
                        "parts": ["random numbers/torch"],
                        "num_changes": 2,
                    }
                ],
                "period": None,
                "notes": [],
            }
        ],
        "unrepeatable": None,
        "together": None,
    }


@pytest.mark.parametrize(
    ("names", "conclusion", "exit_code"),
    [
        (["Swaps", "Stops"], "Pure: 2 observers", 0),
        (["NoObserver"], "The config has no observer", 0),
        (["First", "Second"], "Impure: each observer changes nothing alone", 1),
        (["Noise", "Swaps"], "Cannot tell: two runs without any observer differ in weights (linear", 2),
    ],
)
def test_the_command_ends_with_the_verdict(impure, names, conclusion, exit_code):
    result = impure.hookline("verify-plugins", "run.yaml", "--iters", 2, *ALONE, *local(*names))
    assert result.stdout.splitlines()[-1].startswith(conclusion)
    assert result.exit_code == exit_code


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nope.yaml"], "nope.yaml: expected a YAML file"),
        (["run.yaml", "hooks+=tymer"], "Did you mean 'timer'?"),
        (["run.yaml", "train.max_iter=-1"], "train.max_iter (override 'train.max_iter=-1'): expected"),
        (["run.yaml", "hooks.evaluate.perod=3"], "Did you mean 'period'?"),
        (["run.yaml", "whatever"], "expected KEY=VALUE"),
        (["run.yaml", "hooks+=./impure.py:Nothing"], "Nothing"),
        (["run.yaml", "hooks=[best-checkpoint]"], "expected the hook 'checkpoint' beside it"),
        (["run.yaml", "model.width=3"], "Make 'hookline train run.yaml' work first"),
        (["run.yaml", "--iters", "0"], "0 is not in the range x>=1"),
        (["run.yaml", "--iters", "many"], "'many' is not a valid integer"),
        ([], "Missing argument 'CONFIG'"),
    ],
)
def test_wrong_input_is_one_message_and_exit_code_2(impure, arguments, message):
    result = impure.hookline("verify-plugins", *arguments)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_every_process_and_leaves_nothing(impure, tmp_path, sent, code):
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "hookline", "verify-plugins", "run.yaml", *local("Slow")],
        cwd=impure.path,
        env={**os.environ, "TMPDIR": str(temporary)},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        deadline = time.monotonic() + 60
        while not list(temporary.glob("hookline-verify-*/1/*/*/status.json")):
            assert time.monotonic() < deadline
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        os.killpg(process.pid, sent) if sent == signal.SIGINT else process.send_signal(sent)
        _, stderr = process.communicate(timeout=30)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == code
    assert b"Traceback" not in stderr
    assert not list(temporary.glob("hookline-verify-*"))


def test_an_observer_that_the_trainer_registers_itself_is_told_apart(impure):
    (impure.path / "own.py").write_text(
        "from hookline import DefaultTrainer, HookBase\n\n"
        "class Looks(HookBase):\n"
        "    observer = True\n    def after_step(self):\n        self.seen = self.trainer.iter\n\n"
        "class Own(DefaultTrainer):\n"
        "    def build_hooks(self):\n        super().build_hooks()\n        self.register_hook(Looks(), 'own')\n"
    )
    result = impure.hookline(
        "verify-plugins", "run.yaml", "--iters", 2, "trainer.target=./own.py:Own", *ALONE
    )
    assert result.exit_code == 0, result.stderr
    assert "own: the trainer registers it, not the config." in result.stdout
    assert "not checked" in result.stdout
