"""A run's directory: where it is, how it is found again, and files that are whole or not there."""

import errno
import json
import logging
import os
import random
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from hookline import rundir
from hookline.errors import RunError
from hookline.run_logs import attach_log, collected_logs
from hookline.rundir import RunDir


@pytest.fixture
def run(tmp_path):
    return RunDir.create(tmp_path / "runs", "char-gpt")


def refuse(error):
    def fail(*args, **kwargs):
        raise error

    return fail


class TestCreate:
    def test_the_directory_is_named_by_name_time_and_slug(self, tmp_path, run):
        assert run.path.is_dir()
        assert run.path.parent == tmp_path / "runs" / "char-gpt"
        assert re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{6}", run.id)
        assert (run.name, run.id) == ("char-gpt", run.path.name)
        assert run.checkpoints == run.path / "checkpoints"
        assert run.log == run.path / "log.txt"
        assert run.summary == run.path / "summary.json"

    def test_latest_beside_it_is_a_relative_link_to_the_newest(self, tmp_path, run):
        latest = tmp_path / "runs" / "char-gpt" / "latest"
        assert os.readlink(latest) == run.id
        second = RunDir.create(tmp_path / "runs", "char-gpt")
        assert os.readlink(latest) == second.id
        assert sorted(path.name for path in latest.parent.iterdir()) == sorted([run.id, second.id, "latest"])

    def test_where_links_are_impossible_latest_is_a_file(self, tmp_path, monkeypatch):
        monkeypatch.setattr(os, "symlink", refuse(OSError(errno.EPERM, "Operation not permitted")))
        created = RunDir.create(tmp_path / "runs", "x")
        latest = tmp_path / "runs" / "x" / "latest"
        assert not latest.is_symlink()
        assert latest.read_text() == f"{created.id}\n"

    def test_a_relative_parent_gives_an_absolute_path(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        created = RunDir.create(Path("runs"), "x")
        monkeypatch.chdir("/")
        assert created.path.is_dir()
        assert created.path.is_absolute()

    def test_the_slug_neither_reads_nor_moves_the_global_generators(self, tmp_path):
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        first = RunDir.create(tmp_path, "x")
        after = (random.random(), np.random.random(), torch.rand(()).item())
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        assert after == (random.random(), np.random.random(), torch.rand(()).item())
        random.seed(0)
        assert RunDir.create(tmp_path, "x").id[-6:] != first.id[-6:]

    @pytest.mark.parametrize("name", ["char-gpt", "a.b", "été 2", "lr=0.1", "A", "x" * 100, "7"])
    def test_plain_names_are_taken(self, tmp_path, name):
        assert RunDir.create(tmp_path, name).path.parent == tmp_path / name

    @pytest.mark.parametrize(
        "name",
        ["", "a/b", "..", ".", ".hidden", "a\\b", "a\0b", "a\nb", "/abs", "x" * 101, "-x", "_x", "a:b", "a*"],
    )
    def test_names_that_are_no_single_segment_are_refused(self, tmp_path, name):
        with pytest.raises(RunError, match=r"run\.name: expected at most 100 letters") as caught:
            RunDir.create(tmp_path / "runs", name)
        assert caught.value.exit_code == 2
        assert not (tmp_path / "runs").exists()

    @pytest.mark.parametrize("parent", ["file", "file/below"])
    def test_a_parent_that_is_a_file_is_said(self, tmp_path, parent):
        (tmp_path / "file").touch()
        with pytest.raises(
            RunError, match=r"file.*: expected a directory that can be written, got .*run\.dir=/tmp"
        ):
            RunDir.create(tmp_path / parent, "x")

    def test_a_parent_that_cannot_be_written_is_said(self, tmp_path, monkeypatch):
        monkeypatch.setattr(os, "mkdir", refuse(PermissionError(errno.EACCES, "Permission denied")))
        with pytest.raises(
            RunError, match=r"run directory .*/runs/x: .* got 'Permission denied'\. Set run\.dir"
        ):
            RunDir.create(tmp_path / "runs", "x")

    def test_a_directory_in_the_place_of_latest_is_said(self, tmp_path):
        (tmp_path / "x" / "latest" / "full").mkdir(parents=True)
        with pytest.raises(RunError, match="expected a directory that can be written"):
            RunDir.create(tmp_path, "x")
        assert not [path for path in (tmp_path / "x").iterdir() if path.name.startswith(".")]

    def test_two_runs_never_share_a_directory(self, tmp_path, monkeypatch):
        monkeypatch.setattr(rundir.secrets, "token_hex", lambda count: "abcdef")

        class Stopped(rundir.datetime):
            @classmethod
            def now(cls, tz=None):
                return cls(2026, 1, 2, 3, 4, 5)

        monkeypatch.setattr(rundir, "datetime", Stopped)
        assert RunDir.create(tmp_path, "x").id == "20260102-030405-abcdef"
        with pytest.raises(RunError, match="File exists"):
            RunDir.create(tmp_path, "x")


class TestOpen:
    def test_open_takes_a_run_and_follows_links(self, tmp_path, run):
        assert RunDir.open(run.path) == run
        assert RunDir.open(tmp_path / "runs" / "char-gpt" / "latest") == run

    def test_a_renamed_run_is_one_by_its_status(self, run):
        run.write_status("running")
        renamed = run.path.rename(run.path.parent / "my best run")
        assert RunDir.open(renamed).id == "my best run"

    @pytest.mark.parametrize(
        ("spec", "got"), [("runs", "a directory"), ("nothing", "nothing there"), ("file", "a file")]
    )
    def test_open_refuses_what_is_no_run(self, tmp_path, run, spec, got):
        (tmp_path / "file").touch()
        with pytest.raises(RunError, match=f"{spec}: expected a run directory, got '{got}'"):
            RunDir.open(tmp_path / spec)


class TestSmallFiles:
    def test_status_says_state_process_and_time(self, run):
        assert run.status == {}
        run.write_status("running", iteration=3)
        run.write_status("stopped", reason="early-stopping: no better", iteration=7)
        status = run.status
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d", status.pop("time"))
        assert status.pop("host")
        assert status == {
            "state": "stopped",
            "reason": "early-stopping: no better",
            "iteration": 7,
            "pid": os.getpid(),
        }
        assert json.loads((run.path / "status.json").read_text())["iteration"] == 7

    def test_a_status_is_one_of_five(self, run):
        for state in ("running", "finished", "stopped", "paused", "failed"):
            run.write_status(state)
            assert run.status["state"] == state
        with pytest.raises(
            RunError, match="expected one of running, finished, stopped, paused, failed, got 'done'"
        ):
            run.write_status("done")

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff"])
    def test_a_status_that_is_damaged_is_empty(self, run, content):
        (run.path / "status.json").write_bytes(content)
        assert run.status == {}

    def test_json_holds_numbers_of_every_kind_and_stays_strict(self, run):
        data = {
            "none": None,
            "flag": True,
            "numpy": [np.int64(3), np.float32(0.5), np.float64("nan")],
            "nan": float("nan"),
            "infinities": (float("inf"), -float("inf")),
            "path": Path("a/b"),
            3: {"name": "Grüße"},
            np.int64(4): 4,
        }
        run.write_json("summary.json", data)
        text = run.summary.read_text(encoding="utf-8")
        assert json.loads(text, parse_constant=pytest.fail) == {
            "none": None,
            "flag": True,
            "numpy": [3, 0.5, "nan"],
            "nan": "nan",
            "infinities": ["inf", "-inf"],
            "path": "a/b",
            "3": {"name": "Grüße"},
            "4": 4,
        }
        assert '"numpy": [\n    3,\n    0.5,' in text
        assert text.endswith("}\n")

    @pytest.mark.parametrize("name", ["../x.json", "a/b.json", "", ".x"])
    def test_a_files_name_is_one_segment(self, run, name):
        with pytest.raises(RunError, match="file name: expected"):
            run.write_json(name, {})

    def test_a_file_that_cannot_be_written_is_said(self, run, monkeypatch):
        monkeypatch.setattr(os, "fsync", refuse(OSError(errno.ENOSPC, "No space left on device")))
        with pytest.raises(
            RunError, match=r"plugins\.json: expected a file that can be written, got 'No space left"
        ):
            run.write_json("plugins.json", {})


class TestLog:
    def test_lines_carry_time_level_rank_and_logger(self, run):
        with attach_log(run, rank=3) as handler:
            assert handler in logging.getLogger("hookline").handlers
            logging.getLogger("hookline.trainer").info("started at %d", 5)
            logging.getLogger("hookline").warning("hot")
            logging.getLogger("hookline").debug("hidden")
            logging.getLogger("stranger").warning("not ours")
        lines = run.log.read_text().splitlines()
        time = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}"
        assert len(lines) == 2
        assert re.fullmatch(time + r" INFO rank3 hookline\.trainer: started at 5", lines[0])
        assert re.fullmatch(time + r" WARNING rank3 hookline: hot", lines[1])

    def test_a_second_log_goes_on_in_the_file(self, run):
        for rank in (0, 1):
            with attach_log(run, rank):
                logging.getLogger("hookline").info("hello")
        assert len(run.log.read_text().splitlines()) == 2

    def test_nothing_of_it_stays_behind(self, run):
        logger = logging.getLogger("hookline")
        logger.setLevel(logging.NOTSET)
        before = (list(logger.handlers), logging.NOTSET)
        with pytest.raises(KeyError), attach_log(run) as handler:
            raise KeyError(handler)
        assert (list(logger.handlers), logger.level) == before
        logger.warning("after")
        assert run.log.read_text() == ""

    def test_a_more_talkative_logger_stays_so(self, run):
        logger = logging.getLogger("hookline")
        logger.setLevel(logging.DEBUG)
        try:
            with attach_log(run):
                assert logger.level == logging.DEBUG
                logger.debug("hidden")
        finally:
            logger.setLevel(logging.NOTSET)
        assert run.log.read_text() == ""

    def test_a_log_that_cannot_be_opened_is_said(self, run):
        run.log.mkdir()
        with pytest.raises(
            RunError, match=r"log\.txt: expected a file that can be written, got 'Is a directory'"
        ):
            attach_log(run).__enter__()

    @pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is full")
    def test_a_log_whose_disk_is_full_says_so_once_and_ends_nothing(self, run, capsys):
        run.log.symlink_to("/dev/full")
        with attach_log(run):
            logging.getLogger("hookline").info("one")
            logging.getLogger("hookline").info("two")
        said = capsys.readouterr().err
        assert said.count("expected a log that can be written, got 'No space left on device'") == 1
        assert "Traceback" not in said


def test_importing_the_room_imports_neither_torch_nor_numpy():
    code = "import sys, hookline.rundir; sys.exit(bool({'torch', 'numpy'} & set(sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0


def test_two_runs_in_two_threads_keep_their_logs_apart(tmp_path):
    both_open = threading.Barrier(2)

    def train(name):
        run = RunDir.create(tmp_path, name)
        with attach_log(run):
            both_open.wait()
            logging.getLogger("hookline").warning("from %s", name)
            both_open.wait()
        assert [line.rpartition(" ")[2] for line in run.log.read_text().splitlines()] == [name]

    with ThreadPoolExecutor(2) as pool:
        for result in [pool.submit(train, name) for name in ("one", "two")]:
            result.result()


def test_logs_are_collected_until_there_is_a_file_for_them(tmp_path):
    with collected_logs() as records:
        logging.getLogger("hookline.part").info("early")
    logging.getLogger("hookline.part").info("late")
    assert [record.getMessage() for record in records] == ["early"]


def test_a_later_holder_has_a_higher_generation_and_the_earlier_one_is_told(tmp_path):
    run = RunDir.create(tmp_path, "x")
    assert run.generation == 0
    with run.held() as first:
        run.check_generation(first)
    run.check_free()
    with run.held() as second:
        run.check_generation(second)
        with pytest.raises(RunError, match="expected to be its only trainer, got .a later start by process"):
            run.check_generation(first)
    assert (first, second, run.generation) == (1, 2, 2)


def test_who_looked_before_another_trained_is_refused_and_changes_nothing(tmp_path):
    run = RunDir.create(tmp_path, "x")
    run.write_status("running")
    with run.held(after=0):
        pass
    before = {path.name: path.read_bytes() for path in run.path.iterdir()}
    refused = "expected what this process has found in it, got .what process .* has made of it since"
    with pytest.raises(RunError, match=refused), run.held(after=0):
        pass
    assert {path.name: path.read_bytes() for path in run.path.iterdir()} == before
    with run.held(after=1) as generation:
        assert generation == 2


def test_a_generation_that_cannot_be_written_is_an_error(tmp_path):
    run = RunDir.create(tmp_path, "x")
    (run.path / "generation").mkdir()
    with pytest.raises(RunError, match="generation: expected a file that can be written"), run.held():
        pass


def test_to_ask_whether_a_run_is_free_changes_nothing_in_it(run):
    run.write_status("paused")
    run.check_free()
    assert [path.name for path in run.path.iterdir()] == ["status.json"]


def test_checkpoints_are_looked_for_not_their_folder(run):
    (run.checkpoints / ".tmp-iter_0000003-00000000").mkdir(parents=True)
    assert not run.has_checkpoints
    (run.checkpoints / "iter_0000003").mkdir()
    assert run.has_checkpoints


def test_a_holder_removes_what_a_killed_one_has_left_of_its_files(run, monkeypatch):
    with monkeypatch.context() as killed:
        killed.setattr(os, "replace", refuse(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run.write_status("running")
    (run.path / ".tmp-link-0123abcd").symlink_to("log.txt")
    assert len(list(run.path.iterdir())) == 2
    with run.held():
        assert sorted(path.name for path in run.path.iterdir()) == [
            ".tmp-link-0123abcd",
            "generation",
            "lock",
        ]


def test_a_start_that_is_refused_removes_nothing_of_the_holders(run, monkeypatch):
    (run.path / ".tmp-status.json-0123abcd").touch()
    monkeypatch.setattr(rundir.fcntl, "lockf", refuse(BlockingIOError(errno.EAGAIN, "taken")))
    with pytest.raises(RunError, match="one that nobody trains in"), run.held():
        pass
    assert (run.path / ".tmp-status.json-0123abcd").exists()


@pytest.mark.parametrize("of", [None, "ema"])
def test_the_weights_that_a_run_began_with_are_known(run, of):
    assert run.begun_with is None
    run.write_json("weights.json", {"source": Path("there"), "of": of})
    assert run.begun_with == ("there", of)


@pytest.mark.parametrize("content", ["", "[]", "{}", "[" * 100_000])
def test_a_damaged_word_of_the_weights_that_a_run_began_with_is_an_error(run, content):
    (run.path / "weights.json").write_text(content)
    with pytest.raises(RunError, match=r"weights\.json: expected the name of .* Name them with --weights"):
        run.begun_with  # noqa: B018
