"""A process that is killed on its way into any system call loses no checkpoint that it has reported."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _needs_strace(server):
    if reason := server.call("calls:unusable"):
        pytest.skip(reason)


def test_killed_at_each_call_that_changes_the_disk_nothing_reported_is_lost(server, size, record):
    points = server.call("calls:points")
    stride = size(max(len(points) // 8, 1), 1)
    done = server.call("calls:kill_at", points[stride // 2 :: stride])
    outcome = "the last reported checkpoint loads and holds what was reported; the run ends the same"
    record("kill -9 at every system call of a run that saves", trials=done.trials, passed=done.passed,
           outcome=outcome)  # fmt: skip
    assert done.kills >= done.trials * 0.9
    assert not done.failures, "\n\n".join(done.failures[:3])


def test_a_checkpoint_that_is_reported_and_not_there_is_caught(server):
    last = [point for point in server.call("calls:points") if point.call == "write"][-1:]
    # With nothing saved there are fewer calls, and the process ends by itself.
    done = server.call("calls:kill_at", last, patches=["breaks:report_what_is_not_saved"])
    assert "iter_0000002 was reported" in done.failures[0]
