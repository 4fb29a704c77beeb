"""The commands, as a user types them; in processes of their own where that matters."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch

from hookline import DefaultTrainer, load_config
from hookline.report import header

from .conftest import LINE


def test_train_shows_header_progress_and_summary(project):
    result = project.hookline("train", "run.yaml")
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    shown = {line.split()[0]: line for line in lines}
    assert any("schedule → timer → writers → evaluate → checkpoint → progress" in line for line in lines)
    assert shown["model"].endswith("Line, 2 parameters")
    assert any(line.startswith("iter 3/12  loss ") and "it/s" in line and "ETA" in line for line in lines)
    assert shown["status"].endswith("finished at iteration 12")
    assert "eval/total_loss" in shown
    assert "hookline train run.yaml --resume runs/line/" in shown["extend"]


def test_the_header_says_which_iteration_compiles(project):
    trainer = DefaultTrainer(project.path / "run.yaml")
    assert header(trainer)["training"] == "iterations 0 to 12, fp32"
    trainer.config = replace(trainer.config, train=replace(trainer.config.train, compile=True))
    assert header(trainer)["training"] == "iterations 0 to 12, fp32, compiling in the first"


def test_the_run_directory_describes_the_run(project):
    project.hookline("train", "run.yaml", "train.max_iter=6")
    (run,) = project.runs()
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["status"], summary["iteration"]) == ("finished", 6)
    assert summary["metrics"]["eval/total_loss"]["last"] > 0
    assert summary["hook_seconds"].keys() >= {"schedule", "evaluate", "checkpoint"}
    assert summary["writer_seconds"].keys() == {"json"}
    assert json.loads((run / "status.json").read_text())["state"] == "finished"
    assert json.loads((run / "environment.json").read_text())["torch"] == torch.__version__
    plugins = json.loads((run / "plugins.json").read_text())
    assert plugins["call_order"] == ["schedule", "timer", "writers", "evaluate", "checkpoint", "progress"]
    assert plugins["writers"][0]["source"].startswith("hookline-json ")
    assert load_config(run / "config.yaml").train.max_iter == 6
    assert (run.parent / "latest").resolve() == run


def test_the_printed_resume_command_works(project):
    output = project.hookline("train", "run.yaml", "train.stop_at=5").output
    (line,) = [line for line in output.splitlines() if line.startswith("resume")]
    command = line.split()[1:]
    assert command[0] == "hookline"
    assert "finished at iteration 12" in project.hookline(*command[1:]).output


def test_the_printed_resume_command_keeps_where_training_ends(project):
    output = project.hookline("train", "run.yaml", "train.max_iter=20", "train.stop_at=5").output
    (line,) = [line for line in output.splitlines() if line.startswith("resume")]
    assert "finished at iteration 20" in project.hookline(*line.split()[2:]).output


def test_a_hook_that_exits_is_named(project):
    (project.path / "line.py").write_text(
        LINE.replace('print(f"Hello after', 'raise SystemExit(f"Hello after')
    )
    done = project.fork("train", "run.yaml", "hooks+=./line.py:Hello")
    assert done.returncode == 1
    assert "error: SystemExit: Hello after 2" in done.stdout
    assert "Raised by plugin 'Hello' (./line.py), hook after_step, iteration 1" in done.stdout


def test_evaluate_prints_the_same_metrics_as_training_did(project):
    project.hookline("train", "run.yaml")
    (run,) = project.runs()
    trained = json.loads((run / "summary.json").read_text())["metrics"]["eval/total_loss"]["last"]
    for target in (run, run / "checkpoints", run / "checkpoints" / "iter_0000011"):
        result = project.hookline("evaluate", target)
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout.splitlines()[-1])["eval/total_loss"] == trained


def test_config_prints_every_value_with_its_origin(project):
    output = project.hookline("config", "run.yaml", "train.max_iter=7").output
    assert "max_iter: 7" in output
    (line,) = [line for line in output.splitlines() if "max_iter" in line]
    assert line.endswith("# override 'train.max_iter=7'")
    assert "run.yaml:9" in output
    assert "# default" in output


def test_a_second_instance_of_a_hook_runs_under_its_own_name(project):
    result = project.hookline("train", "run.yaml", "hooks+={often: {use: evaluate, period: 2, data: train}}")
    assert result.exit_code == 0, result.output
    rows = [json.loads(row) for row in (project.runs()[0] / "metrics.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows if "train/total_loss" in row] == [1, 3, 5, 7, 9, 11]
    assert [row["iteration"] for row in rows if "eval/total_loss" in row] == [3, 7, 11]


def test_lengths_may_be_given_in_epochs(project):
    result = project.hookline("train", "run.yaml", "train.max_iter=2 epochs", "hooks.evaluate.period=1 epoch")
    assert "finished at iteration 16" in result.output
    rows = [json.loads(row) for row in (project.runs()[0] / "metrics.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows if "eval/total_loss" in row] == [7, 15]


def test_no_plugins_keeps_the_schedule_alone(project):
    result = project.hookline("train", "run.yaml", "--no-plugins")
    assert result.exit_code == 0, result.output
    assert {line.split()[1] for line in result.output.splitlines() if line.startswith("hooks")} >= {
        "schedule"
    }
    assert not (project.runs()[0] / "metrics.jsonl").exists()


def test_smoke_evaluates_and_saves_whatever_the_config_says(project):
    result = project.hookline("train", "run.yaml", "--smoke", "hooks-=evaluate", "hooks-=checkpoint")
    assert result.exit_code == 0, result.output
    (run,) = project.runs()
    assert run.parent.name == "line-smoke"
    assert "eval/total_loss" in (run / "metrics.jsonl").read_text()
    assert (run / "checkpoints" / "iter_0000002").is_dir()


def test_user_metrics_are_measured_and_flattened(project):
    (project.path / "metric.py").write_text(
        "class Sums:\n"
        "    def __init__(self, scale: float = 1.0): self.scale = scale\n"
        "    def reset(self): self.total = 0.0\n"
        "    def update(self, prediction): self.total += prediction.sum().item()\n"
        "    def compute(self): return {'sum': {'scaled': self.total * self.scale}}\n"
    )
    (project.path / "line.py").write_text(
        (project.path / "line.py")
        .read_text()
        .replace(
            "return (self.linear(self.dropout(x)) - y).square().mean()",
            "p = self.linear(x); loss = (p - y).square().mean()\n"
            "        return loss if self.training else {'loss': loss, 'prediction': p}",
        )
    )
    result = project.hookline(
        "train", "run.yaml", "data.eval.metrics={s: {target: ./metric.py:Sums, scale: 2}}"
    )
    assert result.exit_code == 0, result.output
    assert "eval/s/sum/scaled" in (project.runs()[0] / "metrics.jsonl").read_text()


@pytest.mark.parametrize(
    ("number", "code", "name"), [(signal.SIGINT, 130, "SIGINT"), (signal.SIGTERM, 143, "SIGTERM")]
)
def test_a_signal_pauses_the_run_and_the_exit_code_tells(project, number, code, name):
    process = start_long_run(project)
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == code, output + errors
    assert f"({name})" in output
    assert "resume" in output
    assert "Traceback" not in output + errors
    (run,) = project.runs()
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["reason"]) == ("paused", name)
    rows = [json.loads(row)["iteration"] for row in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows == list(range(status["iteration"]))
    assert (run / "checkpoints" / f"iter_{status['iteration'] - 1:07d}").is_dir()


def test_a_second_signal_exits_at_once_and_says_how_to_go_on(project):
    (project.path / "slow.py").write_text(
        "import time\nfrom hookline import HookBase\n"
        "class Slow(HookBase):\n    def after_step(self):\n        if self.trainer.iter == 20: time.sleep(60)\n"
    )
    process = start_long_run(project, "hooks+=./slow.py:Slow")
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    time.sleep(1.5)  # a signal that arrives twice at once, from a terminal and a launcher, is one
    process.send_signal(signal.SIGINT)
    try:
        _, errors = process.communicate(timeout=10)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 130
    (run,) = project.runs()
    words = shlex.join(["train.max_iter=10000000", "hooks+=./slow.py:Slow"])
    assert f"Go on with: hookline train run.yaml {words} --resume {run.relative_to(project.path)}\n" in errors


def start_long_run(project, *arguments):
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "hookline", "train", "run.yaml", "train.max_iter=10000000", *arguments],
        cwd=project.path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stdout:
        if line.startswith("iter 3/"):
            return process
    raise AssertionError(process.communicate())


def imported_by(code):
    script = f"import sys; {code}; print(*sys.modules)"
    return set(
        subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        ).stdout.split()
    )


def test_help_and_import_load_neither_torch_nor_a_plugin():
    for code in (
        "import hookline",
        "from click.testing import CliRunner; from hookline.cli import main; CliRunner().invoke(main, ['train', '--help'])",
    ):
        modules = imported_by(code)
        assert "hookline" in modules
        assert not {"torch", "hookline_json", "hookline_tensorboard", "hookline_wandb", "pydantic"} & modules


def test_resolving_a_config_imports_no_torch():
    assert "torch" not in imported_by("from hookline import load_config")


def test_an_installed_plugin_that_is_not_enabled_is_not_imported(project):
    (project.path / "line.py").write_text(
        (project.path / "line.py").read_text()
        + "\nimport sys\nclass Spy(HookBase):\n    def after_train(self):\n"
        "        print('plugins:', *sorted(m for m in sys.modules if m.startswith('hookline_') and 'local' not in m and '.' not in m))\n"
    )
    result = project.run("train", "run.yaml", "train.max_iter=1", "hooks+=./line.py:Spy")
    assert result.returncode == 0, result.stderr
    assert "plugins: hookline_json\n" in result.stdout


def test_a_writer_that_fails_is_named_with_what_it_missed_and_the_run_goes_on(project, install):
    install(
        "failing",
        """
        from hookline import EventWriter
        class Failing(EventWriter):
            def write(self, events):
                raise OSError("disk on fire")
        """,
        writers=["failing = failing:Failing"],
    )
    result = project.hookline("train", "run.yaml", "writers+=failing")
    assert result.exit_code == 0, result.output
    assert "failing missed 12 iterations, 0 to 11: OSError: disk on fire" in result.output
    (run,) = project.runs()
    assert json.loads((run / "summary.json").read_text())["gaps"][0]["writer"] == "failing"
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 12


def test_a_hook_that_may_be_switched_off_is_named_in_the_summary(project):
    (project.path / "bad.py").write_text(
        "from hookline import HookBase\nclass Bad(HookBase):\n    def after_step(self):\n        raise ValueError('no')\n"
    )
    result = project.hookline("train", "run.yaml", "hooks+={bad: {use: ./bad.py:Bad, on_error: disable}}")
    assert result.exit_code == 0, result.output
    assert "ValueError: no (Raised by plugin 'bad'" in result.output
    assert "finished at iteration 12" in result.output


def test_the_summary_shows_how_to_look_at_the_charts(project):
    result = project.hookline("train", "run.yaml", "writers=[json,tensorboard]")
    (line,) = [line for line in result.output.splitlines() if line.startswith("tensorboard ")]
    assert line.split()[1:] == ["tensorboard", "--logdir", str(project.runs()[0] / "tensorboard")]


def test_hyper_parameters_of_the_config_reach_the_writers(project, install):
    install(
        "keeping",
        """
        from hookline import EventWriter
        class Keeping(EventWriter):
            def open(self, run):
                self.file = run.dir / "hparams.txt"
            def write(self, events):
                with self.file.open("a") as file:
                    for event in events:
                        if event.hparams:
                            print(event.iteration, event.hparams["optimizer.lr"], len(event.hparams), file=file)
        """,
        writers=["keeping = keeping:Keeping"],
    )
    assert project.hookline("train", "run.yaml", "writers+=keeping", "train.stop_at=3").exit_code == 0
    assert project.hookline("train", "run.yaml", "writers+=keeping", "--resume", "latest").exit_code == 0
    lines = (project.runs()[0] / "hparams.txt").read_text().splitlines()
    # Told again after the resume, for this writer cannot be rewound.
    assert {tuple(line.split()[:2]) for line in lines} == {("0", "0.05")}


def test_a_function_in_a_config_is_named_like_any_target(project):
    (project.path / "my.py").write_text("def report(trainer):\n    print('report of', trainer.iter)\n")
    result = project.hookline("train", "run.yaml", "hooks+={callback: {after_step: ./my.py:report}}")
    assert result.exit_code == 0, result.output
    assert "report of 11" in result.output


def test_a_run_that_goes_on_is_not_trained_by_a_second_process(project):
    process = start_long_run(project, "hooks.checkpoint.period=2")
    (run,) = project.runs()
    try:
        second = project.hookline("train", "run.yaml", "train.max_iter=10000000", "--resume", run)
        assert second.exit_code == 2
        assert f"process {process.pid}" in second.output
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 130


def test_a_data_loader_without_a_length_trains_by_iterations(project):
    (project.path / "stream.py").write_text(
        "import torch\nfrom torch.utils.data import DataLoader, IterableDataset\n"
        "class Stream(IterableDataset):\n    def __iter__(self):\n"
        "        for i in range(40):\n            x = torch.full((1,), i / 40)\n            yield x, 3 * x + 1\n"
        "def loader(): return DataLoader(Stream(), batch_size=8)\n"
    )
    (project.path / "run.yaml").write_text(
        (project.path / "run.yaml")
        .read_text()
        .replace(
            "train: {target: ./line.py:points, loader: {batch_size: 8}}",
            "train: {target: ./stream.py:loader}",
        )
    )
    result = project.hookline("train", "run.yaml")
    assert result.exit_code == 0, result.output
    in_epochs = project.hookline("train", "run.yaml", "train.max_iter=2 epochs")
    assert in_epochs.exit_code == 2
    assert "The loader of data.train has no length" in in_epochs.output
