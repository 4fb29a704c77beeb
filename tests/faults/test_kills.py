"""A run that was killed at random instants ends as if nobody had touched it."""

from __future__ import annotations

import pytest

SHORTER = ("train.max_iter=5", "hooks.checkpoint.period=2")
"""Three saves instead of four, for the quick form."""


def check(done, record, fault):
    """Write down what came of the kills, and fail if one run ended otherwise than undisturbed."""
    same = "weights, optimizer, RNG and metrics the same to the byte; each TensorBoard point once"
    outcome = f"after {done.kills:,} kills: {same}"
    record(fault, trials=done.trials, passed=done.passed, outcome=outcome)
    assert not done.failures, "\n\n".join(done.failures[:3])


def test_killed_at_random_instants_a_run_ends_as_if_it_had_not_been(server, size, record):
    done = server.call("job:kill_trials", size(100, 1000), seed=1, overrides=size(SHORTER, ()))
    assert done.kills >= size(100, 1000)
    check(done, record, "kill -9 at random instants")


def test_killed_while_it_saves_in_the_background_a_run_ends_the_same(server, size, record):
    overrides = (*size(SHORTER, ()), "hooks.checkpoint.background=true")
    done = server.call("job:kill_trials", size(10, 300), seed=4, overrides=overrides)
    check(done, record, "kill -9 at random instants, saving in the background")


def test_a_harness_that_forgets_the_rng_is_caught(server):
    patches = ["breaks:forget_rng"]
    done = server.call("job:kill_trials", 40, seed=2, overrides=SHORTER, patches=patches, max_failures=1)
    assert done.failures
    assert "model.safetensors" in done.failures[0]


@pytest.mark.parametrize("writer", ["metrics.jsonl", "TensorBoard"])
def test_a_writer_that_is_not_rewound_is_caught(server, writer):
    patch = {"metrics.jsonl": "breaks:forget_json_position", "TensorBoard": "breaks:forget_events_position"}
    patches = [patch[writer]]
    done = server.call("job:kill_trials", 40, seed=3, overrides=SHORTER, patches=patches, max_failures=1)
    assert done.failures
