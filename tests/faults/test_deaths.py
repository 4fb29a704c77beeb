"""What dies beside the training process, or within it for want of memory, does no harm that lasts."""

from __future__ import annotations

import itertools

import pytest
import results
from launcher import Launch


def check(done, record, fault, outcome):
    record(fault, trials=done.trials, passed=done.passed, outcome=outcome)
    assert not done.failures, "\n\n".join(done.failures[:3])


def test_when_a_rank_dies_the_others_say_so_and_a_restart_ends_the_same(server, size, record):
    moments = [(rank, iteration, -1) for rank, iteration in itertools.product((0, 1), range(8))]
    done = server.call("deaths:rank_trials", size(moments[19:20], moments))
    assert done.kills == done.trials
    check(done, record, "death of one of two ranks, each at each iteration", "one error, then the same end")


def test_when_rank_0_dies_in_a_save_a_restart_ends_the_same(server, size, record):
    moments = [(0, iteration, num_syncs) for iteration in (2, 5) for num_syncs in range(12)]
    done = server.call("deaths:rank_trials", size(moments[16:17], moments))
    assert done.kills == done.trials
    check(done, record, "death of rank 0 at each fsync of a save", "one error, then the same end")


def test_when_a_loader_process_dies_the_run_says_so_and_a_restart_ends_the_same(server, size, record):
    done = server.call("deaths:worker_trials", size([4], list(range(1, 8))))
    assert done.kills
    outcome = "one error, no process left, then the same end"
    check(done, record, "death of a loader's process", outcome)


def test_a_killed_run_leaves_no_loader_process(server, size, record):
    done = server.call("deaths:main_trials", size([0.6], [number / 10 for number in range(1, 10)]))
    check(done, record, "kill -9 of a run with loader processes", "no process left, then the same end")


def test_out_of_memory_in_an_iteration_or_a_save_a_restart_ends_the_same(server, size, record):
    kilobytes = size([256], [0, 64, 256, 1024, 4096, 16384])
    limits = [
        (hook, iteration, number * 1024)
        for hook in ("before_step", "after_step")
        for iteration in size([5], [1, 2, 5])
        for number in kilobytes
    ]
    done = server.call("deaths:memory_trials", limits)
    assert done.kills >= done.trials // 2
    check(done, record, "out of memory (RLIMIT_AS) in an iteration or a save", "an error, then the same end")


@pytest.mark.skipif(not results.is_long(), reason="starts of a launcher: in the long form")
def test_a_launcher_names_the_rank_that_died_and_leaves_no_process(server, record, tmp_path):
    failures = []
    for trial, (rank, iteration) in enumerate(itertools.product((0, 1), (0, 3, 250))):
        act = ["before_step", iteration, "acts:kill_rank", [rank]]
        launch = Launch(tmp_path / str(trial), "data.train.loader.num_workers=1", acts=[act])
        wrong = launch.wrong_ending({137}, says=f"rank {rank} was ended by SIGKILL")
        wrong = wrong or server.call("ranks:wrong_end", launch.root, overrides=launch.overrides)
        if wrong:
            failures.append(f"rank {rank} at {iteration}: {wrong}")
    outcome = "the rank named, no process left, then the same end"
    record("death of a rank of hookline train --nproc 2", trials=6, passed=6 - len(failures), outcome=outcome)
    assert not failures, "\n\n".join(failures[:3])
