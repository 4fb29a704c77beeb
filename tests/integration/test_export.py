"""``hookline export``: what a run's journal holds, through each writer, as the run's own writer would have it."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

from hookline.cli import main

ROOT = Path(__file__).parents[2]
CONFIG = """
run: {name: hello}
model: {target: ./model.py:Line}
data:
  train: {target: ./model.py:points, loader: {batch_size: 8}}
  eval: {target: ./model.py:points, loader: {batch_size: 8}}
optimizer: {target: torch.optim.SGD, lr: 0.1}
train: {max_iter: 47, device: cpu, threads: 1, log_period: 10}
hooks:
  - evaluate: {period: 7}
writers: [json, tensorboard]
"""
MODEL = """
import torch
from torch import nn
from torch.utils.data import TensorDataset

class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(1, 1)

    def forward(self, batch):
        x, y = batch
        return (self.linear(x) - y).square().mean()

def points():
    x = torch.linspace(-1, 1, 64).unsqueeze(1)
    return TensorDataset(x, 3 * x + 1)
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run that has ended, whose config wrote tensorboard's file, too."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "run.yaml").write_text(CONFIG)
    (folder / "model.py").write_text(MODEL)
    done = CliRunner().invoke(main, ["train", str(folder / "run.yaml"), f"run.dir={folder}/runs"])
    assert done.exit_code == 0, done.output
    (run,) = (path for path in (folder / "runs/hello").iterdir() if not path.is_symlink())
    return run


@pytest.fixture
def run(trained, tmp_path, monkeypatch):
    """A copy of the run in the current folder."""
    shutil.copytree(trained, tmp_path / "runs/hello" / trained.name)
    monkeypatch.chdir(tmp_path)
    return Path("runs/hello") / trained.name


def hookline(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def exported(run, *arguments):
    """Export, and return the folder and what was printed, by the word a line begins with."""
    done = hookline("export", run, *arguments)
    assert done.exit_code == 0, done.output
    lines = dict(re.split(r" {2,}", line, maxsplit=1) for line in done.stdout.splitlines() if "  " in line)
    return Path(lines[arguments[arguments.index("--to") + 1]]), lines


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def records(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_command_says_what_it_wrote_and_how_to_look_at_it(run):
    before = contents(run)
    folder, lines = exported(run, "--to", "tensorboard")
    assert folder.parent == run / "export"
    assert lines == {
        "run": str(run),
        "json": "47 iterations, 0 to 46",
        "tensorboard": str(folder),
        "files": "tensorboard/events.out.tfevents.hookline",
        "look": f"tensorboard --logdir {folder.absolute()}/tensorboard",
    }
    assert {path: before[path] for path in before} == {path: contents(run)[path] for path in before}


def tensorboard_points(folder):
    accumulator = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    scalars = {
        name: [(event.step, event.value, event.wall_time) for event in accumulator.Scalars(name)]
        for name in accumulator.Tags()["scalars"]
    }
    content = accumulator.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    return scalars, dict(metadata.parse_session_start_info_plugin_data(content).hparams)


def test_tensorboard_shows_the_same_as_that_of_the_run_itself(run):
    folder, _ = exported(run, "--to", "tensorboard")
    scalars, hparams = tensorboard_points(folder)
    own_scalars, own_hparams = tensorboard_points(run)
    assert [step for step, *_ in scalars["eval/total_loss"]] == [6, 13, 20, 27, 34, 41, 46]
    assert [step for step, *_ in scalars["total_loss"]] == [9, 19, 29, 39, 46]
    assert {"lr", "time"} <= scalars.keys()
    assert scalars == own_scalars
    # The config of a run has absolute paths.
    changed = {name for name in own_hparams if hparams[name] != own_hparams[name]}
    assert hparams.keys() == own_hparams.keys()
    assert changed == {"model.target", "data.train.target", "data.eval.target"}


def test_options_of_the_writer_hold(run):
    folder, _ = exported(run, "--to", "tensorboard", "every_value=true", "charts.all=.*")
    scalars, _ = tensorboard_points(folder)
    assert [step for step, *_ in scalars["total_loss"]] == list(range(47))
    folder, _ = exported(run, "--to", "tensorboard", "period=47")
    assert [step for step, *_ in tensorboard_points(folder)[0]["total_loss"]] == [46]


def test_csv_has_each_value_of_the_journal(run):
    folder, lines = exported(run, "--to", "csv", "--out", "tables")
    assert (str(folder), lines["files"]) == ("tables", "metrics.csv")
    with open("tables/metrics.csv", newline="") as file:
        rows = [{name: cell for name, cell in row.items() if cell} for row in csv.DictReader(file)]
    expected = [{name: str(value) for name, value in line.items()} for line in records(run / "metrics.jsonl")]
    for row, timings in zip(expected, records(run / "timings.jsonl"), strict=True):
        row |= {name: repr(value) for name, value in timings.items() if name != "wall_time_s"}
        row["iteration"] = str(timings["iteration"])
    assert rows == expected


def test_json_has_the_same_bytes(run):
    folder, _ = exported(run, "--to", "json")
    for name in ("metrics.jsonl", "timings.jsonl", "metrics.hints.json"):
        assert (folder / name).read_bytes() == (run / name).read_bytes()


def test_wandb_has_a_run_of_its_own(run, tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    home = str(tmp_path / "home")
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR"):
        monkeypatch.setenv(name, home)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    command = [
        sys.executable,
        "-m",
        "hookline",
        "export",
        run,
        "--to",
        "wandb",
        "mode=offline",
        "project=lines",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")
    (folder,) = run.absolute().glob("export/wandb-*/wandb/offline-run-*")
    assert f"wandb sync {folder.parent}/offline-run-*" in done.stdout
    assert re.search(r"^files +\d+ in wandb/$", done.stdout, re.MULTILINE)
    (file,) = folder.glob("*.wandb")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    found = [
        json.loads(line) for line in subprocess.check_output(command, text=True, timeout=60).splitlines()
    ]
    (started,) = (record["run"] for record in found if record["type"] == "run")
    assert started["run_id"].startswith(f"{run.name}-export-")
    assert started["project"] == "lines"
    rows = [record["history"]["item"] for record in found if record["type"] == "history"]
    assert [row["iteration"] for row in rows if "total_loss" in row] == [9, 19, 29, 39, 46]
    assert [row["iteration"] for row in rows if "eval/total_loss" in row] == [6, 13, 20, 27, 34, 41, 46]


def test_a_run_that_was_killed_is_exported_up_to_its_last_whole_line(run):
    lines = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (run / "metrics.jsonl").write_bytes(b"".join(lines[:20]) + lines[20][:-3])
    times = (run / "timings.jsonl").read_bytes().splitlines(keepends=True)
    (run / "timings.jsonl").write_bytes(b"".join(times[:19]))
    (run / "status.json").write_text('{"state": "running"}')
    folder, printed = exported(run, "--to", "csv")
    assert printed["json"] == "20 iterations, 0 to 19"
    assert len((folder / "metrics.csv").read_text().splitlines()) == 21


# What a run does with its journal; without torch it begins at once.
WRITING = """
import itertools, sys, time
from pathlib import Path
from hookline import Events, Run, Scalar
from hookline_json import JSONWriter

writer = JSONWriter()
writer.open(Run(Path(sys.argv[1]), "hello", "1", generation=2))
for i in itertools.count():
    writer.write([Events(i, 1e9 + i, {"a": Scalar(i / 7), "t": Scalar(i / 3, volatile=True)})])
    time.sleep(0.001)
"""


def test_a_run_that_goes_on_is_exported_and_so_is_what_is_left_when_it_is_killed(run, tmp_path):
    def table(name):
        done = hookline("export", run, "--to", "csv", "--out", name)
        assert done.exit_code == 0, done.output
        with open(f"{name}/metrics.csv", newline="") as file:
            return [(int(row["iteration"]), float(row["a"]), row["t"]) for row in csv.DictReader(file)]

    with subprocess.Popen([sys.executable, "-c", WRITING, str(run)]) as process:
        try:
            num_lines, deadline = 0, time.monotonic() + 60
            while num_lines < 60 and time.monotonic() < deadline:
                time.sleep(0.01)
                with suppress(FileNotFoundError):  # what was there is being moved aside
                    num_lines = (run / "metrics.jsonl").read_bytes().count(b"\n")
            live = table("live")
            assert process.poll() is None
        finally:
            process.kill()
    killed = table("killed")
    assert len(killed) >= len(live) > 47
    assert killed[: len(live) - 1] == live[:-1]  # of the last one there may have been no timings yet
    assert [row[:2] for row in killed] == [(i, i / 7) for i in range(len(killed))]


def test_a_writer_of_ones_own_can_be_told(run, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from hookline import EventWriter\n"
        "class Mine(EventWriter):\n"
        "    def open(self, run): self.path = run.dir / 'sum.txt'\n"
        "    def write(self, events): self.path.write_text(str(sum(len(e.scalars) for e in events)))\n"
    )
    done = hookline("export", run, "--to", "./mine.py:Mine", "--out", "sums")
    assert done.exit_code == 0, done.output
    num = sum(len(line) - 1 for line in records(run / "metrics.jsonl"))
    num += sum(len(line) - 2 for line in records(run / "timings.jsonl"))
    assert Path("sums/sum.txt").read_text() == str(num)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere", "--to", "csv"], "a run directory or a path in one"),
        (["RUN"], "Missing option '--to'"),
        (["RUN", "--to", "tensorbord"], "Did you mean 'tensorboard'"),
        (["RUN", "--to", "ema"], "It is one of the hooks"),
        (["RUN", "--to", "nobody"], "expected an installed plugin"),
        (["RUN", "--to", "tensorboard", "every_valeu=true"], "Did you mean 'every_value'"),
        (["RUN", "--to", "tensorboard", "every_value=maybe"], "writers.tensorboard.every_value"),
        (["RUN", "--to", "tensorboard", "every_value"], "expected KEY=VALUE"),
        (["RUN", "--to", "csv", "period=-1"], "a whole number >= 0"),
        (["RUN", "--to", "csv", "use=json"], "expected an option of csv"),
        (["RUN", "--to", "csv", "--out", "RUN"], "expected a new or empty folder"),
        (["RUN", "--to", "csv", "--out", "RUN/config.yaml"], "expected a new or empty folder"),
    ],
)
def test_a_wrong_input_is_one_message(run, arguments, said):
    before = contents(run)
    done = hookline("export", *(argument.replace("RUN", str(run)) for argument in arguments))
    assert done.exit_code == 2
    assert said in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert contents(run) == before


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("metrics.jsonl", '{"iteration": 3}\n7\n', "metrics.jsonl:2: expected a line of the journal"),
        ("plugins.json", "{}", "plugins.json: expected the plugins of a run"),
        ("plugins.json", '{"writers": []}', "expected a journal among its writers, got nothing"),
        ("config.yaml", "run: {name: [", "config.yaml"),
        ("metrics.hints.json", "7", "metrics.hints.json: expected true or false"),
        ("metrics.jsonl", "", "expected at least one iteration"),
    ],
)
def test_a_run_that_is_damaged_is_one_message(run, name, text, said):
    (run / "timings.jsonl").write_text("")
    (run / name).write_text(text)
    done = hookline("export", run, "--to", "csv")
    assert done.exit_code == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
