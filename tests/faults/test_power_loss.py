"""After a loss of power at any instant, the last checkpoint that was reported is there, or a newer whole one."""

from __future__ import annotations

import os

import job
import pytest
from disk_model import Link, Mark, Recorder, Rename, Stage, Sync, Truncate, Unlink, Write, crashes
from power_loss import STORIES, recorded, survey, survey_again
from whole_run import TrainedRun, interrupted_runs

END = Mark("end")
LOADS = "the last checkpoint that was reported loads, or a newer whole one"
CHECKPOINTS = ("saves in a row", "an iteration again", "a run gone back")


@pytest.fixture
def folder():
    """Return a folder in memory: a true fsync of each file would take the test's time and prove nothing."""
    with job.place() as path:
        yield path


@pytest.fixture
def record_found(record):
    """Return a function that writes down what was looked at, and in how much of it nothing was wrong."""

    def write(fault, found, outcome):
        record(fault, trials=found.num_states, passed=found.num_states - len(found.failures), outcome=outcome)

    return write


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_no_checkpoint_that_was_reported_is_lost(name, folder, size, record_found):
    story = STORIES[name]
    recorder = recorded(story, folder / "run")
    found = survey(story, recorder, Stage(folder / "stage"), limit=size(5, 600))
    record_found(f"loss of power: {name}", found, LOADS)
    assert found.failures == []
    assert found.num_states > size(300, 2000)


def test_nor_when_the_power_is_lost_again_in_the_next_process(folder, size, record_found):
    story = STORIES["an iteration again"]
    recorder = recorded(story, folder / "run")
    stage = Stage(folder / "stage")
    found = survey_again(story, recorder, stage, limit=size(2, 4), every=size(60, 12), path=folder / "again")
    record_found("loss of power, twice", found, LOADS)
    assert found.failures == []
    assert found.num_states > size(200, 2000)


@pytest.mark.parametrize("name", [name for name in STORIES if name not in CHECKPOINTS])
def test_a_small_file_and_the_journal_are_as_they_were_reported(name, folder, size, record_found):
    story = STORIES[name]
    recorder = recorded(story, folder / "run")
    found = survey(story, recorder, Stage(folder / "stage"), limit=size(30, 300))
    record_found(f"loss of power: {name}", found, "what was reported is there, whole")
    assert found.failures == []
    assert found.num_states > 10


@pytest.mark.parametrize("background", [False, True], ids=["saved at once", "saved beside training"])
def test_a_run_goes_on_from_whatever_is_there_as_if_nothing_had_happened(
    background, folder, size, record_found
):
    """The run of a trainer with its journal, resumed and compared with one that nobody disturbed."""
    trained = TrainedRun(folder / "run", background)
    found = interrupted_runs(trained, folder / "stage", every=size(2500, 40))
    record_found(
        f"loss of power in a run, {'background' if background else 'foreground'} saving",
        found,
        "resumed: same weights to the bit, same metrics.jsonl to the byte",
    )
    assert found.failures == []
    assert found.num_states > size(5, 200)


def test_a_run_of_the_command_line_goes_on_by_itself_whatever_is_there(server, size, record_found):
    found = server.call("whole_job:interrupted_jobs", size(9000, 150))
    record_found(
        "loss of power in a run of the command line",
        found,
        "`--resume auto` ends the same: weights to the bit, metrics to the byte, one run directory",
    )
    assert not found.failures, "\n\n".join(found.failures)
    assert found.num_states > size(3, 60)


class TestTheModel:
    """The model of the disk: what it takes down, and which states it derives."""

    def test_a_recording_has_every_change_in_order(self, folder):
        run = folder / "run"
        run.mkdir()
        with Recorder(run) as recorder:
            (run / "a").write_bytes(b"one")
            os.mkdir(run / "d")
            os.rename(run / "a", run / "d" / "b")
            os.truncate(run / "d" / "b", 1)
            recorder.mark("here", 1)
            descriptor = os.open(run / "d", os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
            os.unlink(run / "d" / "b")
        assert recorder.operations[: recorder.num_given] == [Sync(0)]
        operations = recorder.operations[recorder.num_given :]
        kinds = [type(operation).__name__ for operation in operations]
        assert kinds == ["Link", "Write", "Link", "Rename", "Truncate", "Mark", "Sync", "Unlink"]
        made, written, folder_made, moved, cut, _, synced, removed = operations
        assert (made.name, made.is_directory, folder_made.is_directory) == ("a", False, True)
        assert (written.node, written.data) == (made.node, b"one")
        assert (moved.name, moved.to_name, moved.to_directory) == ("a", "b", folder_made.node)
        assert (cut.size, synced.node, removed.directory) == (1, folder_made.node, folder_made.node)

    def test_what_was_not_synced_may_be_there_or_not_or_in_part(self):
        trees = self.trees([Link(0, "f", 1, False), Write(1, 0, b"abcd")])
        assert {} in trees
        contents = {tree["f"] for tree in trees if tree}
        assert contents == {b"", b"ab", bytes(4), b"\0\0cd", b"abcd"}

    def test_a_synced_file_may_be_there_without_its_name_but_not_the_other_way_round(self):
        trees = self.trees([Link(0, "f", 1, False), Write(1, 0, b"abcd"), Sync(1)], at_the_end=True)
        assert trees == [{}, {"f": b"abcd"}]
        trees = self.trees([Link(0, "f", 1, False), Write(1, 0, b"abcd"), Sync(0)], at_the_end=True)
        assert {} not in trees
        assert {"f": b""} in trees

    def test_a_rename_is_whole_or_not_at_all(self):
        made = [Link(0, "new", 1, False), Link(0, "old", 2, False), Write(1, 0, b"n"), Write(2, 0, b"o")]
        done = [*made, Sync(1), Sync(2), Sync(0), Rename(0, "new", 0, "old", 1, False)]
        trees = self.trees(done, at_the_end=True)
        assert trees == [{"new": b"n", "old": b"o"}, {"old": b"n"}]

    def test_a_link_is_there_with_what_it_leads_to_or_not_at_all(self, folder):
        (folder / "run").mkdir()
        with Recorder(folder / "run") as recorder:
            os.symlink("there", folder / "run" / "latest")
        trees = [crash.tree for crash in crashes(recorder.operations, limit=1000, num_given=1)]
        assert trees == [{}, {}, {"latest": "there"}]
        with Stage(folder / "stage").showing(trees[-1]) as stage:
            assert os.readlink(stage / "latest") == "there"

    def test_names_are_durable_in_any_order(self):
        done = [Link(0, "a", 1, True), Sync(0), Unlink(0, "a"), Link(0, "b", 2, True)]
        assert self.trees(done, at_the_end=True) == [{"a": None}, {"a": None, "b": None}, {}, {"b": None}]

    def test_a_cut_that_was_synced_stays_cut(self):
        done = [Link(0, "f", 1, False), Write(1, 0, b"abcd"), Sync(0), Sync(1), Truncate(1, 2)]
        assert self.trees(done, at_the_end=True) == [{"f": b"abcd"}, {"f": b"ab"}]
        assert self.trees([*done, Sync(1)], at_the_end=True) == [{"f": b"ab"}]

    @staticmethod
    def trees(operations, at_the_end=False):
        states = list(crashes(operations, limit=1000))
        if not at_the_end:
            return [crash.tree for crash in states]
        # Those of the last instant are those that a mark at the end adds.
        return [crash.tree for crash in crashes([*operations, END], limit=1000) if END in crash.marks]
