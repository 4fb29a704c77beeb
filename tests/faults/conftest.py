"""What fault tests share: how long they are, the record of what they found, and the processes they break.

`make test` runs the quick form of each; ``HOOKLINE_FAULTS=long``, which `make faults` sets, runs the same tests
with larger numbers and writes down what they found, for docs/reliability.md.
"""

from __future__ import annotations

import sys
import time
from datetime import date
from pathlib import Path

import pytest

# The helpers beside this file are imported by name, here and in the processes that tests start.
sys.path.insert(0, str(Path(__file__).parent))

import results
from server import Server


@pytest.fixture
def size():
    """Return a function that chooses between the quick form's number and the long form's."""
    return lambda quick, long: long if results.is_long() else quick


@pytest.fixture
def record(request):
    """Return a function that writes down one row of the table in docs/reliability.md.

    ``record("kill -9 at random instants", trials=1000, passed=1000, outcome="resumed to the bit")``; call it
    before the assertion, so that what falls short is in the table as well. In the quick form it only checks
    that the row is one.
    """
    start = time.monotonic()

    def write(fault: str, *, trials: int, passed: int, outcome: str) -> None:
        assert 0 <= passed <= trials, f"{passed} of {trials}"
        assert fault, "a row needs a name"
        assert outcome, "a row needs an outcome"
        row = results.Row(
            fault=fault,
            trials=trials,
            passed=passed,
            outcome=outcome,
            seconds=round(time.monotonic() - start, 1),
            test=request.node.nodeid,
            date=date.today().isoformat(),
        )
        if results.is_long():
            results.add(row)

    return write


@pytest.fixture(scope="session")
def server():
    """Return the process that has torch imported and a job done once, and forks for each trial."""
    if sys.platform != "linux":
        pytest.skip("it forks, waits and kills as Linux does")
    with Server() as started:
        yield started
