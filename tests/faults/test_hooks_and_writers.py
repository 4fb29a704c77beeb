"""Whatever a hook or a writer does, at whichever point: the documented outcome, and a run that can go on.

The outcomes are those of docs/reference/hooks.md and docs/reference/writers.md.
"""

from __future__ import annotations

import itertools

import pytest
from cells import Cell

from hookline.hookspecs import HookSpecs

HOOKS = [name for name in vars(HookSpecs) if not name.startswith("_")]
POLICIES = ("retry", "disable", "raise", "journal")
METHODS = ("open", "write", "state_dict", "close")
CODES = {"raise": 1, "exit": 7, "interrupt": 130}


def ends_of(cell):
    """Return the exit code and the state that a hook's misbehaviour leads to."""
    if cell.place == "on_error":
        return 1, "failed"  # by the error that it was told of
    if cell.act == "raise" and cell.policy != "raise":
        return 0, "finished"
    return CODES[cell.act], "paused" if cell.place == "after_load" else "failed"


def wrong_with_hook(cell, outcome):
    """Return what is not as documented in the end of a run with a hook that raised, or nothing."""
    if (outcome.code, outcome.state) != ends_of(cell):
        return f"exit code {outcome.code}, {outcome.state}, instead of {ends_of(cell)}"
    if "BadHook" not in outcome.output and (cell.act, cell.place) != ("interrupt", "after_load"):
        return "the plugin is not named"
    if outcome.state == "failed" and "--resume" not in outcome.output:
        return "the command that resumes is not told"
    return outcome.then and f"the next attempt: {outcome.then}"


def wrong_with_hanging(cell, outcome):
    """Return what is not as documented after two SIGTERM to a run whose hook hangs, or nothing."""
    begun = cell.place != "after_load"
    if begun and not outcome.waited:
        return "the first SIGTERM ended it"
    if outcome.code not in ((143,) if begun else (143, -15)):
        return f"exit code {outcome.code} instead of 143"
    if outcome.state != ("running" if begun else "paused"):
        return f"status {outcome.state}"
    return outcome.then and f"the next attempt: {outcome.then}"


def wrong_with_writer(cell, outcome):
    """Return what is not as documented in the end of a run with a writer that misbehaved, or nothing."""
    must_not = cell.policy in ("raise", "journal") or (cell.place == "open" and cell.policy == "retry")
    if cell.act == "block":
        wanted, gaps = (0, "finished"), []
    elif must_not:
        wanted, gaps = (1, "failed"), None
    else:
        wanted, gaps = (0, "finished"), ["BadWriter"]
    if (outcome.code, outcome.state) != wanted:
        return f"exit code {outcome.code}, {outcome.state}, instead of {wanted}"
    if gaps is not None and [name for name, _ in outcome.gaps] != gaps:
        return f"gaps {outcome.gaps}"
    if cell.place == "close" and any(num_events for _, num_events in outcome.gaps):
        return f"a writer that was told everything has a gap: {outcome.gaps}"
    if wanted[1] == "failed" and "--resume" not in outcome.output:
        return "the command that resumes is not told"
    return outcome.then and f"the next attempt: {outcome.then}"


@pytest.fixture
def check(server, record, size):
    """Return a function that has all ``cells`` happen and checks the end of each, and of some next attempts."""

    def run(fault, cells, wrong_with):
        outcomes = server.call("cells:outcomes", cells, goes_on_every=size(4, 1))
        failures = [
            f"{cell}: {wrong}\n{outcome.output[-1200:]}"
            for cell, outcome in zip(cells, outcomes, strict=True)
            if (wrong := wrong_with(cell, outcome))
        ]
        record(
            fault,
            trials=len(cells),
            passed=len(cells) - len(failures),
            outcome="exit code, status, what is told and the next attempt are as documented",
        )
        assert not failures, "\n\n".join(failures)

    return run


SOME_HOOKS = ("after_step", "after_load")
"""In the quick form, where one place in the code decides for all the others."""


def test_a_hook_that_raises(check, size):
    lenient = size(("after_step", "on_error"), HOOKS)
    policies = {hook: ("raise", "disable", "retry") if hook in lenient else ("raise",) for hook in HOOKS}
    cells = [Cell(hook, "raise", policy) for hook in HOOKS for policy in policies[hook]]
    check("hooks that raise", cells, wrong_with_hook)


def test_a_hook_that_raises_systemexit_or_keyboardinterrupt(check, size):
    cells = [
        Cell(hook, act, policy)
        for hook, act, policy in itertools.product(
            HOOKS, ("exit", "interrupt"), ("raise", "disable", "retry")
        )
        if hook in size(SOME_HOOKS if policy == "raise" else ("after_step",), HOOKS)
    ]
    check("hooks that raise SystemExit or KeyboardInterrupt", cells, wrong_with_hook)


def test_a_hook_that_hangs(check, size):
    cells = [Cell(hook, "hang", "raise") for hook in size(SOME_HOOKS, HOOKS)]
    check("hooks that hang, and two SIGTERM", cells, wrong_with_hanging)


def test_a_writer_that_raises_blocks_or_hangs(check, size):
    cells = [
        Cell(method, act, policy, is_writer=True)
        for act, policy, method in itertools.product(("raise", "hang", "block"), POLICIES, METHODS)
    ]
    # A stride that comes by each method, act and policy.
    check("writers that raise, block or hang", cells[:: size(7, 1)], wrong_with_writer)
