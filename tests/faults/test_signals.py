"""A signal pauses a run, or has it saved, at whatever instant it comes."""

from __future__ import annotations

import random
import signal
import time

import pytest
import results
from launcher import Launch

PAUSING = [signal.SIGTERM, signal.SIGINT]


def check(done, record, fault, outcome):
    record(fault, trials=done.trials, passed=done.passed, outcome=outcome)
    assert not done.failures, "\n\n".join(done.failures[:3])


@pytest.mark.parametrize("number", PAUSING, ids=lambda number: number.name)
def test_a_signal_at_a_random_instant_pauses_a_run_that_then_ends_the_same(server, size, record, number):
    done = server.call("stops:signal_trials", number, size(3, 20), seed=number)
    assert done.kills or not size(False, True)
    check(done, record, number.name, f"exit code {128 + number}, paused with the signal, then the same end")


def test_sigusr1_at_a_random_instant_saves_and_the_run_goes_on(server, size, record):
    done = server.call("stops:signal_trials", signal.SIGUSR1, size(3, 20), seed=3)
    assert done.kills or not size(False, True)  # one that comes with a periodic save makes none more
    check(done, record, "SIGUSR1", "a checkpoint more, exit code 0, the same end")


RANKS = [(number, to_rank) for number in PAUSING for to_rank in (None, 0, 1)]


@pytest.mark.parametrize(("number", "to_rank"), RANKS if results.is_long() else [(signal.SIGTERM, 1)])
def test_a_signal_pauses_every_rank(server, size, record, number, to_rank):
    done = server.call("stops:signal_trials", number, size(1, 20), world_size=2, to_rank=to_rank, seed=number)
    whom = "both ranks" if to_rank is None else f"rank {to_rank} of 2"
    outcome = f"exit code {128 + number} on both, paused with the signal, then the same end"
    check(done, record, f"{number.name} to {whom}", outcome)


@pytest.mark.skipif(not results.is_long(), reason="twenty starts of a launcher: in the long form")
@pytest.mark.parametrize("number", PAUSING, ids=lambda number: number.name)
def test_a_signal_to_the_launcher_pauses_every_rank(server, record, number, tmp_path):
    draw, failures = random.Random(number), []
    for trial in range(20):
        launch = Launch(tmp_path / str(trial))
        launch.wait_until_it_trains()
        time.sleep(draw.uniform(0, 1.0))
        launch.process.send_signal(number)
        wrong = launch.wrong_ending({128 + number}) or launch.wrong_status("paused", number.name)
        wrong = wrong or server.call("ranks:wrong_end", launch.root, overrides=launch.overrides)
        if wrong:
            failures.append(wrong)
    outcome = f"exit code {128 + number}, paused with the signal, no process left, then the same end"
    record(
        f"{number.name} to hookline train --nproc 2", trials=20, passed=20 - len(failures), outcome=outcome
    )
    assert not failures, "\n\n".join(failures[:3])
