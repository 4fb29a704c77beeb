"""What `auto` means: the newest run that is not complete, unless somebody trains in it."""

from __future__ import annotations

import json

import pytest

from hookline import RunError
from hookline.rundir import RunDir

DAYS = ("20260101-000000-aaaaaa", "20260102-000000-bbbbbb", "20260103-000000-cccccc")


@pytest.fixture
def make(tmp_path):
    """Return a function that makes a run directory of a state, ``latest`` pointing to the last one made."""

    def run(state, day, name="x"):
        path = tmp_path / name / day
        path.mkdir(parents=True)
        if state is not None:
            (path / "status.json").write_text(json.dumps({"state": state, "pid": 7, "host": "there"}))
        link = path.parent / "latest"
        link.unlink(missing_ok=True)
        link.symlink_to(day)
        return RunDir(path)

    return run


@pytest.mark.parametrize("state", ["running", "paused", "failed", None])
def test_every_state_but_the_complete_ones_is_unfinished(make, tmp_path, state):
    found = make(state, DAYS[0])
    assert RunDir.unfinished(tmp_path, "x") == found


@pytest.mark.parametrize("state", ["finished", "stopped"])
def test_a_complete_run_is_none(make, tmp_path, state):
    make(state, DAYS[0])
    assert RunDir.unfinished(tmp_path, "x") is None


def test_the_newest_unfinished_one_counts_and_those_of_other_names_do_not(make, tmp_path):
    make("failed", DAYS[0])
    wanted = make("paused", DAYS[1])
    make("finished", DAYS[2])
    make("paused", DAYS[2], name="y")
    assert RunDir.unfinished(tmp_path, "x") == wanted
    assert RunDir.unfinished(tmp_path / "nowhere", "x") is None


def test_the_link_counts_where_the_clock_was_set_back(make, tmp_path):
    make("paused", DAYS[2])
    later = make("paused", DAYS[0])
    assert RunDir.unfinished(tmp_path, "x") == later


def test_a_run_whose_status_cannot_be_read_is_unfinished(make, tmp_path):
    run = make("finished", DAYS[0])
    (run.path / "status.json").write_text('{"sta')
    assert RunDir.unfinished(tmp_path, "x") == run


def test_a_name_that_is_a_path_is_refused(tmp_path):
    with pytest.raises(RunError, match=r"run\.name: expected .* got '\.\./x'"):
        RunDir.unfinished(tmp_path, "../x")


def test_to_ask_whether_a_run_is_free_changes_nothing_in_it(make):
    run = make("paused", DAYS[0])
    run.check_free()
    assert [path.name for path in run.path.iterdir()] == ["status.json"]


def test_checkpoints_are_looked_for_not_their_folder(make):
    run = make("paused", DAYS[0])
    run.checkpoints.mkdir()
    (run.checkpoints / ".tmp-iter_0000003-00000000").mkdir()
    assert not run.has_checkpoints
    (run.checkpoints / "iter_0000003").mkdir()
    assert run.has_checkpoints


def test_latest_is_rather_a_run_with_checkpoints(make, tmp_path):
    run = make("paused", DAYS[0])
    (run.checkpoints / "iter_0000003").mkdir(parents=True)
    make("failed", DAYS[1]).checkpoints.mkdir()
    assert RunDir.resumable("latest", tmp_path, "x") == run
