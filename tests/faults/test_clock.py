"""Neither a clock that jumps nor a second process changes what a run writes."""

from __future__ import annotations


def check(done, record, fault, outcome):
    record(fault, trials=done.trials, passed=done.passed, outcome=outcome)
    assert not done.failures, "\n\n".join(done.failures[:3])


def test_clock_jumps_between_and_within_attempts_change_nothing(server, size, record):
    done = server.call("rivals:clock_trials", size(3, 100))
    check(done, record, "clock jumps of up to an hour, with kills", "the same end, ordered by iteration only")


def test_a_second_start_is_refused_with_the_holder_and_harms_nothing(server, size, record):
    done = server.call("rivals:second_start_trials", size([5], list(range(8))))
    check(
        done, record, "a second start in one directory", "refused with pid and host; the first ends the same"
    )


def test_a_process_that_was_taken_for_dead_writes_nothing_more(server, size, record):
    done = server.call("rivals:taken_for_dead_trials", size([4], list(range(8))))
    outcome = "the forgotten process ends with one error and changes nothing"
    check(done, record, "a stopped process whose lock was lost", outcome)
