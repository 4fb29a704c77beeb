"""Which run is meant: by a path, as the newest one, or as the newest that is not complete."""

import errno
import json
import os
from pathlib import Path

import pytest

from hookline import runs
from hookline.errors import RunError
from hookline.rundir import RunDir

A, B, C = "20260101-000000-aaaaaa", "20260102-000000-bbbbbb", "20260103-000000-cccccc"


@pytest.fixture
def run(tmp_path):
    return RunDir.create(tmp_path / "runs", "char-gpt")


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


def made(parent, name, *ids):
    for run_id in ids:
        (parent / name / run_id).mkdir(parents=True)
    return [parent / name / run_id for run_id in ids]


def test_a_renamed_run_is_found(tmp_path, run):
    run.write_status("running")
    renamed = run.path.rename(run.path.parent / "my best run")
    assert runs.find(str(renamed), tmp_path).path == renamed


def test_where_links_are_impossible_latest_is_a_file_that_is_followed(tmp_path, monkeypatch):
    def impossible(*args, **kwargs):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "symlink", impossible)
    created = RunDir.create(tmp_path / "runs", "x")
    assert runs.find("latest", tmp_path / "runs", "x") == created
    assert runs.find(str(created.path.parent / "latest"), tmp_path / "elsewhere") == created


@pytest.mark.parametrize(
    "below",
    [".", "checkpoints", "checkpoints/iter_0000001", "checkpoints/latest", "log.txt", "../latest"],
)
def test_find_takes_a_path_of_a_run_or_in_one(tmp_path, run, below):
    (run.checkpoints / "iter_0000001").mkdir(parents=True)
    (run.checkpoints / "latest").write_text("iter_0000001\n")
    run.log.touch()
    assert runs.find(str(run.path / below), tmp_path / "elsewhere") == run


def test_find_refuses_what_is_not_there_in_a_run(tmp_path, run):
    with pytest.raises(RunError, match="got 'nothing there'"):
        runs.find(str(run.checkpoints / "iter_0000001"), tmp_path)


def test_find_does_not_climb_to_a_strangers_directory(tmp_path):
    (tmp_path / "status.json").write_text("{}")
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    with pytest.raises(RunError, match="latest, a run directory or a path in one"):
        runs.find(str(tmp_path / "a" / "b" / "c"), tmp_path)


def test_latest_is_what_the_link_says_then_the_highest_id(tmp_path):
    a, b = made(tmp_path, "x", A, B)
    assert runs.find("latest", tmp_path, "x").path == b
    (tmp_path / "x" / "latest").symlink_to(A)
    assert runs.find("latest", tmp_path, "x").path == a
    a.rmdir()
    assert runs.find("latest", tmp_path, "x").path == b


def test_latest_of_all_names_is_the_newest(tmp_path):
    made(tmp_path, "x", A, C)
    made(tmp_path, "y", B)
    assert runs.find("latest", tmp_path).id == C
    assert runs.find("latest", tmp_path, "y").id == B


def test_a_run_that_is_not_there_is_an_error_that_names_those_there(tmp_path):
    made(tmp_path, "char-gpt", A)
    made(tmp_path, "other", B)
    shown = f"char-gpt/{A}, other/{B}"
    with pytest.raises(RunError, match=f"got 'nothing there'. Newest runs in .*: {shown}"):
        runs.find(str(tmp_path / "char-gpt" / B), tmp_path)
    with pytest.raises(RunError, match=f"got 'a directory'. Newest runs in .*/char-gpt: char-gpt/{A}"):
        runs.find(str(tmp_path / "char-gpt"), tmp_path)
    with pytest.raises(RunError, match=f"{shown}. Did you mean 'char-gpt'"):
        runs.find("latest", tmp_path, "char-gtp")


@pytest.mark.parametrize(
    ("spec", "fix"),
    [
        ("last", "Did you mean 'latest'?"),
        ("atuo", "Did you mean 'auto'?"),
        ("best", "Name a checkpoint by its path, such as there/…/checkpoints/best."),
        ("nowhere/3", "there has no runs."),
    ],
)
def test_a_wrong_word_is_told_the_right_ones(spec, fix):
    with pytest.raises(RunError) as caught:
        runs.resumable(spec, Path("there"), "x")
    said = str(caught.value)
    assert said.startswith(f"--resume {spec}: expected auto, latest, a run directory or a path in one, got")
    assert said.endswith(fix)


def test_a_checkpoint_that_is_not_in_its_run_is_told_those_that_are(tmp_path, run):
    for name in ("iter_0000003", "iter_0000001", ".tmp-iter_0000005-aa"):
        (run.checkpoints / name).mkdir(parents=True)
    (run.checkpoints / "latest").touch()
    (run.checkpoints / "run").symlink_to(run.path)  # as in a folder of checkpoints elsewhere
    for path in (run.checkpoints / "iter_0000002", run.path / "iter_0000003"):
        with pytest.raises(RunError, match=r"there'\. There is: iter_0000001, iter_0000003, latest\.$"):
            runs.find(str(path), tmp_path)


def test_a_name_without_runs_is_not_told_itself(tmp_path):
    made(tmp_path, "lab2", A)
    (tmp_path / "lab").mkdir()
    with pytest.raises(RunError, match="Did you mean 'lab2'"):
        runs.find("latest", tmp_path, "lab")


def test_only_the_newest_five_are_named(tmp_path):
    made(tmp_path, "x", *(f"2026010{day}-000000-aaaaaa" for day in range(1, 9)))
    (tmp_path / "x" / "latest").symlink_to("20260108-000000-aaaaaa")
    with pytest.raises(RunError) as caught:
        runs.find("nothing", tmp_path)
    assert str(caught.value).count("20260108") == 1
    assert [day for day in range(1, 9) if f"2026010{day}" in str(caught.value)] == [4, 5, 6, 7, 8]


@pytest.mark.parametrize("parent", ["empty", "nowhere", "file"])
def test_no_runs_at_all_is_said(tmp_path, parent):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for name in ("x", None):
        with pytest.raises(RunError, match=rf"expected a run, got nothing\. .*/{parent} has no runs"):
            runs.find("latest", tmp_path / parent, name)


@pytest.mark.parametrize("state", ["running", "paused", "failed", None])
def test_every_state_but_the_complete_ones_is_unfinished(make, tmp_path, state):
    found = make(state, A)
    assert runs.unfinished(tmp_path, "x") == found


@pytest.mark.parametrize("state", ["finished", "stopped"])
def test_a_complete_run_is_none(make, tmp_path, state):
    make(state, A)
    assert runs.unfinished(tmp_path, "x") is None


def test_the_newest_unfinished_one_counts_and_those_of_other_names_do_not(make, tmp_path):
    make("failed", A)
    wanted = make("paused", B)
    make("finished", C)
    make("paused", C, name="y")
    assert runs.unfinished(tmp_path, "x") == wanted
    assert runs.unfinished(tmp_path / "nowhere", "x") is None


def test_the_link_counts_where_the_clock_was_set_back(make, tmp_path):
    make("paused", C)
    later = make("paused", A)
    assert runs.unfinished(tmp_path, "x") == later


def test_a_run_whose_status_cannot_be_read_is_unfinished(make, tmp_path):
    run = make("finished", A)
    (run.path / "status.json").write_text('{"sta')
    assert runs.unfinished(tmp_path, "x") == run


def test_a_name_that_is_a_path_is_refused(tmp_path):
    with pytest.raises(RunError, match=r"run\.name: expected .* got '\.\./x'"):
        runs.unfinished(tmp_path, "../x")


def test_latest_is_rather_a_run_with_checkpoints(make, tmp_path):
    run = make("paused", A)
    (run.checkpoints / "iter_0000003").mkdir(parents=True)
    make("failed", B).checkpoints.mkdir()
    assert runs.resumable("latest", tmp_path, "x") == run


def test_a_link_that_leads_to_itself_is_no_run(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(RunError, match="loop: expected latest, a run directory"):
        runs.find(str(tmp_path / "loop"), tmp_path)


# ---- checkpoints elsewhere


@pytest.fixture
def linked(tmp_path, run):
    """Return a run and the folder elsewhere that holds its checkpoints."""
    runs.link_checkpoints(run, tmp_path / "disk", "hooks.checkpoint")
    return run, tmp_path / "disk" / run.name / run.id


def test_a_run_has_a_folder_of_its_own_elsewhere_which_leads_back(tmp_path, linked):
    run, folder = linked
    assert run.checkpoints.readlink() == folder
    (folder / "iter_0000003").mkdir()
    assert run.has_checkpoints
    runs.link_checkpoints(run, tmp_path / "disk", "hooks.checkpoint")
    for path in (run.checkpoints / "iter_0000003", run.checkpoints, folder, folder / "iter_0000003"):
        assert runs.find(str(path), tmp_path) == run
    with pytest.raises(RunError, match="has no runs"):
        runs.find("latest", tmp_path / "disk", run.name)


def test_a_run_that_was_moved_is_led_back_to_when_it_trains_again(tmp_path, linked):
    run, folder = linked
    moved = RunDir(run.path.rename(tmp_path / run.id))
    with pytest.raises(RunError, match="expected latest, a run directory or a path in one"):
        runs.find(str(folder), tmp_path)
    runs.link_checkpoints(moved, tmp_path / "disk", "hooks.checkpoint")
    assert runs.find(str(folder), tmp_path) == moved


def test_a_run_keeps_its_checkpoints_where_they_are_and_no_other_gets_them(tmp_path, linked):
    run, folder = linked
    with pytest.raises(RunError, match=rf"checkpoint\.dir: expected .* alone, got .*has them in {folder}\."):
        runs.link_checkpoints(run, tmp_path / "other", "hooks.checkpoint")
    copy = RunDir(tmp_path / "copy" / run.id)
    copy.path.mkdir(parents=True)
    copy.checkpoints.symlink_to(folder)
    with pytest.raises(RunError, match=rf"{folder} is that of {run.path}\."):
        runs.link_checkpoints(copy, tmp_path / "disk", "hooks.checkpoint")
    inside = RunDir.create(tmp_path / "runs", "char-gpt")
    with pytest.raises(RunError, match="That is where its runs are"):
        runs.link_checkpoints(inside, tmp_path / "runs", "hooks.checkpoint")
    inside.checkpoints.mkdir()
    with pytest.raises(RunError, match=rf"It has them in {inside.checkpoints}\."):
        runs.link_checkpoints(inside, tmp_path / "disk", "hooks.checkpoint")


def test_a_folder_elsewhere_that_cannot_be_made_is_an_error(tmp_path, run):
    (tmp_path / "file").touch()
    with pytest.raises(
        RunError, match="checkpoint.dir .*file: expected a folder with links .* 'File exists'"
    ):
        runs.link_checkpoints(run, tmp_path / "file", "hooks.checkpoint")
