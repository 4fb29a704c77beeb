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


def made(parent, name, *ids):
    for run_id in ids:
        (parent / name / run_id).mkdir(parents=True)
    return [parent / name / run_id for run_id in ids]


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
        assert RunDir.find("latest", tmp_path / "runs", "x") == created
        assert RunDir.find(str(latest), tmp_path / "elsewhere") == created

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


class TestOpenAndFind:
    A, B, C = "20260101-000000-aaaaaa", "20260102-000000-bbbbbb", "20260103-000000-cccccc"

    def test_open_takes_a_run_and_follows_links(self, tmp_path, run):
        assert RunDir.open(run.path) == run
        assert RunDir.open(tmp_path / "runs" / "char-gpt" / "latest") == run

    def test_a_renamed_run_is_one_by_its_status(self, tmp_path, run):
        run.write_status("running")
        renamed = run.path.rename(run.path.parent / "my best run")
        assert RunDir.open(renamed).id == "my best run"
        assert RunDir.find(str(renamed), tmp_path).path == renamed

    @pytest.mark.parametrize(
        ("spec", "got"), [("runs", "a directory"), ("nothing", "nothing there"), ("file", "a file")]
    )
    def test_open_refuses_what_is_no_run(self, tmp_path, run, spec, got):
        (tmp_path / "file").touch()
        with pytest.raises(RunError, match=f"{spec}: expected a run directory, got '{got}'"):
            RunDir.open(tmp_path / spec)

    @pytest.mark.parametrize(
        "below",
        [".", "checkpoints", "checkpoints/iter_0000001", "checkpoints/latest", "log.txt", "../latest"],
    )
    def test_find_takes_a_path_of_a_run_or_in_one(self, tmp_path, run, below):
        (run.checkpoints / "iter_0000001").mkdir(parents=True)
        (run.checkpoints / "latest").write_text("iter_0000001\n")
        run.log.touch()
        assert RunDir.find(str(run.path / below), tmp_path / "elsewhere") == run

    def test_find_refuses_what_is_not_there_in_a_run(self, tmp_path, run):
        with pytest.raises(RunError, match="got 'nothing there'"):
            RunDir.find(str(run.checkpoints / "iter_0000001"), tmp_path)

    def test_find_does_not_climb_to_a_strangers_directory(self, tmp_path):
        (tmp_path / "status.json").write_text("{}")
        (tmp_path / "a" / "b" / "c").mkdir(parents=True)
        with pytest.raises(RunError, match="latest, a run directory or a path in one"):
            RunDir.find(str(tmp_path / "a" / "b" / "c"), tmp_path)

    def test_latest_is_what_the_link_says_then_the_highest_id(self, tmp_path):
        a, b = made(tmp_path, "x", self.A, self.B)
        assert RunDir.find("latest", tmp_path, "x").path == b
        (tmp_path / "x" / "latest").symlink_to(self.A)
        assert RunDir.find("latest", tmp_path, "x").path == a
        a.rmdir()
        assert RunDir.find("latest", tmp_path, "x").path == b

    def test_latest_of_all_names_is_the_newest(self, tmp_path):
        made(tmp_path, "x", self.A, self.C)
        made(tmp_path, "y", self.B)
        assert RunDir.find("latest", tmp_path).id == self.C
        assert RunDir.find("latest", tmp_path, "y").id == self.B

    def test_a_run_that_is_not_there_is_an_error_that_names_those_there(self, tmp_path):
        made(tmp_path, "char-gpt", self.A)
        made(tmp_path, "other", self.B)
        shown = f"char-gpt/{self.A}, other/{self.B}"
        with pytest.raises(RunError, match=f"got 'nothing there'. Newest runs in .*: {shown}"):
            RunDir.find(str(tmp_path / "char-gpt" / self.B), tmp_path)
        with pytest.raises(
            RunError, match=f"got 'a directory'. Newest runs in .*/char-gpt: char-gpt/{self.A}"
        ):
            RunDir.find(str(tmp_path / "char-gpt"), tmp_path)
        with pytest.raises(RunError, match=f"{shown}. Did you mean 'char-gpt'"):
            RunDir.find("latest", tmp_path, "char-gtp")

    def test_only_the_newest_five_are_named(self, tmp_path):
        made(tmp_path, "x", *(f"2026010{day}-000000-aaaaaa" for day in range(1, 9)))
        (tmp_path / "x" / "latest").symlink_to("20260108-000000-aaaaaa")
        with pytest.raises(RunError) as caught:
            RunDir.find("nothing", tmp_path)
        assert str(caught.value).count("20260108") == 1
        assert [day for day in range(1, 9) if f"2026010{day}" in str(caught.value)] == [4, 5, 6, 7, 8]

    @pytest.mark.parametrize("parent", ["empty", "nowhere", "file"])
    def test_no_runs_at_all_is_said(self, tmp_path, parent):
        (tmp_path / "empty").mkdir()
        (tmp_path / "file").touch()
        for name in ("x", None):
            with pytest.raises(RunError, match=rf"expected a run, got nothing\. .*/{parent} has no runs"):
                RunDir.find("latest", tmp_path / parent, name)


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

    def test_environment_says_what_a_rerun_needs(self, run, monkeypatch):
        monkeypatch.setattr(sys, "argv", ["hookline", "train", "run.yaml"])
        run.write_environment()
        environment = json.loads((run.path / "environment.json").read_text())
        assert environment["torch"] == torch.__version__
        assert environment["numpy"] == np.__version__
        assert environment["python"] == ".".join(map(str, sys.version_info[:3]))
        assert environment["argv"] == ["hookline", "train", "run.yaml"]
        assert environment["threads"] == torch.get_num_threads()
        assert environment["cpus"] == os.cpu_count()
        assert environment["gpus"] == torch.cuda.device_count()
        assert environment["directory"] == os.getcwd()
        assert environment.keys() >= {"time", "host", "platform", "hookline", "cuda", "git_commit"}

    def test_environment_names_the_commit_and_does_without(self, run, tmp_path, monkeypatch):
        repository = tmp_path / "repository"
        repository.mkdir()
        monkeypatch.chdir(repository)
        git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]
        subprocess.run([*git, "init", "-q"], check=True)
        subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
        head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout

        def commit():
            run.write_environment()
            return json.loads((run.path / "environment.json").read_text())["git_commit"]

        assert commit() == head.strip()
        monkeypatch.chdir(run.path)
        monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(run.path.parent))
        assert commit() is None
        monkeypatch.setenv("PATH", "")
        assert commit() is None

    def test_environment_names_devices_only_where_cuda_is_in_use(self):
        class Cuda:
            in_use = False

            def device_count(self):
                return 2

            def is_initialized(self):
                return self.in_use

            def get_device_name(self, index):
                assert self.in_use
                return f"GPU {index}"

        cuda = Cuda()
        assert rundir._gpus(cuda) == 2
        cuda.in_use = True
        assert rundir._gpus(cuda) == ["GPU 0", "GPU 1"]


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
    with run.held() as second:
        run.check_generation(second)
        with pytest.raises(RunError, match="expected to be its only trainer, got .a later start by process"):
            run.check_generation(first)
    assert (first, second, run.generation) == (1, 2, 2)


def test_a_generation_that_cannot_be_written_is_an_error(tmp_path):
    run = RunDir.create(tmp_path, "x")
    (run.path / "generation").mkdir()
    with pytest.raises(RunError, match="generation: expected a file that can be written"), run.held():
        pass
