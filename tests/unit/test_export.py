"""A journal through another writer: what is exported, where to, and what is refused."""

import json
import os
import subprocess
import sys

import pytest

from hookline import ConfigError, EventWriter, PluginError, RunError, WriterError
from hookline.export import EVENTS_PER_CALL, export

JOURNAL = """
from hookline import Events, EventWriter, Scalar

class Journal(EventWriter):
    journal = True

    def __init__(self, num_iters: int = 5, first: int = 0):
        self.iterations = range(first, first + num_iters)

    def write(self, events): ...

    def read(self, run_dir):
        for i in self.iterations:
            yield Events(i, 100.0 + i, {"loss": Scalar(float(i))})

class Unreadable(EventWriter):
    journal = True
    def write(self, events): ...

class Raising(Unreadable):
    def read(self, run_dir):
        yield Events(0, 0.0, {"loss": Scalar(0.0)})
        raise ValueError("torn")

class No:
    pass
"""
WRITER = """
import json
from pathlib import Path
from typing import Annotated

from pydantic import Field

from hookline import EventWriter, Period, WriterError

class Lines(EventWriter):
    def __init__(self, words: list[str] = (), fail: str = "", every: Period = 1, at: Annotated[int, Field(ge=0)] = 0):
        self.calls, self.words, self.fail = [], list(words), fail

    def __getattribute__(self, name):
        if name in ("open", "write", "close", "state_dict"):
            def call(*arguments):
                self.calls.append(name)
                if self.fail == name:
                    raise (WriterError if name == "open" else ValueError)(f"no {name}")
                return getattr(type(self), name)(self, *arguments)
            return call
        return super().__getattribute__(name)

    def open(self, run):
        self.run, self.events = run, []

    def write(self, events):
        self.events += events

    def close(self, status):
        hparams = {k: v for e in self.events for k, v in e.hparams.items()}
        found = {
            "status": status, "calls": self.calls, "words": self.words, "hparams": hparams,
            "run": [self.run.name, self.run.id, self.run.period, self.run.writer, self.run.start_iter],
            "config": self.run.config,
            "points": [[e.iteration, e.time_s, {k: v.value for k, v in e.scalars.items()}] for e in self.events],
        }
        (self.run.dir / "lines.json").write_text(json.dumps(found))

    def view_command(self):
        return f"cat {self.run.dir}/lines.json"
"""
CONFIG = """
run: {name: line}
optimizer: {target: torch.optim.AdamW, lr: 0.05}
train: {max_iter: 12, log_period: 3}
writers:
  - book: {use: ./journal.py:Journal}
  - Lines: {use: ./writer.py:Lines, words: [a], period: 7}
"""


def make_run(path, config=CONFIG, journal="book", state="finished"):
    """A run directory as training leaves it."""
    path.mkdir(parents=True)
    (path / "journal.py").write_text(JOURNAL)
    (path / "writer.py").write_text(WRITER)
    (path / "config.yaml").write_text(config)
    (path / "status.json").write_text(json.dumps({"state": state}))
    writers = [{"name": "book", "journal": journal == "book"}, {"name": "Lines", "journal": False}]
    (path / "plugins.json").write_text(json.dumps({"writers": writers, "hooks": []}))
    return path


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "runs/line/20261122-101835-f07fc8")


def found(folder):
    return json.loads((folder / "lines.json").read_text())


def lines(run, *options, **given):
    """Export to the writer of lines; return what was exported and what the writer was told."""
    done = export(str(run), f"{run}/writer.py:Lines", options=options, **given)
    return done, found(done.folder)


def test_every_event_is_told_once_in_order_and_the_writer_closed(run):
    done, told = lines(run)
    assert told["points"] == [[i, 100.0 + i, {"loss": float(i)}] for i in range(5)]
    assert told["calls"] == ["open", "state_dict", "write", "state_dict", "close"]
    assert (done.first_iteration, done.last_iteration, done.num_iters) == (0, 4, 5)
    assert (done.journal, done.writer, done.run) == ("book", "Lines", run)
    assert done.command == f"cat {done.folder}/lines.json"


def test_many_events_come_in_several_calls_and_progress_is_told(run):
    (run / "config.yaml").write_text(
        CONFIG.replace("Journal}", f"Journal, num_iters: {EVENTS_PER_CALL + 1}}}")
    )
    seen = []
    done, told = lines(run, tell=seen.append)
    assert told["calls"].count("write") == told["calls"].count("state_dict") - 1 == 2
    assert seen == [EVENTS_PER_CALL - 1, EVENTS_PER_CALL]
    assert done.num_iters == EVENTS_PER_CALL + 1


def test_the_default_folder_is_new_each_time_and_the_run_is_left_as_it_was(run):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    folders = [lines(run)[0].folder for _ in range(2)]
    assert folders[0] != folders[1]
    assert {folder.parent for folder in folders} == {run / "export"}
    assert all(folder.name.startswith("Lines-") for folder in folders)
    assert before == {path: path.read_bytes() for path in before}


def test_a_folder_can_be_named_if_it_is_new_or_empty(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for name in ("empty", "new/below"):
        done, _ = lines(run, out=tmp_path.relative_to(tmp_path) / name)
        assert done.folder == tmp_path / name
        assert (tmp_path / name / "lines.json").is_file()


def test_the_writer_is_told_of_a_run_of_its_own(run):
    names = []
    for _ in range(2):
        _, told = lines(run)
        name, run_id, period, writer, start_iter = told["run"]
        assert (name, period, writer, start_iter) == ("line", 7, "Lines", 0)
        assert run_id.startswith(f"{run.name}-export-")
        assert told["config"]["train"]["max_iter"] == 12
        names.append(run_id)
    assert names[0] != names[1]


def test_the_options_of_the_run_hold_but_for_those_given(run):
    assert lines(run)[1]["words"] == ["a"]
    _, told = lines(run, "words=[b, c]", "period=100")
    assert (told["words"], told["run"][2]) == (["b", "c"], 100)


def test_a_writer_that_the_run_had_not_has_the_periods_of_the_run(run):
    (run / "config.yaml").write_text(CONFIG[: CONFIG.index("  - Lines")])
    _, told = lines(run)
    assert (told["words"], told["run"][2]) == ([], 3)


@pytest.mark.parametrize(
    ("state", "status"),
    [
        ("finished", "finished"),
        ("stopped", "stopped"),
        ("failed", "failed"),
        ("paused", "stopped"),
        ("running", "stopped"),
    ],
)
def test_the_writer_is_closed_as_the_run_was_and_a_run_that_goes_on_as_stopped(tmp_path, state, status):
    assert lines(make_run(tmp_path / "20261122-101835-f07fc8", state=state))[1]["status"] == status


def test_hyper_parameters_come_from_the_config_in_iteration_0(run):
    _, told = lines(run)
    assert told["hparams"]["optimizer.lr"] == 0.05
    (run / "config.yaml").write_text(CONFIG.replace("Journal}", "Journal, first: 3}"))
    _, told = lines(run)
    assert [point[0] for point in told["points"]] == [0, 3, 4, 5, 6, 7]
    assert told["points"][0] == [0, 103.0, {}]


def test_a_local_file_is_looked_up_where_the_command_is_typed(run, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(WRITER)
    monkeypatch.chdir(tmp_path)
    done = export(str(run), "./mine.py:Lines")
    assert len(found(done.folder)["points"]) == 5


def refused(error, run, match, to=None, options=(), out=None):
    folders = {path for path in run.rglob("*") if path.is_dir() and "__pycache__" not in path.parts}
    with pytest.raises(error, match=match):
        export(str(run), to or f"{run}/writer.py:Lines", out, options)
    now = {path for path in run.rglob("*") if path.is_dir() and "__pycache__" not in path.parts}
    assert now - folders <= {run / "export"}


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunError, match="a run directory or a path in one"):
        export(str(tmp_path / "nowhere"), "json")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "[" * 100_000, '{"writers": 7}', '{"writers": [{}]}'], ids=str.__len__
)
def test_a_run_that_names_no_plugins_is_refused(run, text):
    (run / "plugins.json").write_text(text)
    refused(RunError, run, r"plugins\.json: expected the plugins of a run, got")


@pytest.mark.parametrize("name", ["config.yaml", "metrics.jsonl"])
def test_a_file_that_would_be_waited_for_is_refused(run, name):
    (run / name).unlink(missing_ok=True)
    os.mkfifo(run / name)
    refused(RunError, run, rf"{name}: expected a file, got 'a pipe'")
    (run / name).unlink()
    (run / name).symlink_to("/dev/zero")
    refused(RunError, run, rf"{name}: expected a file, got 'a device'")


def test_a_run_whose_record_is_gone_is_refused(run):
    (run / "plugins.json").unlink()
    refused(RunError, run, r"plugins\.json: expected the plugins of a run, got .FileNotFoundError")
    (run / "config.yaml").unlink()
    refused(ConfigError, run, r"config\.yaml: expected a YAML file")


def test_a_run_without_a_journal_is_refused_with_the_writers_it_has(tmp_path):
    run = make_run(tmp_path / "20261122-101835-f07fc8", journal="")
    refused(RunError, run, "expected a journal among its writers, got nothing. Its writers: book, Lines")


def test_a_journal_that_the_config_does_not_name_is_refused(run):
    (run / "config.yaml").write_text(CONFIG.replace("book", "other"))
    refused(RunError, run, "its journal 'book' in the config, .*Writers of config.yaml: other, Lines")


@pytest.mark.parametrize(
    ("name", "error", "match"),
    [
        ("Unreadable", WriterError, "expected a journal that can be read back"),
        ("Missing", ConfigError, "Missing"),
        ("No", PluginError, "expected an EventWriter"),
        ("Journal, num_iters: 0", RunError, "expected at least one iteration, got nothing"),
        ("Journal, num_iters: x", ConfigError, "num_iters"),
    ],
)
def test_a_journal_that_cannot_be_read_is_refused(run, name, error, match):
    (run / "config.yaml").write_text(CONFIG.replace("Journal", name))
    refused(error, run, match)


def test_a_journal_that_fails_half_way_ends_the_export(run):
    (run / "config.yaml").write_text(CONFIG.replace("Journal", "Raising"))
    with pytest.raises(
        RunError, match="journal 'book' of .* expected one that can be read, got 'ValueError: torn'"
    ):
        export(str(run), f"{run}/writer.py:Lines")
    (folder,) = (run / "export").iterdir()
    assert found(folder)["status"] == "failed"


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["wrods=[a]"], "an option of writers.Lines, got 'wrods'.*Did you mean 'words'"),
        (["words=7"], r"writers\.Lines\.words \(override .*expected"),
        (["at=-1"], "at .*expected"),
        (["words"], "expected KEY=VALUE"),
        (["words+=b"], "hooks or writers before"),
        (["use=json"], "expected an option of .*--to says what to use"),
        (["on_error=retry"], "a writer that fails ends the export"),
        (["period=-1"], "a whole number >= 0"),
        (["period=1 epoch"], "expected iterations, .*Give period=N"),
        (["every=2 epochs"], r"writers\.Lines\.every .*expected iterations, .*got '2 epochs'"),
        (["wrods=[a]", "at=x"], "2 problems"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_made(run, options, match):
    refused(ConfigError, run, match, options=options)


@pytest.mark.parametrize(
    ("to", "error", "match"),
    [
        ("tensorbord", PluginError, "Did you mean 'tensorboard'"),
        ("ema", PluginError, "It is one of the hooks"),
        ("nobody", PluginError, "expected an installed plugin"),
        ("", ConfigError, "a name"),
        ("./nothing.py:Lines", ConfigError, "nothing.py"),
    ],
)
def test_a_writer_that_is_none_is_refused(run, to, error, match):
    with pytest.raises((error, ConfigError, PluginError), match=match):
        export(str(run), to)


def test_a_folder_that_is_in_use_is_refused(run, tmp_path):
    refused(RunError, run, "--out .*expected a new or empty folder, got 'one with files in it'", out=run)
    refused(RunError, run, "got 'a file'", out=run / "config.yaml")
    refused(RunError, run, "expected a folder that can be written", out=run / "config.yaml" / "below")


@pytest.mark.parametrize(
    ("fail", "match"),
    [
        ("open", "no open"),
        ("write", "Lines after iteration 4: .*ValueError: no write"),
        ("close", "ValueError: no close"),
    ],
)
def test_a_writer_that_fails_is_closed_and_named(run, fail, match):
    with pytest.raises(WriterError, match=match):
        export(str(run), f"{run}/writer.py:Lines", options=[f"fail={fail}"])
    (folder,) = (run / "export").iterdir() if fail == "write" else (None,)
    if folder is not None:
        assert found(folder)["status"] == "failed"


def test_an_interrupt_closes_the_writer_and_passes(run):
    def interrupt(iteration):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(str(run), f"{run}/writer.py:Lines", tell=interrupt)
    (folder,) = (run / "export").iterdir()
    assert found(folder)["status"] == "failed"


def test_neither_torch_nor_any_other_plugin_is_imported(run):
    code = f"""
        import sys
        from hookline.export import export
        done = export({str(run)!r}, {f"{run}/writer.py:Lines"!r})
        print(sorted(name for name in sys.modules if name == "torch" or name.startswith("hookline_")))
    """
    out = subprocess.run(
        [sys.executable, "-c", "\n".join(line.strip() for line in code.splitlines())],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    names = [name for name in eval(out.stdout) if not name.startswith("hookline_local_")]
    assert names == []


def test_a_journal_without_read_says_so():
    class Journal(EventWriter):
        def write(self, events):
            """Forget them."""

    with pytest.raises(WriterError, match="Journal: expected a journal that can be read back"):
        Journal().read(None)
