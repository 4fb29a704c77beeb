"""A writer that fails, is slow or hangs takes nothing from a run but its own record."""

from __future__ import annotations

import json
import time

import pytest
import torch

from hookline import load_model

BAD = """
from hookline.testing import FailingWriter, HangingWriter, SlowWriter

class Failing(FailingWriter):
    def __init__(self):
        super().__init__("write")

class Closing(FailingWriter):
    def __init__(self):
        super().__init__("close")

class Slow(SlowWriter):
    def __init__(self):
        super().__init__(0.05)

class Hanging(HangingWriter):
    def __init__(self):
        super().__init__()
"""
TIMEOUT_S = 0.5  # far from the 10 s that are the default


@pytest.fixture
def train(project):
    """Return a function that trains with one more writer, and returns the run directory and what was printed."""
    (project.path / "bad.py").write_text(BAD)

    def run(writer=None):
        start = time.perf_counter()
        result = project.hookline(
            "train",
            "run.yaml",
            "train.max_iter=60",
            f"hooks.writers.timeout_s={TIMEOUT_S}",
            *([f"writers+=./bad.py:{writer}"] if writer else []),
        )
        assert result.exit_code == 0, result.stderr
        return (project.path / "runs/line/latest").resolve(), result.stdout, time.perf_counter() - start

    return run


@pytest.mark.parametrize("writer", ["Failing", "Slow", "Hanging"])
def test_weights_and_journal_are_those_of_a_run_without_the_bad_writer(train, writer):
    good, _, _ = train()
    bad, output, _ = train(writer)
    for (name, expected), value in zip(
        load_model(good).state_dict().items(), load_model(bad).state_dict().values(), strict=True
    ):
        assert torch.equal(expected, value), name
    assert (bad / "metrics.jsonl").read_bytes() == (good / "metrics.jsonl").read_bytes()
    gaps = json.loads((bad / "summary.json").read_text())["gaps"]
    if writer == "Slow":
        assert gaps == []
        return
    (gap,) = gaps
    assert (gap["writer"], gap["first_iteration"], gap["last_iteration"]) == (writer, 0, 59)
    assert f"{writer} missed" in output
    assert output.count("warning:") == 1


def test_a_writer_that_was_not_closed_has_missed_nothing(train):
    _, output, _ = train("Closing")
    assert "Closing missed nothing, but was not closed: OSError: disk full" in output


def test_a_writer_that_hangs_delays_the_end_by_its_timeout_and_no_more(train):
    _, _, without = train()
    _, _, hung = train("Hanging")
    assert hung - without < 8
