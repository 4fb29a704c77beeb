"""A line for each call of a plugin."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from hookline import HookBase, hookimpl
from hookline.hooks import Callback
from hookline.plugins import HookCall, Trace


class Quiet(HookBase):
    def before_train(self, trainer):
        pass

    def before_step(self):
        pass

    def after_backward(self):
        pass

    def after_step(self):
        pass

    def after_evaluate(self, name, metrics):
        pass

    def after_train(self):
        pass


class Around(HookBase):
    @hookimpl(wrapper=True)
    def after_step(self):
        yield


def traced(trainer, start_iter, max_iter):
    lines = []
    trainer.hooks.watch(Trace(trainer, lines.append))
    trainer.train(start_iter, max_iter)
    return lines


def calls(lines):
    """Return iteration and call of each line below the header."""
    return [
        (int(match[1]), match[2])
        for line in lines
        if (match := re.fullmatch(r" *(\d+) +[\d.]+ m?s  (\S+?\(.*?\)(?: \[\w+ yield\])?).*", line))
    ]


def test_the_first_three_iterations_and_all_between_iterations_are_told(make_trainer):
    trainer = make_trainer(Quiet())
    trainer.evaluations["e"] = lambda: {"e/loss": 0.5}
    lines = traced(trainer, 4, 12)
    each = ["Quiet.before_step()", "Quiet.after_backward()", "Quiet.after_step()"]
    assert calls(lines) == [
        (4, "Quiet.before_train(trainer)"),
        *((iteration, call) for iteration in (4, 5, 6) for call in each),
        (11, "Quiet.after_evaluate(name='e', metrics={e/loss: 0.5})"),
        (12, "Quiet.after_train()"),
    ]
    assert lines[0].split() == ["iter", "time", "call", "from"]
    assert lines[11].split(None, 1)[1] == "calls within iterations after 6 are not shown"
    assert len(lines) == 14


def test_a_wrapper_has_a_line_for_each_side_of_its_yield(make_trainer):
    lines = traced(make_trainer(Quiet(), Around()), 0, 1)
    assert [call for _, call in calls(lines) if "after_step" in call] == [
        "Around.after_step() [before yield]",
        "Quiet.after_step()",
        "Around.after_step() [after yield]",
    ]


def test_a_call_that_raises_is_told_with_what_it_raised(make_trainer):
    def fail(trainer):
        raise ValueError("on\npurpose")

    lines = []
    trainer = make_trainer(Callback(after_step=fail))
    trainer.hooks.watch(Trace(trainer, lines.append))
    with pytest.raises(ValueError, match="purpose"):
        trainer.train(0, 2)
    (line,) = [line for line in lines if "after_step" in line]
    assert "raised ValueError: on" in line
    assert "\n" not in line


def test_lines_name_the_source_and_fit_a_hundred_columns(make_trainer):
    trainer = make_trainer()
    trainer.register_hook(Quiet(), "quiet", source="quiet-package 1.0")
    trainer.evaluations["a-name-that-is-long"] = lambda: {f"metric/number-{i}": i / 3 for i in range(40)}
    lines = traced(trainer, 0, 1)
    assert max(map(len, lines)) <= 100
    assert next(line for line in lines if "before_step" in line).endswith("  quiet-package 1.0")
    assert next(line for line in lines if "after_evaluate" in line).endswith("…")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (Path("/a/b/iter_0000001"), "…/iter_0000001"),
        ({"a": 1.0, "b": float("nan"), "c": 1, "d": 4}, "{a: 1, b: nan, c: 1, …}"),
        (KeyError("x"), "KeyError: 'x'"),
        (torch.zeros(2, 3), "Tensor(2, 3)"),
        ([torch.zeros(1)], "list"),
        (None, "None"),
        ("x" * 50, "'xxxxxxxxxxxx...xxxxxxxxxxxxx'"),
    ],
)
def test_values_are_shown_in_short(make_trainer, value, shown):
    lines = []
    trainer = make_trainer()
    with Trace(trainer, lines.append)(HookCall("a", "on_error", {"value": value})):
        pass
    assert f"a.on_error(value={shown})" in lines[1]


def test_an_exception_without_a_message_is_shown(make_trainer):
    lines = []
    with (
        pytest.raises(KeyboardInterrupt),
        Trace(make_trainer(), lines.append)(HookCall("a", "before_train", {})),
    ):
        raise KeyboardInterrupt
    assert lines[1].rstrip().endswith("raised KeyboardInterrupt")


def test_only_the_watched_trainer_is_told_of(make_trainer):
    one, two = make_trainer(Quiet()), make_trainer(Quiet())
    lines = []
    one.hooks.watch(Trace(one, lines.append))
    two.train(0, 2)
    assert lines == []
