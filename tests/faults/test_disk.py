"""A disk that is full, fails or cannot be written ends a run loudly, and harms nothing that was saved."""

from __future__ import annotations

import pytest
import results

PAGE_BYTES = 4096


@pytest.fixture
def strace(server):
    if reason := server.call("calls:unusable"):
        pytest.skip(reason)


@pytest.fixture
def small_disk(server):
    if reason := server.call("disk:unusable"):
        pytest.skip(reason.strip().splitlines()[-1])


NAMES = ("openat", "mkdir", "rename")
FAILING = [
    (("write",), "ENOSPC", False),
    (("write",), "ENOSPC", True),
    (("write",), "EIO", False),
    (("write",), "EIO", True),
    (("fsync",), "EIO", False),
    (("fsync",), "EIO", True),
    (NAMES, "ENOSPC", False),
    (NAMES[1:], "ENOSPC", True),  # nobody refuses to open for reading because a disk is full
]


@pytest.mark.parametrize(("calls", "error", "lasting"), FAILING if results.is_long() else FAILING[1::2])
def test_a_call_that_fails_loses_nothing_that_was_reported(
    server, size, record, strace, calls, error, lasting
):
    points = [point for point in server.call("calls:points") if point.call in calls]
    stride = size(len(points), 4)
    done = server.call("calls:fail_at", points[stride // 2 :: stride], error, lasting=lasting)
    how = "from the N-th call on" if lasting else "at the N-th call"
    outcome = "survived, or one error; last good checkpoint intact; then the same end"
    record(f"{error} from {'/'.join(calls)} {how}", trials=done.trials, passed=done.passed, outcome=outcome)
    assert not done.failures, "\n\n".join(done.failures[:3])


def test_a_full_disk_ends_a_run_with_one_error_and_it_goes_on_when_there_is_room(
    server, size, record, small_disk
):
    num_pages = server.call("disk:used_bytes") // PAGE_BYTES
    first, last = size((6, 6 + num_pages), (2, 2 * num_pages))
    stride = size(max((last - first) // 4, 1), 1)
    sizes = [number * PAGE_BYTES for number in range(first, last, stride)]
    done = server.call("disk:full_disk", sizes)
    outcome = "one error; last good checkpoint intact; with room again the same end"
    record("no space left on a small disk", trials=done.trials, passed=done.passed, outcome=outcome)
    assert done.kills > done.trials // 4
    assert not done.failures, "\n\n".join(done.failures[:3])


def test_a_read_only_directory_is_found_before_iteration_0(server, record, small_disk):
    wrong = server.call("disk:read_only_disk")
    record("read-only run.dir", trials=1, passed=int(not wrong), outcome="one error before iteration 0")
    assert not wrong
