"""``hookline train --trace-hooks`` prints who is called when, with what and for how long."""

from __future__ import annotations

import json

BOOM = """
from hookline import HookBase, hookimpl

class Boom(HookBase):
    def after_step(self, trainer):
        if trainer.iter == 1:
            raise ValueError("boom")

class Around(HookBase):
    @hookimpl(wrapper=True)
    def after_step(self):
        yield
"""


def traced(output):
    """Return the lines of the trace, each without its time."""
    lines = output.splitlines()
    start = next(i for i, line in enumerate(lines) if line.split() == ["iter", "time", "call", "from"])
    return [
        f"{line[:7].strip()} {line[19:]}" for line in lines[start + 1 :] if line[:19].rstrip().endswith("ms")
    ]


def test_the_calls_of_a_run_are_printed_in_order(project):
    result = project.hookline("train", "run.yaml", "--trace-hooks", "hooks+=early-stopping")
    assert result.exit_code == 0, result.output
    lines = traced(result.output)
    assert lines[0].split() == ["0", "schedule.before_train()", "hookline", "0.1.0"]
    assert [line.split()[1] for line in lines if line.startswith("1 ")] == [
        "schedule.before_step()",
        "timer.before_step()",
        "schedule.after_step()",
        "timer.after_step()",
        "evaluate.after_step()",
        "checkpoint.after_step()",
        "progress.after_step()",
    ]
    assert not [line for line in lines if line.startswith(("4 ", "5 ", "6 "))]
    assert any(
        "early-stopping.after_evaluate(name='evaluate', metrics={eval/total_loss: " in line for line in lines
    )
    assert lines[-1].startswith("12 progress.after_train()")


def test_nothing_is_printed_without_the_option(project):
    assert ".before_train()" not in project.hookline("train", "run.yaml", "--smoke").output


def test_smoke_no_plugins_and_resume_can_be_traced(project):
    assert "2 schedule.after_step()" in "\n".join(
        traced(project.hookline("train", "run.yaml", "--smoke", "--no-plugins", "--trace-hooks").output)
    )
    project.hookline("train", "run.yaml", "train.stop_at=5")
    lines = traced(project.hookline("train", "run.yaml", "--resume", "latest", "--trace-hooks").output)
    assert {line.split()[0] for line in lines if "timer.before_step" in line} == {"5", "6", "7"}


def test_a_failure_and_a_wrapper_are_seen(project):
    (project.path / "boom.py").write_text(BOOM)
    result = project.hookline(
        "train", "run.yaml", "--trace-hooks", "hooks=[./boom.py:Boom, ./boom.py:Around]", "writers=[]"
    )
    assert isinstance(result.exception, ValueError)
    lines = [line.partition("  ")[0] for line in traced(result.output) if "Boom" in line or "Around" in line]
    assert lines[-3:] == [
        "1 Around.after_step() [before yield]",
        "1 Boom.after_step(trainer) raised ValueError: boom",
        "1 Around.after_step() [after yield] raised ValueError: boom",
    ]


def test_a_trace_changes_nothing_that_is_measured(project):
    project.hookline("train", "run.yaml")
    project.hookline("train", "run.yaml", "--trace-hooks", "run.dir=traced")
    one, two = ((project.path / folder / "line/latest").resolve() for folder in ("runs", "traced"))
    assert (one / "metrics.jsonl").read_bytes() == (two / "metrics.jsonl").read_bytes()


def test_the_first_rank_alone_prints_it(project):
    result = project.run("train", "run.yaml", "--smoke", "--nproc", "2", "--trace-hooks")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("timer.before_step()") == 3


def test_cost_is_in_the_summary_and_in_timings_but_not_in_metrics(project):
    output = project.hookline("train", "run.yaml").output
    run = (project.path / "runs/line/latest").resolve()
    seconds = json.loads((run / "summary.json").read_text())["hook_seconds"]
    assert seconds["checkpoint"]["save"] > 0
    assert seconds["evaluate"]["evaluate"] > 0
    totals = [sum(by_hook.values()) for by_hook in seconds.values()]
    assert totals == sorted(totals, reverse=True)
    first = json.loads((run / "timings.jsonl").read_text().splitlines()[0])
    assert {"plugin_s/timer/before_step", "plugin_s/timer/after_step", "plugin_s/json/write"} <= first.keys()
    assert "plugin_s" not in (run / "metrics.jsonl").read_text()
    assert "plugin_s" not in output
