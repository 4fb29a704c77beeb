"""Every example runs, as its reader would run it."""

from __future__ import annotations

import importlib
import json
import runpy
import shutil
from importlib.metadata import entry_points
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_plain_loop_learns_and_writes_every_iteration(here, capsys):
    example = runpy.run_path(str(EXAMPLES / "plain_loop.py"))
    assert example["main"]() < 1e-6
    assert "160 iterations" in capsys.readouterr().out
    rows = (here / "runs/plain_loop/metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["iteration"] for row in rows] == list(range(160))


def test_the_plain_loop_is_read_in_a_minute():
    loop = (EXAMPLES / "plain_loop.py").read_text().partition("def main")[2]
    assert len(loop.splitlines()) < 40


def test_the_custom_trainer_trains_evaluates_and_saves(here, capsys):
    runpy.run_path(str(EXAMPLES / "custom_trainer.py"), run_name="__main__")
    output = capsys.readouterr().out
    assert "finished at iteration 200" in output
    (run,) = (path for path in (here / "runs/line").glob("2*"))
    assert (run / "checkpoints/iter_0000199/model.safetensors").exists()
    assert "mean_error" in (run / "metrics.jsonl").read_text()


def test_the_custom_trainer_can_be_named_in_a_config(project):
    shutil.copy(EXAMPLES / "custom_trainer.py", project.path)
    (project.path / "line.yaml").write_text(
        "run: {name: line}\ntrainer: {target: ./custom_trainer.py:LineTrainer}\n"
        "optimizer: {target: torch.optim.SGD, lr: 0.1}\ntrain: {max_iter: 3, device: cpu}\n"
    )
    result = project.hookline("train", "line.yaml")
    assert result.exit_code == 0, result.output
    assert "finished at iteration 3" in result.output


def test_the_hello_hook_is_enabled_by_its_path(project):
    result = project.hookline("train", EXAMPLES / "hello_hook/config.yaml")
    assert result.exit_code == 0, result.output
    for iteration in (0, 100, 200):
        assert f"Hello at iteration {iteration}!" in result.output


def test_the_plugin_package_gives_a_hook_and_a_writer(project, install, monkeypatch):
    package = EXAMPLES / "plugin_package"
    monkeypatch.syspath_prepend(package / "src")
    install(
        "hookline-hello",
        None,
        hooks=["hello = hookline_hello:Hello"],
        writers=["count = hookline_hello:Count"],
    )
    declared = (package / "pyproject.toml").read_text()
    assert 'hello = "hookline_hello:Hello"' in declared
    assert 'count = "hookline_hello:Count"' in declared
    result = project.hookline(
        "train", "run.yaml", "hooks+={hello: {greeting: Moin, period: 6}}", "writers+=count"
    )
    assert result.exit_code == 0, result.output
    assert "Moin after 6 iterations!" in result.output
    assert int((project.runs()[0] / "count.txt").read_text()) > 12


def test_the_main_job_runs_in_small_and_samples_text(project):
    result = project.hookline("train", EXAMPLES / "char_gpt/config.yaml", "--smoke")
    assert result.exit_code == 0, result.output
    assert "corpus train:" in result.output
    assert "sample at iteration 2" in result.output
    (run,) = (project.path / "runs/char-gpt-smoke").glob("2*")
    first = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    assert 4.3 < first["total_loss"] < 4.8
    assert "sha256" in (run / "log.txt").read_text()
    assert list((run / "tensorboard").iterdir())


def test_every_entry_point_of_every_installed_part_can_be_loaded():
    for group in ("hookline.hooks", "hookline.writers"):
        points = entry_points(group=group)
        assert points
        for point in points:
            assert point.load().__doc__, point


def test_examples_import_public_names_only():
    hookline = importlib.import_module("hookline")
    for path in EXAMPLES.rglob("*.py"):
        for line in path.read_text().splitlines():
            assert not line.startswith("from hookline."), f"{path}: {line}"
            if line.startswith("from hookline import"):
                names = line.partition("import")[2].split(",")
                assert {name.strip() for name in names} <= set(hookline.__all__), path
