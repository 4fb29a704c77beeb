"""A run remembers the plugins it was made with, and says what is different when it is resumed."""

from __future__ import annotations

import json
import sys

import pytest

from hookline import DefaultTrainer, PluginError, checkpoint

COUNTER = """
    from hookline import HookBase

    class Counter(HookBase):
        def __init__(self, step: int = 1):
            self.step, self.count = step, 0

        def after_step(self):
            self.count += self.step

        def after_train(self):
            print(f"counted {self.count}")

        def state_dict(self):
            return {"count": self.count}

        def load_state_dict(self, state):
            self.count = state["count"]
"""
COUNTING = "hooks+=counter"


@pytest.fixture
def counter(install):
    install("counter-package", COUNTER, hooks=["counter = counter_package:Counter"], version="1.5")


@pytest.fixture
def paused(project, counter):
    """A run paused after five iterations, with a stateful hook of a third party."""
    result = project.hookline("train", "run.yaml", "train.stop_at=5", COUNTING)
    assert result.exit_code == 0, result.output
    return (project.path / "runs" / "line" / "latest").resolve()


def resume(project, *arguments):
    return project.hookline("train", "run.yaml", "--resume", "latest", *arguments)


def content(run):
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_the_run_and_each_checkpoint_record_every_plugin(paused):
    recorded = json.loads((paused / "plugins.json").read_text())
    assert checkpoint.load(paused / "checkpoints" / "iter_0000004")["plugins"] == recorded
    entries = {entry["name"]: entry for entry in recorded["hooks"]}
    assert entries["counter"] == {
        "name": "counter",
        "kind": "hook",
        "use": "counter",
        "source": "counter-package 1.5",
        "distribution": "counter-package",
        "version": "1.5",
        "options": {},
        "state_version": 1,
        "stateful": True,
    }
    assert entries["checkpoint"]["options"] == {"period": 5, "keep": 3}
    assert not entries["timer"]["stateful"]
    (writer,) = recorded["writers"]
    assert (writer["kind"], writer["distribution"], writer["stateful"]) == ("writer", "hookline-json", True)
    assert recorded["call_order"][-2:] == ["counter", "progress"]


def test_a_resume_with_the_same_plugins_says_nothing(project, paused):
    result = resume(project, COUNTING)
    assert result.exit_code == 0, result.output
    assert "counted 12" in result.output
    assert "differ" not in result.output


def test_a_stateful_plugin_that_is_gone_stops_a_resume_before_anything_changes(project, paused):
    before = content(paused)
    result = resume(project)
    assert result.exit_code == 2
    assert "hook 'counter' (counter-package 1.5): gone, its state is dropped" in result.output
    assert "plugins.on_change=warn" in result.output
    assert content(paused) == before


def test_it_goes_on_without_the_state_where_it_is_told_to(project, paused):
    result = resume(project, "plugins.on_change=warn")
    assert result.exit_code == 0, result.output
    assert "warning:   hook 'counter' (counter-package 1.5): gone, its state is dropped" in result.output
    assert "not enabled now" not in result.output  # once is enough
    assert "'counter'" in (paused / "log.txt").read_text()
    assert "counter" not in json.loads((paused / "plugins.json").read_text())["call_order"]


def test_ignoring_is_silent(project, paused):
    result = resume(project, "plugins.on_change=ignore")
    assert result.exit_code == 0, result.output
    assert "warning" not in result.output


def test_a_state_of_another_version_is_not_loaded(project, paused, monkeypatch):
    monkeypatch.setattr(sys.modules["counter_package"].Counter, "state_version", 2)
    refused = resume(project, COUNTING)
    assert refused.exit_code == 2
    assert "hook 'counter': state version 1 → 2, it starts anew" in refused.output
    result = resume(project, COUNTING, "plugins.on_change=warn")
    assert "counted 7" in result.output


def test_a_writer_whose_position_would_be_lost_stops_a_resume_too(project, paused):
    result = resume(project, COUNTING, "writers=[]")
    assert result.exit_code == 2
    assert "writer 'json' (hookline-json 0.1.0): gone" in result.output


def test_a_writer_that_was_left_out_goes_on_after_what_it_has(project, paused):
    assert resume(project, COUNTING, "writers=[]", "plugins.on_change=warn", "train.stop_at=9").exit_code == 0
    result = resume(project, COUNTING)
    assert result.exit_code == 0, result.output
    assert "writer 'json' (hookline-json 0.1.0): back, it goes on after what it has" in result.output
    assert "json missed 4 iterations, 5 to 8: it was left out of the writers" in result.output
    lines = (paused / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["iteration"] for line in lines] == [*range(5), *range(9, 12)]


def test_what_an_override_changes_is_told_and_takes_effect(project, paused):
    result = resume(project, "hooks+={counter: {step: 10}}", "hooks-=timer", "hooks+=memory")
    assert result.exit_code == 0, result.output
    assert "counted 75" in result.output
    for line in (
        "hooks.counter.step: not set → 10",
        "hook 'timer' (hookline 0.1.0): gone\n",
        "hook 'memory' (hookline 0.1.0): new\n",
    ):
        assert line in result.output


def test_any_difference_can_be_made_an_error(project, paused):
    result = resume(project, COUNTING, "hooks.checkpoint.keep=2", "plugins.on_change=error")
    assert result.exit_code == 2
    assert "hooks.checkpoint.keep: 3 → 2" in result.output


def test_no_plugins_resumes_with_a_warning(project, paused):
    result = resume(project, "--no-plugins")
    assert result.exit_code == 0, result.output
    assert "hook 'counter' (counter-package 1.5): gone" in result.output
    assert "finished at iteration 12" in result.output


def test_a_checkpoint_of_before_the_lock_still_resumes(project, paused):
    state = checkpoint.load(paused / "checkpoints" / "iter_0000004")
    del state["plugins"]
    checkpoint.save(paused / "checkpoints", 4, state)
    assert resume(project).exit_code == 2
    result = resume(project, COUNTING)
    assert result.exit_code == 0, result.output
    assert "counted 12" in result.output
    assert "differ" not in result.output


def test_a_trainer_that_refused_a_resume_starts_a_run_of_its_own(project, paused):
    before = content(paused)
    trainer = DefaultTrainer("run.yaml")
    with pytest.raises(PluginError, match="'counter'"):
        trainer.resume("latest")
    trainer.train()
    assert trainer.run_dir != paused
    assert content(paused) == before


def test_hooks_that_a_trainer_registers_by_itself_are_recorded(project):
    from hookline.hooks import Callback

    trainer = DefaultTrainer("run.yaml", ["train.max_iter=1"])
    trainer.register_hook(Callback(after_step=lambda trainer: None), "mine")
    trainer.train()
    entry = json.loads((trainer.run_dir / "plugins.json").read_text())["hooks"][-1]
    assert (entry["name"], entry["use"], entry["source"]) == ("mine", "Callback", "hookline.hooks.callback")


def test_a_hook_that_was_switched_off_is_so_in_every_record_and_after_a_resume(project, caplog):
    (project.path / "fails.py").write_text(
        "from hookline import HookBase\n\n\nclass Fails(HookBase):\n"
        "    def after_step(self):\n        raise OSError('no network')\n"
    )
    overrides = ["hooks+={./fails.py:Fails: {on_error: disable}}"]
    first = DefaultTrainer("run.yaml", [*overrides, "train.stop_at=5"])
    first.train()
    entry = checkpoint.load(first.run_dir / "checkpoints" / "iter_0000004")["plugins"]["hooks"][-1]
    assert (entry["name"], entry["switched_off"]) == ("Fails", True)
    second = DefaultTrainer("run.yaml", overrides)
    second.resume()
    second.train()
    assert second.hooks.switched_off == first.hooks.switched_off
    assert json.loads((second.run_dir / "plugins.json").read_text())["hooks"][-1] == entry
    assert "differ" not in caplog.text


TALKER = """
    from hookline import EventWriter

    class Talker(EventWriter):
        num_events = 0

        def write(self, events):
            self.num_events += len(events)

        def state_dict(self):
            return {"num_events": self.num_events}

        def load_state_dict(self, state):
            print(f"{type(self).__name__} goes on from a position")
            self.num_events = state["num_events"]

    class Other(Talker):
        pass
"""


@pytest.mark.parametrize(
    ("use", "line"),
    [
        ("one:talker", None),
        ("one:other", "writer 'w': talker (one 1.0) → other (one 1.0), the state of the first is dropped"),
        ("two:talker", "writer 'w': talker (one 1.0) → talker (two 1.0), the state of the first is dropped"),
    ],
)
def test_a_writer_in_the_place_of_another_is_not_given_its_position(project, install, use, line):
    install("one", TALKER, writers=["talker = one:Talker", "other = one:Other"], version="1.0")
    install("two", TALKER, writers=["talker = two:Talker"], version="1.0")
    words = ["train", "run.yaml"]
    paused = project.hookline(*words, "writers+={w: {use: 'one:talker'}}", "train.stop_at=5")
    assert paused.exit_code == 0, paused.output
    words += [f"writers+={{w: {{use: '{use}'}}}}", "--resume", "latest"]
    if line is not None:
        refused = project.hookline(*words)
        assert refused.exit_code == 2
        assert line in refused.output
    result = project.hookline(*words, "plugins.on_change=warn")
    assert result.exit_code == 0, result.output
    assert ("goes on from a position" in result.output) is (line is None)


def test_a_second_journal_is_refused_before_there_is_a_run(project):
    result = project.hookline("train", "run.yaml", "writers+={again: {use: json}}")
    assert result.exit_code == 2
    assert result.output.splitlines()[-1] == (
        "hookline: writers.again: expected one journal in a run, got a second one beside 'json'. "
        "A journal is the run's own record. Take one of the two out of the writers."
    )
    assert not (project.path / "runs").exists()
