"""What differs between the plugins of a checkpoint and those of now, in a person's words."""

from __future__ import annotations

import copy

import pytest

from hookline import PluginError
from hookline.lock import agreed, changes


def entry(name, kind="hook", **changed):
    return {
        "name": name,
        "kind": kind,
        "use": name,
        "source": "hookline 0.1.0",
        "distribution": "hookline",
        "version": "0.1.0",
        "options": {},
        "state_version": 1,
        "stateful": False,
    } | changed


def made(*hooks, writers=(), call_order=None):
    names = [hook["name"] for hook in hooks]
    return {"hooks": list(hooks), "writers": list(writers), "call_order": call_order or names}


EMA = entry("ema", source="hookline-ema 1.0", distribution="hookline-ema", version="1.0", stateful=True)
TIMER = entry("timer")
FORK = {"source": "fork 1.0", "distribution": "fork"}
JSON = entry("json", "writer", source="hookline-json 0.1.0", distribution="hookline-json", stateful=True)

WRITERS = entry("writers", stateful=True)

DIFFERENCES = {
    "gone": (made(TIMER), made(), ["hook 'timer' (hookline 0.1.0): gone"]),
    "gone_with_state": (
        made(EMA),
        made(),
        ["! hook 'ema' (hookline-ema 1.0): gone, its state is dropped"],
    ),
    "writer_gone": (
        made(writers=[JSON]),
        made(),
        ["! writer 'json' (hookline-json 0.1.0): gone, its state is dropped"],
    ),
    "new": (made(), made(TIMER), ["hook 'timer' (hookline 0.1.0): new"]),
    "new_with_state": (made(), made(EMA), ["hook 'ema' (hookline-ema 1.0): new, it starts anew"]),
    "state_version": (
        made(EMA),
        made(EMA | {"state_version": 2}),
        ["! hook 'ema': state version 1 → 2, it starts anew"],
    ),
    "writer_state_version": (
        made(writers=[JSON]),
        made(writers=[JSON | {"state_version": 2}]),
        ["! writer 'json': state version 1 → 2, it starts anew"],
    ),
    "version_without_state": (made(TIMER), made(TIMER | {"state_version": 2}), []),
    "options": (
        made(entry("e", options={"period": 5, "keep": 3, "same": [1]})),
        made(entry("e", options={"period": 10, "same": [1], "dir": "x"})),
        ["hooks.e.period: 5 → 10", "hooks.e.keep: 3 → not set", "hooks.e.dir: not set → 'x'"],
    ),
    "option_of_none": (
        made(entry("e", options={"dir": None})),
        made(entry("e")),
        ["hooks.e.dir: None → not set"],
    ),
    "long_option": (
        made(entry("e", options={"x": "a" * 99})),
        made(entry("e", options={"x": 1})),
        [f"hooks.e.x: '{'a' * 58}… → 1"],
    ),
    "releases_by_distribution": (
        made(TIMER, entry("evaluate"), EMA),
        made(*(hook | {"source": "hookline 0.2.0"} for hook in (TIMER, entry("evaluate"))), EMA),
        ["hookline 0.1.0 → hookline 0.2.0: timer, evaluate"],
    ),
    "another_plugin_of_the_name": (
        made(entry("stop", use="early-stopping", stateful=True)),
        made(entry("stop", use="time-limit", source="other 1.0")),
        [
            "! hook 'stop': early-stopping (hookline 0.1.0) → time-limit (other 1.0), "
            "the state of the first is dropped"
        ],
    ),
    "another_distribution": (
        made(EMA | {"use": "ema"}, TIMER),
        made(EMA | FORK, TIMER | FORK),
        [
            "! hook 'ema': ema (hookline-ema 1.0) → ema (fork 1.0), the state of the first is dropped",
            "hook 'timer': timer (hookline 0.1.0) → timer (fork 1.0)",
        ],
    ),
    "another_spelling_of_a_distribution": (
        made(EMA),
        made(EMA | {"distribution": "Hookline_EMA"}),
        [],
    ),
    "a_file_that_became_a_distribution": (
        made(EMA | {"source": "./ema.py", "distribution": None}),
        made(EMA),
        ["./ema.py → hookline-ema 1.0: ema"],
    ),
    "nan": (
        made(entry("e", options={"x": float("nan"), "y": [{"z": float("nan")}, 1]})),
        made(entry("e", options={"x": float("nan"), "y": ({"z": float("nan")}, 1)})),
        [],
    ),
    "nan_or_not": (
        made(entry("e", options={"x": float("nan"), "y": [1, float("nan")], "z": {"a": 1}})),
        made(entry("e", options={"x": 1.0, "y": [float("nan"), 1], "z": {"b": 1}})),
        ["hooks.e.x: nan → 1.0", "hooks.e.y: [1, nan] → [nan, 1]", "hooks.e.z: {'a': 1} → {'b': 1}"],
    ),
    "no_state_any_more": (
        made(EMA),
        made(EMA | {"stateful": False}),
        ["! hook 'ema': has no state any more, what was saved is dropped"],
    ),
    "a_state_now": (
        made(EMA | {"stateful": False}),
        made(EMA),
        ["hook 'ema': has a state now, it starts anew"],
    ),
    "call_order_of_those_that_stayed": (
        made(EMA, TIMER, call_order=["ema", "timer"]),
        made(EMA, TIMER, entry("new"), call_order=["new", "timer", "ema"]),
        ["hook 'new' (hookline 0.1.0): new", "call order: ema, timer → timer, ema"],
    ),
    "nothing": (made(EMA, TIMER, writers=[JSON]), made(EMA, TIMER, writers=[JSON]), []),
    "a_hook_and_a_writer_of_one_name": (
        made(entry("json"), writers=[JSON]),
        made(writers=[JSON]),
        ["hook 'json' (hookline 0.1.0): gone"],
    ),
}


@pytest.mark.parametrize("case", DIFFERENCES)
def test_each_difference_is_one_line(case):
    saved, now, lines = DIFFERENCES[case]
    found = [f"{'! ' if change.loses_state else ''}{change.text}" for change in changes(saved, now)]
    assert found == lines


@pytest.mark.parametrize(
    ("position", "line"),
    [
        ({"use": "hookline-json:json"}, "back, it goes on after what it has"),
        ({"use": "json", "version": 1}, "back, it goes on after what it has"),
        ({"use": "hookline-json:json", "version": 2}, "new, it starts anew"),
        ({"use": "fork:json"}, "new, it starts anew"),
        ({"use": "hookline-json:other"}, "new, it starts anew"),
    ],
)
def test_a_writer_is_back_where_its_position_was_kept(caplog, position, line):
    kept = {"writers": {"version": 1, "state": {"json": position}}}
    resumed(made(WRITERS, writers=[JSON]), saved=made(WRITERS), states=kept)
    assert caplog.messages[-1] == f"  writer 'json' (hookline-json 0.1.0): {line}"


@pytest.mark.parametrize(
    ("hooks", "line"),
    [
        ([WRITERS], "gone, it misses what follows, its position is kept"),
        ([], "gone, its state is dropped"),
        ([WRITERS | {"state_version": 2}], "gone, its state is dropped"),
    ],
)
def test_the_position_of_a_writer_that_is_gone_is_kept_where_somebody_keeps_it(caplog, hooks, line):
    saved = {"writers": {"version": 1, "state": {"json": {}}}}
    resumed(made(*hooks), "warn", saved=made(WRITERS, writers=[JSON]), states=saved)
    assert f"  writer 'json' (hookline-json 0.1.0): {line}" in caplog.messages


def test_a_hook_of_the_name_of_a_writer_that_was_left_out_is_new():
    (change,) = changes(made(), made(EMA), {"ema": {"use": "hookline-ema:ema"}})
    assert change.text == "hook 'ema' (hookline-ema 1.0): new, it starts anew"


def test_what_loses_a_state_is_told_first():
    found = changes(made(TIMER, EMA), made())
    assert [change.loses_state for change in found] == [True, False]


STATE = {"version": 1, "state": {"decay": 0.9}}


def resumed(now, policy=None, saved=None, states=None):
    state = {"hooks": {"ema": STATE} if states is None else states, "rng": "kept"}
    if saved is not None:
        state["plugins"] = saved
    before = copy.deepcopy(state)
    result = agreed(state, now, "plugins.on_change (run.yaml:3)", policy)
    assert state == before
    assert result["rng"] == "kept"
    return result["hooks"]


def test_a_lost_state_is_an_error_unless_asked_for():
    with pytest.raises(PluginError) as error:
        resumed(made(TIMER), saved=made(EMA, TIMER))
    assert str(error.value) == (
        "plugins.on_change (run.yaml:3): expected the plugins that the run was saved with, got others:\n"
        "  hook 'ema' (hookline-ema 1.0): gone, its state is dropped\n"
        "Put them back as they were, or go on without what cannot be kept: plugins.on_change=warn."
    )
    assert error.value.exit_code == 2


def test_any_difference_is_an_error_where_the_config_says_so():
    with pytest.raises(PluginError, match="'timer'.* new"):
        resumed(made(EMA, TIMER), "error", saved=made(EMA))


def test_no_difference_is_never_an_error(caplog):
    assert resumed(made(EMA), "error", saved=made(EMA)) == {"ema": STATE}
    assert not caplog.records


@pytest.mark.parametrize(("policy", "num_lines"), [(None, 2), ("warn", 2), ("ignore", 0)])
def test_what_loses_nothing_is_told_unless_it_is_ignored(caplog, policy, num_lines):
    assert resumed(made(EMA, TIMER), policy, saved=made(EMA)) == {"ema": STATE}
    assert len(caplog.records) == num_lines


@pytest.mark.parametrize("policy", ["warn", "ignore"])
def test_a_state_that_cannot_be_used_is_left_out(policy):
    newer, other = EMA | {"state_version": 2}, EMA | {"use": "swa"}
    assert resumed(made(newer), policy, saved=made(EMA)) == {"ema": None}
    assert resumed(made(other), policy, saved=made(EMA)) == {"ema": None}
    assert resumed(made(EMA | FORK), policy, saved=made(EMA)) == {"ema": None}
    assert resumed(made(), policy, saved=made(EMA)) == {}
    assert resumed(made(EMA | {"stateful": False}), policy, saved=made(EMA)) == {}
    assert resumed(made(EMA), policy, saved=made(), states={}) == {"ema": None}


OFF = {"failures": {"on_error": "disable", "number": 1, "off": "OSError: no network"}}


def test_a_hook_that_was_switched_off_is_neither_new_nor_another(caplog):
    was = made(EMA | {"stateful": False, "switched_off": True}, call_order=["timer"])
    assert resumed(made(EMA), saved=was, states={"ema": OFF}) == {"ema": OFF}
    assert not caplog.records
    assert resumed(made(), saved=was, states={"ema": OFF}) == {}


@pytest.mark.parametrize("change", [{"options": {"decay": 0.5}}, {"source": "hookline-ema 1.1"}])
def test_a_hook_that_was_changed_is_not_switched_off_any_more(caplog, change):
    was = made(EMA | {"stateful": False, "switched_off": True}, call_order=[])
    assert resumed(made(EMA | change), saved=was, states={"ema": OFF}) == {"ema": None}
    assert "  hook 'ema': was switched off, is on again" in caplog.messages
    retried = {"ema": STATE | OFF}
    assert resumed(made(EMA), saved=made(EMA), states=retried) == retried
    assert resumed(made(EMA | change), saved=made(EMA), states=retried) == {"ema": STATE}


def test_a_checkpoint_of_before_the_lock_is_compared_by_its_states(caplog):
    assert resumed(made(EMA, TIMER, writers=[JSON])) == {"ema": STATE}
    assert not caplog.records
    with pytest.raises(PluginError, match=r"hook 'ema' \(unknown\): gone"):
        resumed(made(TIMER))
    with pytest.raises(PluginError, match="state version 1 → 2"):
        resumed(made(EMA | {"state_version": 2}))
    assert resumed(made(EMA), states={}) == {"ema": None}
    assert caplog.messages[-1] == "  hook 'ema' (hookline-ema 1.0): new, it starts anew"
