"""A run that was interrupted ends as if it had not been; damaged checkpoints are named and passed over."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch

from hookline import CheckpointError, DefaultTrainer, RunError, load_model, report
from hookline.rundir import RunDir

# Dropout draws random numbers in every iteration, so a resume without RNG state would show.
NOISY = ["model.dropout=0.5", "hooks+=./line.py:Hello", "hooks+=best-checkpoint", "hooks+=early-stopping"]


def train(project, folder, *arguments):
    result = project.hookline("train", "run.yaml", *NOISY, f"run.dir={folder}", *arguments)
    assert result.exit_code == 0, result.output
    return result.output


def latest(project, folder):
    return (project.path / folder / "line" / "latest").resolve()


def assert_same_run(one, two, iteration):
    """Compare to the byte all that a resume must not change."""
    assert (one / "metrics.jsonl").read_bytes() == (two / "metrics.jsonl").read_bytes()
    checkpoint = f"checkpoints/iter_{iteration:07d}"
    for name in ("model.safetensors", "optimizer.safetensors", "rng.json", "rng.safetensors", "data.json"):
        assert (one / checkpoint / name).read_bytes() == (two / checkpoint / name).read_bytes(), name


SETUPS = {
    "adamw_cosine": [],
    "torch_scheduler": ["schedule={target: torch.optim.lr_scheduler.StepLR, step_size: 4}"],
    "momentum_and_groups": [
        "optimizer={target: torch.optim.SGD, lr: 0.05, momentum: 0.9, groups: [{match: '*.bias', lr: 0.01}]}"
    ],
    "accumulate_and_clip": ["train.accumulate=3", "train.clip_norm=0.1"],
    "fp16_scaling": ["train.precision=fp16"],
    "workers": ["data.train.loader.num_workers=1"],
    "three_writers": ["writers=[json,tensorboard]"],
}


@pytest.mark.parametrize("stop_at", [1, 7, 11])
def test_stopped_anywhere_and_resumed_equals_uninterrupted(project, stop_at):
    train(project, "whole")
    train(project, "parts", f"train.stop_at={stop_at}")
    train(project, "parts", "--resume", "latest")
    assert_same_run(latest(project, "whole"), latest(project, "parts"), 11)
    assert len(list((project.path / "parts" / "line").glob("2*"))) == 1


@pytest.mark.parametrize("setup", SETUPS)
def test_every_setup_resumes_to_the_bit(project, setup):
    options = SETUPS[setup]
    train(project, "whole", *options)
    train(project, "parts", *options, "train.stop_at=5")
    train(project, "parts", *options, "--resume", "latest")
    assert_same_run(latest(project, "whole"), latest(project, "parts"), 11)


def test_metrics_hold_every_iteration_once_with_its_loss_and_rate(project):
    train(project, "parts", "train.stop_at=5")
    train(project, "parts", "--resume", "latest")
    rows = [
        json.loads(line) for line in (latest(project, "parts") / "metrics.jsonl").read_text().splitlines()
    ]
    assert [row["iteration"] for row in rows] == list(range(12))
    assert all({"total_loss", "lr", "grad_norm"} <= row.keys() for row in rows)
    assert [row["iteration"] for row in rows if "eval/total_loss" in row] == [3, 7, 11]


def test_a_killed_run_goes_on_from_its_last_checkpoint(project):
    train(project, "whole")
    train(project, "parts", "train.stop_at=9")
    run = latest(project, "parts")
    shutil.rmtree(run / "checkpoints" / "iter_0000008")  # as if it had been killed at iteration 8
    output = train(project, "parts", "--resume", str(run))
    assert "from iter_0000007" in output
    assert_same_run(latest(project, "whole"), run, 11)


def test_going_back_to_an_older_checkpoint_leaves_its_future_behind(project):
    train(project, "whole")
    train(project, "parts")
    run = latest(project, "parts")
    output = train(project, "parts", "--resume", str(run / "checkpoints" / "iter_0000007"))
    assert "iter_0000011: the run goes on from before it" in output
    assert_same_run(latest(project, "whole"), run, 11)


def test_a_finished_run_is_extended_with_more_iterations(project):
    train(project, "runs")
    output = train(project, "runs", "--resume", "latest", "train.max_iter=15")
    assert "finished at iteration 15" in output
    rows = (latest(project, "runs") / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["iteration"] for row in rows] == list(range(15))


@pytest.mark.parametrize(
    "schedule", ["", "schedule={target: torch.optim.lr_scheduler.StepLR, step_size: 100}"]
)
def test_another_rate_on_resume_takes_effect(project, schedule):
    options = [schedule] if schedule else ["schedule=null"]
    train(project, "runs", *options, "train.stop_at=5")
    train(project, "runs", *options, "--resume", "latest", "optimizer.lr=0.005")
    rows = [json.loads(row) for row in (latest(project, "runs") / "metrics.jsonl").read_text().splitlines()]
    assert [row["lr"] for row in rows] == pytest.approx([0.05] * 5 + [0.005] * 7)


def test_weights_alone_start_a_new_run_at_iteration_zero(project):
    train(project, "one")
    output = train(
        project, "two", "--weights", str(latest(project, "one")), "train.max_iter=1", "optimizer.lr=0"
    )
    assert "iterations 0 to 1" in output
    old, new = load_model(latest(project, "one")), load_model(latest(project, "two"))
    assert torch.equal(old.linear.weight, new.linear.weight)


def test_early_stopping_ends_a_run_that_stands_still(project):
    output = train(
        project, "runs", "optimizer.lr=0", "hooks.evaluate.period=1", "hooks.early-stopping.patience=3"
    )
    assert "stopped at iteration 4 (eval/total_loss has not improved in 3 evaluations" in output
    assert json.loads((latest(project, "runs") / "status.json").read_text())["state"] == "stopped"


def flip_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


DAMAGE = {
    "bit_flip": lambda path: flip_bit(path / "model.safetensors"),
    "truncated": lambda path: (path / "optimizer.safetensors").write_bytes(b"short"),
    "missing_file": lambda path: (path / "rng.json").unlink(),
    "no_manifest": lambda path: (path / "manifest.json").unlink(),
    "empty_manifest": lambda path: (path / "manifest.json").write_text(""),
    "swapped_files": lambda path: (path / "model.safetensors").write_bytes(
        (path / "optimizer.safetensors").read_bytes()
    ),
    "additional_file": lambda path: (path / "evil.pkl").write_bytes(b"pickle"),
}


@pytest.fixture
def finished(project):
    train(project, "runs")
    return latest(project, "runs")


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_named_and_the_newest_good_one_used(project, finished, damage):
    newest = finished / "checkpoints" / "iter_0000011"
    DAMAGE[damage](newest)
    output = train(project, "runs", "--resume", "latest")
    assert "iter_0000011" in output
    assert "from iter_0000009" in output
    rows = [json.loads(row)["iteration"] for row in (finished / "metrics.jsonl").read_text().splitlines()]
    assert rows == list(range(12))


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_that_was_named_is_an_error(project, finished, damage):
    newest = finished / "checkpoints" / "iter_0000011"
    DAMAGE[damage](newest)
    metrics = (finished / "metrics.jsonl").read_bytes()
    result = project.hookline("train", "run.yaml", *NOISY, "--resume", newest)
    assert result.exit_code == 2
    assert "iter_0000011" in result.output
    assert "Traceback" not in result.output
    assert (finished / "metrics.jsonl").read_bytes() == metrics


def test_when_every_checkpoint_is_damaged_all_are_named(project, finished):
    checkpoints = list((finished / "checkpoints").glob("iter_*"))
    for path in checkpoints:
        flip_bit(path / "model.safetensors")
    result = project.hookline("train", "run.yaml", *NOISY, "run.dir=runs", "--resume", "latest")
    assert result.exit_code == 2
    assert len(checkpoints) >= 3
    for path in checkpoints:
        assert path.name in result.output


def test_a_checkpoint_of_another_model_is_refused(project, finished):
    result = project.hookline("train", "run.yaml", "model.width=2", *NOISY[1:], "--resume", finished)
    assert result.exit_code == 2
    assert "1 of another shape (linear.weight: [1, 1] instead of [1, 2])" in result.output


def test_load_model_gives_the_trained_model_in_evaluation_mode(project, finished):
    model = load_model(finished)
    assert not model.training
    best = load_model(finished / "checkpoints" / "best")
    assert type(best).__name__ == "Line"
    with pytest.raises(CheckpointError):
        flip_bit(finished / "checkpoints" / "iter_0000011" / "model.safetensors")
        load_model(finished / "checkpoints" / "iter_0000011")


def test_checkpoints_elsewhere_are_resumed_from_evaluated_and_loaded_as_if_they_were_here(project, finished):
    disk = "hooks.checkpoint.dir=disk"
    train(project, "parts", disk, "train.stop_at=5")
    run = latest(project, "parts")
    assert run.joinpath("checkpoints").readlink() == project.path / "disk/line" / run.name
    train(project, "parts", disk, "--resume", "auto", "train.stop_at=7")
    train(project, "parts", disk, "--resume", run / "checkpoints/iter_0000004")
    assert latest(project, "parts") == run
    assert (run / "metrics.jsonl").read_bytes() == (finished / "metrics.jsonl").read_bytes()
    assert torch.equal(load_model(run).linear.weight, load_model(finished).linear.weight)
    assert "eval/total_loss" in project.hookline("evaluate", run / "checkpoints/best").output
    kept = sorted(path.name for path in (project.path / "disk/line" / run.name).iterdir())
    assert kept == ["best", "iter_0000007", "iter_0000009", "iter_0000011", "latest", "run"]


def test_the_same_config_as_a_dict_trains_to_the_same_weights(project, finished):
    import yaml

    config = yaml.safe_load((project.path / "run.yaml").read_text())
    trainer = DefaultTrainer(config, [*NOISY, "run.dir=other"])
    trainer.train()
    assert torch.equal(trainer.model.linear.weight, load_model(finished).linear.weight)
    commands = json.loads((trainer.run_dir / "summary.json").read_text())["commands"]
    run = trainer.run_dir.relative_to(project.path)
    assert commands == {"extend": f"trainer.resume('{run}')  # with train.max_iter={2 * trainer.max_iter}"}


def test_a_config_that_no_file_holds_has_no_command_that_starts_it_again(project):
    import yaml

    config = yaml.safe_load((project.path / "run.yaml").read_text())
    trainer = DefaultTrainer(config, ["hooks=[]", "train.stop_at=2"])
    trainer.train()
    assert json.loads((trainer.run_dir / "summary.json").read_text())["commands"] == {}
    assert report.last_words(trainer) == "hookline: ended at once, in iteration 2.\n"


def test_train_of_a_default_trainer_goes_on_after_a_pause(project, finished):
    trainer = DefaultTrainer("run.yaml", [*NOISY, "run.dir=other", "train.stop_at=5"])
    trainer.train()
    assert trainer.status == "paused"
    trainer.stop_at = None
    trainer.train()
    assert trainer.status == "finished"
    assert torch.equal(trainer.model.linear.weight, load_model(finished).linear.weight)
    assert (trainer.run_dir / "metrics.jsonl").read_bytes() == (finished / "metrics.jsonl").read_bytes()


def test_a_run_has_its_summary_before_it_says_how_it_ended(project, monkeypatch):
    write, has_summary = RunDir.write_status, {}

    def noted(self, state, **info):
        has_summary[state] = self.summary.exists()
        write(self, state, **info)

    monkeypatch.setattr(RunDir, "write_status", noted)
    DefaultTrainer("run.yaml", ["run.dir=other", "train.max_iter=1"]).train()
    assert has_summary == {"running": False, "finished": True}


def test_a_checkpoint_of_another_optimizer_is_refused(project, finished):
    result = project.hookline(
        "train", "run.yaml", "optimizer.target=torch.optim.SGD", *NOISY[1:], "--resume", finished
    )
    assert result.exit_code == 2
    assert "that of AdamW for SGD" in result.output


def test_a_run_of_a_trainer_written_in_python_is_resumed_evaluated_and_loaded(project):
    (project.path / "mine.py").write_text(
        "import yaml\nfrom hookline import DefaultTrainer\nfrom line import Line\n"
        "class Mine(DefaultTrainer):\n    def build_model(self):\n        return Line()\n"
        "if __name__ == '__main__':\n"
        "    config = yaml.safe_load(open('run.yaml'))\n    del config['model']\n"
        "    Mine(config, ['train.stop_at=5']).train()\n"
    )
    script = subprocess.run(
        [sys.executable, "mine.py"], cwd=project.path, capture_output=True, text=True, timeout=100
    )
    assert script.returncode == 0, script.stderr
    (line,) = [line for line in script.stdout.splitlines() if line.startswith("resume")]
    env = {**os.environ, "PYTHONPATH": str(project.path)}
    (run,) = project.runs()
    assert (
        line.split(maxsplit=1)[1]
        == f"trainer.resume('{run.relative_to(project.path)}')  # with train.stop_at="
    )
    resumed = project.run("train", run / "config.yaml", "train.stop_at=", "--resume", run, env=env)
    assert "finished at iteration 12" in resumed.stdout, resumed.stderr
    evaluated = project.run("evaluate", run, env=env)
    assert "eval/total_loss" in evaluated.stdout, evaluated.stderr


STEP_LR = "schedule={target: torch.optim.lr_scheduler.StepLR, step_size: 3}"


def test_changed_options_of_a_torch_scheduler_take_effect_on_resume(project):
    train(project, "runs", STEP_LR, "train.stop_at=3")
    train(project, "runs", STEP_LR, "schedule.step_size=100", "--resume", "latest")
    rows = [json.loads(row) for row in (latest(project, "runs") / "metrics.jsonl").read_text().splitlines()]
    assert rows[2]["lr"] == pytest.approx(0.05)
    assert [row["lr"] for row in rows[3:]] == pytest.approx([0.005] * 9)


def test_a_checkpoint_of_another_torch_scheduler_is_refused(project):
    train(project, "runs", STEP_LR, "train.stop_at=3")
    other = "schedule={target: torch.optim.lr_scheduler.ExponentialLR, gamma: 0.9}"
    result = project.hookline("train", "run.yaml", *NOISY, "run.dir=runs", other, "--resume", "latest")
    assert result.exit_code == 2
    assert "expected the state of a ExponentialLR, got that of a StepLR" in result.output


def test_a_start_that_failed_does_not_hide_the_run_before_it(project):
    train(project, "runs", "train.stop_at=5")
    refused = project.hookline("train", "run.yaml", "run.dir=runs", "schedule={target: ./line.py:points}")
    assert refused.exit_code == 2
    assert "finished at iteration 12" in train(project, "runs", "--resume", "latest")


def test_a_refused_second_process_deletes_nothing_of_the_run_that_goes_on(project, finished):
    code = "import sys; from pathlib import Path; from hookline.rundir import RunDir\n"
    code += "with RunDir.open(Path(sys.argv[1])).held(): print('held', flush=True); sys.stdin.read()"
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(finished)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    checkpoints = sorted((finished / "checkpoints").glob("iter_*"))
    try:
        result = project.hookline("train", "run.yaml", *NOISY, "--resume", checkpoints[0])
    finally:
        holder.communicate("", timeout=30)
    assert result.exit_code == 2
    assert "one that nobody trains in" in result.output
    assert sorted((finished / "checkpoints").glob("iter_*")) == checkpoints


@pytest.mark.parametrize("spec", ["auto", "latest"])
def test_what_another_process_trained_since_a_run_was_chosen_stays(project, spec):
    train(project, "runs", "train.stop_at=5")
    late = DefaultTrainer("run.yaml", [*NOISY, "run.dir=runs"])
    late.resume(spec)
    train(project, "runs", "--resume", "auto")
    run = late.run_dir
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(RunError, match="since.* Start this again"):
        late.train()
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_resume_and_weights_exclude_each_other(project, finished):
    result = project.hookline("train", "run.yaml", "--resume", finished, "--weights", finished)
    assert result.exit_code == 2
    assert "--weights: expected it without --resume or with --resume auto, got --resume" in result.output


def test_other_options_of_the_optimizer_take_effect_on_resume_and_the_rest_stays(project):
    train(project, "runs", "train.stop_at=5")
    trainer = DefaultTrainer(
        "run.yaml", [*NOISY, "optimizer.weight_decay=0.3", "optimizer.betas=[0.9, 0.999]"]
    )
    before = trainer.optimizer.param_groups[0]["lr"]
    trainer.resume("latest")
    (group,) = trainer.optimizer.param_groups
    assert (group["weight_decay"], list(group["betas"])) == (0.3, [0.9, 0.999])
    assert group["lr"] != before  # where the schedule left it
