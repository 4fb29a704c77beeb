"""Which run and checkpoint to go on from: what is found, what is begun anew, and what is refused."""

from __future__ import annotations

import logging

import pytest

from hookline import CheckpointError, RunError, checkpoint, hooks, load_config
from hookline.resuming import to_resume
from hookline.rundir import RunDir


@pytest.fixture
def config(tmp_path):
    return load_config(
        {
            "run": {"name": "x", "dir": str(tmp_path)},
            "model": {"target": "torch.nn.Linear"},
            "optimizer": {"target": "torch.optim.SGD"},
            "train": {"max_iter": 9},
        }
    )


@pytest.fixture
def run(tmp_path):
    return RunDir.create(tmp_path, "x")


def saved(run, *iterations):
    return [checkpoint.save(run.checkpoints, number, {"number": number}) for number in iterations]


def test_auto_begins_a_new_run_where_none_is_unfinished(config, run, caplog):
    caplog.set_level(logging.INFO, "hookline")
    run.write_status("finished")
    assert to_resume("auto", config, []) == (None, None)
    assert "this is a new one" in caplog.text


def test_auto_begins_a_run_again_that_has_saved_nothing(config, run, caplog):
    caplog.set_level(logging.INFO, "hookline")
    assert to_resume("auto", config, []) == (run.path, None)
    assert "has no checkpoint yet" in caplog.text


@pytest.mark.parametrize("spec", ["auto", "latest"])
def test_the_newest_checkpoint_of_the_newest_run_is_meant(config, run, spec):
    *_, newest = saved(run, 3, 6)
    assert to_resume(spec, config, [hooks.Checkpoint()]) == (run.path, newest)


def test_latest_passes_over_a_later_run_that_saved_nothing(config, tmp_path):
    runs = []
    for day in "123":
        runs.append(RunDir(tmp_path / "x" / f"2026010{day}-000000-aaaaaa"))
        runs[-1].path.mkdir(parents=True)
    (newest,) = saved(runs[1], 3)
    assert to_resume("latest", config, []) == (runs[1].path, newest)


def test_a_checkpoint_that_is_named_is_the_one(config, run):
    first, _ = saved(run, 3, 6)
    assert to_resume(str(first), config, []) == (run.path, first)


def test_auto_looks_nowhere_but_in_run_directories(config):
    saving = hooks.Checkpoint(dir="elsewhere")
    saving.name = "checkpoint"
    with pytest.raises(RunError, match=r"checkpoint\.dir.*no other folder than the run's.*'elsewhere'"):
        to_resume("auto", config, [saving])


def test_a_capsule_is_no_checkpoint(config, run):
    capsule = checkpoint.save(run.path / "capsules", 3, {"capsule": {}})
    with pytest.raises(CheckpointError, match=r"got 'a capsule'\. Name the run instead"):
        to_resume(str(capsule), config, [])
