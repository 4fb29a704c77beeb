"""Which run and checkpoint to go on from: what is found, what is begun anew, and what is refused."""

from __future__ import annotations

import logging

import pytest

from hookline import CheckpointError, RunError, checkpoint, load_config, resuming
from hookline.resuming import Resumable, to_resume
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


@pytest.fixture(autouse=True)
def no_restart(monkeypatch):
    for name in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("state", "how"), [("finished", "latest and a higher train.max_iter."), ("stopped", "latest.")]
)
def test_auto_begins_a_new_run_after_one_that_is_done_and_says_how_to_train_that_on(
    config, run, caplog, state, how
):
    caplog.set_level(logging.INFO, "hookline")
    run.write_status(state, iteration=9)
    assert to_resume("auto", config) == Resumable()
    assert f"{run.path} is {state} at iteration 9: this is a new run." in caplog.text
    assert caplog.text.rstrip().endswith(f"--resume {how}")


@pytest.mark.parametrize("by", ["SLURM", "TORCHELASTIC"])
@pytest.mark.parametrize("state", ["finished", "stopped"])
def test_a_restart_of_the_job_that_finished_a_run_has_nothing_left_to_do(
    config, run, caplog, monkeypatch, by, state
):
    caplog.set_level(logging.INFO, "hookline")
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    run.write_status(state, iteration=9)
    assert to_resume("auto", config) == Resumable()
    monkeypatch.setenv(f"{by}_RESTART_COUNT", "0")
    assert to_resume("auto", config) == Resumable()
    monkeypatch.setenv(f"{by}_RESTART_COUNT", "1")
    assert to_resume("auto", config) == Resumable(run.path, is_done=True)
    assert f"{state} at iteration 9: nothing is left to do." in caplog.text
    (last,) = saved(run, 8)
    assert to_resume("auto", config) == Resumable(run.path, last, is_done=True)


def test_a_restart_does_not_take_what_another_job_finished_for_its_own(config, run, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "41")
    run.write_status("finished")
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert to_resume("auto", config) == Resumable()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    monkeypatch.setattr(resuming, "seconds_since_launch", lambda: 100.0)
    assert to_resume("auto", config).is_done
    run.write_json("status.json", {**run.status, "time": "2026-01-01T00:00:00+00:00"})
    assert to_resume("auto", config) == Resumable()
    run.write_json("status.json", {"state": "finished"})
    assert to_resume("auto", config) == Resumable()


def test_auto_begins_a_new_run_where_there_is_none(config, caplog):
    caplog.set_level(logging.INFO, "hookline")
    assert to_resume("auto", config) == Resumable()
    assert "No run of 'x' to resume in" in caplog.text


def test_auto_begins_a_run_again_that_has_saved_nothing(config, run, caplog):
    caplog.set_level(logging.INFO, "hookline")
    assert to_resume("auto", config) == Resumable(run.path)
    assert "has no checkpoint yet" in caplog.text


@pytest.mark.parametrize("spec", ["auto", "latest"])
def test_the_newest_checkpoint_of_the_newest_run_is_meant(config, run, spec):
    *_, newest = saved(run, 3, 6)
    assert to_resume(spec, config) == Resumable(run.path, newest)


def test_latest_passes_over_a_later_run_that_saved_nothing(config, tmp_path):
    runs = []
    for day in "123":
        runs.append(RunDir(tmp_path / "x" / f"2026010{day}-000000-aaaaaa"))
        runs[-1].path.mkdir(parents=True)
    (newest,) = saved(runs[1], 3)
    assert to_resume("latest", config) == Resumable(runs[1].path, newest)


def test_a_checkpoint_that_is_named_is_the_one(config, run):
    first, _ = saved(run, 3, 6)
    assert to_resume(str(first), config) == Resumable(run.path, first)


def put_away(run, kind):
    if kind != "nothing there":
        (run.path / "away").mkdir()
    if kind == "a link":
        run.checkpoints.symlink_to(run.path / "away" / "mount")
    elif kind == "an empty folder":
        run.checkpoints.mkdir()


SAVING = {"hooks": [{"use": "progress"}, {"use": "checkpoint"}]}


@pytest.mark.parametrize(
    ("state", "iteration", "kind"),
    [
        ("running", 0, "a link"),
        ("running", 6, "nothing there"),
        ("running", 6, "an empty folder"),
        ("paused", 6, "nothing there"),
        ("paused", 6, "an empty folder"),
        ("failed", 6, "nothing there"),
    ],
)
def test_auto_does_not_begin_again_what_has_lost_sight_of_its_checkpoints(
    config, run, state, iteration, kind
):
    run.write_status(state, iteration=iteration)
    run.write_json("plugins.json", SAVING)
    put_away(run, kind)
    with pytest.raises(RunError, match=f"checkpoints: expected the checkpoints of an .* got '{kind}"):
        to_resume("auto", config)


@pytest.mark.parametrize(
    ("state", "iteration", "kind", "plugins"),
    [
        ("running", 0, "nothing there", SAVING),
        ("failed", 3, "an empty folder", SAVING),
        ("paused", 3, "nothing there", {"hooks": []}),
        ("paused", 3, "nothing there", {}),
        ("paused", None, "nothing there", SAVING),
    ],
)
def test_a_run_that_can_have_saved_nothing_begins_again(config, run, state, iteration, kind, plugins):
    run.write_status(state, iteration=iteration)
    run.write_json("plugins.json", plugins)
    put_away(run, kind)
    assert to_resume("auto", config) == Resumable(run.path)


def test_a_capsule_is_no_checkpoint(config, run):
    capsule = checkpoint.save(run.path / "capsules", 3, {"capsule": {}})
    with pytest.raises(CheckpointError, match=r"got 'a capsule'\. Name the run instead"):
        to_resume(str(capsule), config)


@pytest.mark.parametrize("spec", ["auto", "latest"])
def test_a_start_while_the_checkpoint_is_chosen_counts_as_a_later_one(config, run, monkeypatch, spec):
    (path,) = saved(run, 3)

    def overtaken(place):
        with run.held():
            return path

    with run.held() as before:
        pass
    monkeypatch.setattr(checkpoint, "resolve", overtaken)
    assert to_resume(spec, config) == Resumable(run.path, path, generation=before)
    assert run.generation == before + 1
