"""A signal pauses a run, or has it saved, at whatever instant it comes."""

from __future__ import annotations

import signal

import pytest

PAUSING = [signal.SIGTERM, signal.SIGINT]


def check(done, record, fault, outcome):
    record(fault, trials=done.trials, passed=done.passed, outcome=outcome)
    assert not done.failures, "\n\n".join(done.failures[:3])


@pytest.mark.parametrize("number", PAUSING, ids=lambda number: number.name)
def test_a_signal_at_a_random_instant_pauses_a_run_that_then_ends_the_same(server, size, record, number):
    done = server.call("stops:signal_trials", number, size(5, 20), seed=number)
    assert done.kills
    check(done, record, number.name, f"exit code {128 + number}, paused with the signal, then the same end")


def test_sigusr1_at_a_random_instant_saves_and_the_run_goes_on(server, size, record):
    done = server.call("stops:signal_trials", signal.SIGUSR1, size(5, 20), seed=3)
    assert done.kills
    check(done, record, "SIGUSR1", "a checkpoint more, exit code 0, the same end")


@pytest.mark.parametrize("to_rank", [None, 0, 1], ids=["all", "rank0", "rank1"])
@pytest.mark.parametrize("number", PAUSING, ids=lambda number: number.name)
def test_a_signal_pauses_every_rank(server, size, record, number, to_rank):
    if not size(to_rank == 1 and number == signal.SIGTERM, True):
        pytest.skip("in the long form")
    done = server.call("stops:signal_trials", number, size(2, 20), world_size=2, to_rank=to_rank, seed=number)
    whom = "both ranks" if to_rank is None else f"rank {to_rank} of 2"
    outcome = f"exit code {128 + number} on both, paused with the signal, then the same end"
    check(done, record, f"{number.name} to {whom}", outcome)
