"""However a run ends, it says how to go on, and one command starts it, resumes it and leaves it alone."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from hookline import DefaultTrainer, RunError, load_config
from hookline.cli import training
from hookline.cli.ending import OUT_OF_TIME, end_out_of_time
from hookline.description import hyper_parameters

AUTO = ("--resume", "auto")

PARTS = """
import os, signal
from hookline import HookBase
from hookline.trainer import ending

class Slow(HookBase):
    def before_step(self):
        ending.monotonic.now += 1.0  # of a test's clock

class Fails(HookBase):
    def __init__(self, at: int = 7):
        self.at = at
    def after_step(self):
        if self.trainer.iter == self.at and not os.path.exists("mended"):
            raise ZeroDivisionError("on purpose")

class Stops(HookBase):
    def after_step(self):
        if self.trainer.iter == 6 and not os.path.exists("mended"):
            self.trainer.request_stop("had enough")

class Signals(HookBase):
    def __init__(self, name: str, at: int = 7):
        self.number, self.at = signal.Signals[name], at
    def after_step(self):
        if self.trainer.iter == self.at and not os.path.exists("mended"):
            os.kill(os.getpid(), self.number)
"""


@pytest.fixture
def project(project):
    (project.path / "parts.py").write_text(PARTS)
    return project


def status(run) -> dict:
    return json.loads((run / "status.json").read_text())


def rows(run) -> list[int]:
    return [json.loads(line)["iteration"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def printed(output: str, name: str) -> list[str]:
    """Return the arguments of the command that the summary gives for ``name``."""
    (line,) = [line for line in output.splitlines() if line.split(maxsplit=1)[:1] == [name]]
    words = shlex.split(line)[1:]
    assert words[0] == "hookline"
    return words[1:]


# ---- every end says how to go on

ENDS = {
    "finished": ([], 0, "extend"),
    "stopped": (["hooks+=./parts.py:Stops"], 0, "resume"),
    "paused": (["train.stop_at=7"], 0, "resume"),
    "SIGINT": (["hooks+={./parts.py:Signals: {name: SIGINT}}"], 130, "resume"),
    "SIGTERM": (["hooks+={./parts.py:Signals: {name: SIGTERM}}"], 143, "resume"),
    "failed": (["hooks+=./parts.py:Fails"], 1, "resume"),
    "failed before the first checkpoint": (["hooks+={./parts.py:Fails: {at: 2}}"], 1, "again"),
    "paused without the checkpoint hook": (["train.stop_at=7", "hooks-=checkpoint"], 0, "again"),
    "failed and started by auto": (["hooks+={./parts.py:Fails: {at: 2}}", *AUTO], 1, "again"),
    "without plugins": (["--no-plugins", "train.stop_at=4"], 0, "again"),
    "failed smoke": (["hooks+={./parts.py:Fails: {at: 1}}", "--smoke"], 1, "again"),
}


@pytest.mark.parametrize("end", ENDS)
def test_the_command_that_a_run_ends_with_goes_on(project, end):
    more, code, name = ENDS[end]
    # What a shell would take apart, and what YAML and paths make of it.
    quoted = "hooks+={often: {use: evaluate, period: 2, data: 'eval'}}"
    result = project.hookline("train", "run.yaml", "run.dir=my runs", quoted, *more)
    assert result.exit_code == code, result.output
    words = printed(result.output, name)
    assert quoted in words
    (project.path / "mended").touch()
    again = project.hookline(*words)
    # What was asked for, a stop among it, is asked for again.
    is_whole = name != "again" or not any("stop_at" in word for word in more)
    assert f"{'finished' if is_whole else 'paused'} at iteration" in again.output, again.output
    runs = sorted((project.path / "my runs").glob("*/2*"))
    assert len(runs) == (2 if name == "again" and "--resume" not in words else 1)
    assert ("--no-plugins" in words, "--smoke" in words) == ("--no-plugins" in more, "--smoke" in more)
    if "--no-plugins" not in more:
        assert [0, 1, 2] in [rows(run)[:3] for run in runs]


def test_a_pause_that_the_config_asks_for_is_over_when_the_run_goes_on(project):
    file = project.path / "run.yaml"
    file.write_text(file.read_text().replace("max_iter: 12,", "max_iter: 12, stop_at: 5,"))
    words = printed(project.hookline("train", "run.yaml").output, "resume")
    refused = project.hookline("train", "run.yaml", *AUTO)
    assert refused.exit_code == 2
    said = "train.stop_at (run.yaml:9): expected more than the 5 iterations done, or nothing, got 5. Raise it, or"
    assert said in refused.output
    earlier = project.hookline("train", "run.yaml", "train.stop_at=3", *AUTO)
    assert "got 3. Raise it, or take it out with train.stop_at=." in earlier.output
    assert [*words[-3:-2], words[-1]] == ["--resume", "train.stop_at="]
    assert "finished at iteration 12" in project.hookline(*words).output


def test_a_failed_start_from_weights_is_started_again_from_them(project):
    project.hookline("train", "run.yaml", "train.max_iter=2")
    fails = "hooks+={./parts.py:Fails: {at: 0}}"
    result = project.hookline("train", "run.yaml", fails, "run.dir=others", "--weights", project.runs()[0])
    words = printed(result.output, "again")
    assert words[-2:] == ["--weights", str(project.runs()[0])]
    (project.path / "mended").touch()
    assert "finished at iteration 12" in project.hookline(*words).output


def test_auto_begins_again_with_the_weights_that_the_run_began_with(project):
    auto = ("train", "run.yaml", "run.dir=others", "train.log_period=1", *AUTO)
    project.hookline("train", "run.yaml")
    (first,) = project.runs()
    weights = ("--weights", first, "hooks+={./parts.py:Fails: {at: 2}}")
    assert project.hookline(*auto[:-2], *weights).exit_code == 1
    (run,) = (project.path / "others/line").glob("2*")
    begun = (run / "metrics.jsonl").read_bytes()
    assert json.loads((run / "weights.json").read_text()) == {
        "source": str(first / "checkpoints/iter_0000011"),
        "of": None,
    }
    away = first.rename(project.path / "away")
    refused = project.hookline(*auto)
    assert refused.exit_code == 2
    assert f"{run}: expected to begin again with the weights of {first}" in refused.output
    assert (run / "metrics.jsonl").read_bytes() == begun
    again = project.hookline(*auto, "--weights", away, "hooks+={./parts.py:Fails: {at: 2}}")
    words = printed(again.output, "again")
    assert words[-4:] == ["--weights", str(away), *AUTO]
    assert (run / "metrics.jsonl").read_bytes() == begun
    away.rename(first)
    (run / "weights.json").write_text(json.dumps({"source": str(first), "of": None}))
    result = project.hookline(*auto, "train.stop_at=5")
    assert f"It begins again with the weights of {first}." in result.output
    assert (run / "metrics.jsonl").read_bytes().startswith(begun)
    more = project.hookline(*auto, "--weights", "gone")
    assert f"{run} has weights of its own: no others are loaded." in more.output
    assert "finished at iteration 12" in more.output


def test_weights_that_were_loaded_before_are_those_a_run_begins_again_with(project):
    DefaultTrainer("run.yaml", ["train.max_iter=2"]).train()
    (weights,) = project.runs()
    failed = DefaultTrainer("run.yaml", ["run.dir=others", "hooks+={./parts.py:Fails: {at: 0}}"])
    with pytest.raises(ZeroDivisionError):
        failed.train()
    trainer = DefaultTrainer("run.yaml", ["run.dir=others"])
    trainer.load_weights(weights)
    trainer.resume("auto")
    trainer.train(max_iter=1)
    assert trainer.run_dir == failed.run_dir
    assert json.loads((trainer.run_dir / "weights.json").read_text())["source"].startswith(str(weights))


def test_a_finished_smoke_test_asks_for_nothing(project):
    output = project.hookline("train", "run.yaml", "--smoke").output
    assert not re.search(r"^(again|resume|extend)", output, re.MULTILINE)


# ---- resume auto


def test_one_command_starts_a_run_resumes_it_and_then_starts_the_next(project):
    command = ("train", "run.yaml", *AUTO)
    first = project.hookline(*command, "train.stop_at=5")
    assert first.exit_code == 0, first.output
    assert "No run of 'line' to resume in runs: this is a new one." in first.output
    (run,) = project.runs()
    second = project.hookline(*command)
    assert "from iter_0000004" in second.output
    assert "finished at iteration 12" in second.output
    assert project.runs() == [run]
    assert rows(run) == list(range(12))
    third = project.hookline(*command)
    assert f"{run} is finished at iteration 12: this is a new run." in third.output
    assert len(project.runs()) == 2


def test_a_job_that_is_started_again_when_its_run_is_done_leaves_it_alone(project, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    project.hookline("train", "run.yaml", *AUTO)
    (run,) = project.runs()
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    result = project.hookline("train", "run.yaml", *AUTO)
    assert result.exit_code == 0
    assert (
        result.output
        == f"{run}, which this job trained, is finished at iteration 12: nothing is left to do.\n"
    )
    trainer = DefaultTrainer("run.yaml")
    trainer.resume("auto")
    trainer.train()
    assert (trainer.status, trainer.iter, trainer.run_dir) == ("finished", 12, run)
    assert project.runs() == [run]
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_auto_takes_the_newest_that_is_neither_finished_nor_stopped(project):
    project.hookline("train", "run.yaml", "train.stop_at=5")
    project.hookline("train", "run.yaml", "hooks+=./parts.py:Stops")
    project.hookline("train", "run.yaml", "run.name=other", "train.stop_at=5")
    project.hookline("train", "run.yaml")
    paused = next(
        run for run in project.runs() if status(run)["state"] == "paused" and run.parent.name == "line"
    )
    output = project.hookline("train", "run.yaml", *AUTO).output
    assert f"run       {paused.relative_to(project.path)}" in output
    assert status(paused)["state"] == "finished"


@pytest.mark.parametrize("writers", ["[json]", "[json,tensorboard]"])
def test_a_run_without_a_checkpoint_begins_again_in_its_directory(project, writers):
    arguments = ("train", "run.yaml", f"writers={writers}", "hooks+={./parts.py:Fails: {at: 3}}")
    assert project.hookline(*arguments, "run.dir=whole", "hooks.Fails.at=99").exit_code == 0
    assert project.hookline(*arguments).exit_code == 1
    (run,) = project.runs()
    assert rows(run) == [0, 1, 2, 3]
    (project.path / "mended").touch()
    result = project.hookline(*arguments, *AUTO)
    assert f"{run} has no checkpoint yet: it begins again." in result.output
    assert "iterations 0 to 12" in result.output
    (whole,) = (project.path / "whole/line").glob("2*")
    assert project.runs() == [run]
    assert (run / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    if "tensorboard" in writers:
        assert steps(run) == steps(whole)


def steps(run) -> list[int]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    return [event.step for event in events.Scalars("total_loss")]


def test_a_run_that_was_killed_between_its_last_save_and_its_end_is_ended(project):
    project.hookline("train", "run.yaml")
    (run,) = project.runs()
    metrics = (run / "metrics.jsonl").read_bytes()
    (run / "status.json").write_text(json.dumps({**status(run), "state": "running"}))
    result = project.hookline("train", "run.yaml", *AUTO)
    assert result.exit_code == 0, result.output
    assert project.runs() == [run]
    assert status(run)["state"] == "finished"
    assert (run / "metrics.jsonl").read_bytes() == metrics
    refused = project.hookline("train", "run.yaml", "--resume", run)
    assert "expected more than the 12 iterations done, got 12" in refused.output


def test_a_stopped_run_that_was_killed_before_its_end_is_ended_as_stopped(project):
    arguments = ("train", "run.yaml", "hooks+=./parts.py:Stops")
    project.hookline(*arguments)
    (run,) = project.runs()
    stopped, metrics = status(run), (run / "metrics.jsonl").read_bytes()
    (run / "status.json").write_text(json.dumps({**stopped, "state": "running", "iteration": 0}))
    result = project.hookline(*arguments, *AUTO)
    assert result.exit_code == 0, result.output
    same = ("state", "reason", "iteration")
    assert [status(run)[key] for key in same] == [stopped[key] for key in same]
    assert (run / "metrics.jsonl").read_bytes() == metrics


def test_a_stopped_run_that_somebody_had_go_on_and_was_killed_goes_on_again(project):
    project.hookline("train", "run.yaml", "hooks+=./parts.py:Stops")
    (run,) = project.runs()
    (run / "status.json").write_text(json.dumps({**status(run), "state": "running"}))
    assert project.hookline("train", "run.yaml", *AUTO).exit_code == 0
    assert (status(run)["state"], rows(run)) == ("finished", [*range(12)])


def test_auto_refuses_a_run_that_another_process_trains_and_touches_nothing(project):
    project.hookline("train", "run.yaml", "train.stop_at=5")
    (run,) = project.runs()
    code = "import sys; from pathlib import Path; from hookline.rundir import RunDir\n"
    code += "with RunDir.open(Path(sys.argv[1])).held(): print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(run)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
        result = project.hookline("train", "run.yaml", *AUTO)
        holder.stdin.close()
        holder.wait(30)
    assert result.exit_code == 2
    assert "expected one that nobody trains in, got 'process" in result.output
    assert len(result.output.splitlines()) == 1
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert project.runs() == [run]


def test_auto_is_not_led_astray_by_checkpoints_that_are_all_damaged(project):
    project.hookline("train", "run.yaml", "train.stop_at=5")
    for path in project.runs()[0].glob("checkpoints/iter_*/model.safetensors"):
        path.write_bytes(b"")
    result = project.hookline("train", "run.yaml", *AUTO)
    assert result.exit_code == 2
    assert "Every one is damaged" in result.output


# ---- what is asked for wrongly

WRONG = {
    **{f"limit {text!r}": (["--time-limit", text], "--time-limit: expected a time > 0 such as") for text in
       ("0", "-5", "3x", "", "1h60m", "1.5h", "1-24:00:00", "3:60:00", "soon", "90 s s")},
    "limit in the config": (["train.time_limit=3x"], "train.time_limit (override 'train.time_limit=3x'): expected"),
    "limit of nothing": (["train.time_limit=0"], "expected a time > 0"),
    "auto and no weights": ([*AUTO, "--weights", "none"], "--weights none: expected a run, a checkpoint or a .safe"),
    "auto and smoke": ([*AUTO, "--smoke"], "--resume auto: expected it without --smoke"),
    "auto and a name": ([*AUTO, "run.name=../x"], "run.name (override 'run.name=../x')"),
    "a word like auto": (["--resume", "atuo"], "--resume atuo: expected auto, latest, a run directory or a path in one"),
    "an empty word": (["--resume", ""], "expected"),
    "twice nothing": (["--resume"], "Error: Option '--resume' requires an argument."),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_asked_for_wrongly_is_one_message_and_nothing_is_touched(project, case):
    arguments, message = WRONG[case]
    result = project.hookline("train", "run.yaml", *arguments)
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output
    assert len(result.output.splitlines()) <= 4  # the usage, where click speaks
    assert not (project.path / "runs").exists()
    assert not (project.path / "elsewhere").exists()


# ---- a time limit


class Clock:
    """A clock that shows what ``Slow`` makes it show."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_time_limit_pauses_in_time_and_its_exit_code_says_try_again(project, monkeypatch):
    monkeypatch.setattr("hookline.trainer.ending.monotonic", Clock())
    arguments = ["hooks+=./parts.py:Slow", "train.max_iter=500", "--time-limit", "5m", *AUTO]
    result = project.hookline("train", "run.yaml", *arguments)
    assert result.exit_code == OUT_OF_TIME == 75
    (run,) = project.runs()
    found = status(run)
    assert (found["state"], found["reason"]) == ("paused", "time limit of 5m")
    assert f"paused at iteration {found['iteration']} (time limit of 5m)" in result.output
    # A second each, half a minute is left, and the start of the command counts.
    assert 100 < found["iteration"] < 270
    assert (run / f"checkpoints/iter_{found['iteration'] - 1:07d}").is_dir()
    words = printed(result.output, "resume")
    assert "train.time_limit=5m" in words
    more = project.hookline(*words, f"train.max_iter={found['iteration'] + 2}")
    assert f"finished at iteration {found['iteration'] + 2}" in more.output
    assert rows(run) == list(range(found["iteration"] + 2))


def test_a_time_limit_in_which_nothing_gets_done_is_warned_of(project, monkeypatch):
    monkeypatch.setattr(training, "seconds_since_launch", lambda: 90.0)
    result = project.hookline("train", "run.yaml", "--time-limit", "90s")
    assert result.exit_code == OUT_OF_TIME
    said = "train.time_limit (override 'train.time_limit=90s'): not one iteration fits in"
    assert said in result.output.replace("\n", " ")
    assert "paused at iteration 0" in result.output


def test_a_limit_is_no_hyper_parameter_and_is_shown_in_seconds(project):
    config = load_config("run.yaml", ["train.time_limit=3h50m"])
    assert config.train.time_limit == 13800
    assert "train.time_limit" not in hyper_parameters(config)
    # YAML takes the second for a number in base 60, which is the same.
    for text in ("03:50:00", "3:50:00", "'3h 50m'", "13800"):
        assert load_config("run.yaml", [f"train.time_limit={text}"]).train.time_limit == 13800
    assert "time_limit: 13800" in project.hookline("config", "run.yaml", "train.time_limit=03:50:00").output


@pytest.mark.parametrize(("restart", "code"), [(0, 0), (2, 0), (3, OUT_OF_TIME)])
def test_torchrun_is_not_told_to_start_anew_what_has_no_time_left(monkeypatch, restart, code):
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(restart))
    with pytest.raises(SystemExit) as end:
        end_out_of_time()
    assert end.value.code == code


# ---- signals that find nothing to pause


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_that_comes_when_the_last_iteration_is_done_does_not_ask_for_another_start(project, name):
    result = project.hookline("train", "run.yaml", f"hooks+={{./parts.py:Signals: {{name: {name}, at: 11}}}}")
    assert result.exit_code == 0
    assert status(project.runs()[0])["state"] == "finished"


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ("train run.yaml --nproc 2", "hookline train run.yaml --nproc 2 --resume auto"),
        ("train run.yaml --nproc 2 --resume runs/x", "hookline train run.yaml --nproc 2 --resume runs/x"),
        ("train run.yaml --resume=auto --nproc=2", "hookline train run.yaml --resume=auto --nproc=2"),
    ],
)
def test_a_launcher_whose_rank_was_killed_says_how_to_go_on(monkeypatch, arguments, hint):
    monkeypatch.setattr(sys, "argv", ["hookline", *arguments.split()])
    assert training._go_on() == f"Go on with: {hint}"


INTERRUPTED = """
import os, signal
from line import Line as Whole

class Line(Whole):
    def __init__(self, name: str):
        super().__init__()
        try:
            os.kill(os.getpid(), signal.Signals[name])
        except BaseException:  # as some imports do
            pass
"""


@pytest.fixture
def interrupted(project):
    """Return a function that returns arguments of a run whose building is interrupted by a signal."""
    (project.path / "interrupted.py").write_text(INTERRUPTED)
    target = "./interrupted.py:Line"
    return lambda name: (
        "train",
        "run.yaml",
        "hooks.checkpoint.keep=0",
        f"model={{target: {target}, name: {name}}}",
    )


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_that_comes_before_training_ends_the_command_which_says_how_to_start_again(
    project, interrupted, name, code
):
    result = project.fork(*interrupted(name), PYTHONPATH=str(project.path))
    assert result.returncode == code
    again = shlex.join(["hookline", *interrupted(name)])
    assert result.stderr == f"hookline: ended before training began. Start again with: {again}\n"
    assert not (project.path / "runs").exists()


def test_signals_mean_what_they_meant_after_a_command_that_one_ended(project, interrupted, monkeypatch):
    monkeypatch.syspath_prepend(project.path)
    monkeypatch.setitem(sys.modules, "line", None)
    del sys.modules["line"]  # what is imported as this is forgotten again
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert project.hookline(*interrupted("SIGTERM")).exit_code == 143
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_sigusr1_that_comes_before_training_saves_after_the_first_iteration(project, interrupted):
    # In a process without other threads, one of which would get the signal and end it.
    result = project.fork(*interrupted("SIGUSR1"), PYTHONPATH=str(project.path))
    assert result.returncode == 0, result.stderr
    assert "SIGUSR1: saving at the end of this iteration." in result.stdout
    saved = sorted(path.name for path in (project.runs()[0] / "checkpoints").glob("iter_*"))
    assert saved == ["iter_0000000", "iter_0000004", "iter_0000009", "iter_0000011"]


# ---- the script for SLURM

FAKES = {
    "srun": 'exec "$@"',
    "scontrol": 'echo "$@" > requeued',
    "scancel": 'echo "$@" > cancelled; kill -TERM "$(cat pid)"',
    "hookline": 'echo "$SRUN_CPUS_PER_TASK" > cpus; echo "$@" > arguments; echo $$ > pid; test -z "$CODE" || exit "$CODE"\n'
    "trap 'exit 143' TERM; while true; do sleep 0.02; done",
}


def documented(name: str) -> str:
    """Return a file that the page about clusters has the reader write."""
    page = (Path(__file__).parents[2] / "docs/how-to/clusters.md").read_text()
    (text,) = re.findall(rf"<!-- test: file {name} -->\n```\w+\n(.*?)```", page, re.DOTALL)
    return text


@pytest.fixture
def sbatch(tmp_path):
    """Return a function that starts the script of the documentation, SLURM and the training being fakes."""
    (tmp_path / "train.sbatch").write_text(documented("train.sbatch"))
    (tmp_path / "bin").mkdir()
    for name, body in FAKES.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / "bin" / name).chmod(0o755)

    def start(code=""):
        path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
        job = {"SLURM_JOB_ID": "42", "SLURM_JOB_NAME": "gpt", "SLURM_CPUS_PER_TASK": "32"}
        job |= {"CODE": str(code), "PATH": path}
        return subprocess.Popen(["bash", "train.sbatch"], cwd=tmp_path, env={**os.environ, **job})

    return start


def told(folder, name) -> str | None:
    """Return what a fake was called with, once that is written, or None if it never was."""
    file = folder / name
    return file.read_text().strip() if file.exists() else None


def wait_for(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(("code", "requeues"), [(0, False), (1, False), (2, False), (75, True), (143, True)])
def test_the_script_queues_again_what_is_paused_and_nothing_else(tmp_path, sbatch, code, requeues):
    assert sbatch(code).wait(20) == code
    assert told(tmp_path, "requeued") == ("requeue 42" if requeues else None)
    assert told(tmp_path, "cpus") == "32"
    assert told(tmp_path, "arguments").startswith("train run.yaml run.name=gpt --nproc 4 --resume auto")


def test_the_script_pauses_the_training_when_slurm_says_that_time_is_short(tmp_path, sbatch):
    job = sbatch()
    wait_for(lambda: told(tmp_path, "pid"))
    job.send_signal(signal.SIGUSR1)
    assert job.wait(20) == 143
    assert told(tmp_path, "cancelled") == "--signal=TERM 42"
    assert told(tmp_path, "requeued") == "requeue 42"


def test_the_script_of_a_cancelled_job_does_not_queue_it_again(tmp_path, sbatch):
    job = sbatch()
    wait_for(lambda: told(tmp_path, "pid"))
    job.send_signal(signal.SIGTERM)
    assert job.wait(20) == -signal.SIGTERM
    os.kill(int(told(tmp_path, "pid")), signal.SIGTERM)
    assert told(tmp_path, "requeued") is None


def test_the_kubernetes_job_starts_again_what_is_paused_and_nothing_that_cannot_be_done():
    job = yaml.safe_load(documented("job.yaml"))
    rules = job["spec"]["podFailurePolicy"]["rules"]
    by_code = {
        code: rule["action"] for rule in rules for code in rule.get("onExitCodes", {}).get("values", [])
    }
    assert by_code == {OUT_OF_TIME: "Ignore", 128 + signal.SIGTERM: "Ignore", RunError.exit_code: "FailJob"}
    assert job["spec"]["template"]["spec"]["restartPolicy"] == "Never"
    assert job["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > 30


@pytest.mark.parametrize(("codes", "ends_with"), [([75, 143, 0], 0), ([75, 1], 1)])
def test_the_loop_goes_on_until_a_run_is_done_or_somebody_should_look(tmp_path, codes, ends_with):
    (tmp_path / "codes").write_text("".join(f"{code}\n" for code in codes))
    body = "code=$(head -n 1 codes); sed -i 1d codes; exit $code"
    for name, text in {"hookline": body, "sleep": ":"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "loop.sh").write_text(documented("loop.sh"))
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(["sh", "loop.sh"], cwd=tmp_path, env={**os.environ, "PATH": path}, timeout=20)
    assert done.returncode == ends_with
    assert (tmp_path / "codes").read_text() == ""
