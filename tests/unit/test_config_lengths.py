"""A length is a number of iterations, or epochs where the data says how long one is."""

from __future__ import annotations

import pytest

from hookline.config import Epochs, is_due, to_iterations
from hookline.errors import ConfigError


def test_iterations_are_iterations():
    assert to_iterations(7, None, "w") == 7
    assert to_iterations(0, 5, "w") == 0


def test_epochs_are_counted_in_iterations():
    assert to_iterations(Epochs(3), 5, "w") == 15
    assert to_iterations(Epochs(0), 5, "w") == 0


@pytest.mark.parametrize(("per_epoch", "why"), [(None, "has no length"), (0, "has less than one iteration")])
def test_epochs_of_data_without_a_length_are_refused(per_epoch, why):
    with pytest.raises(ConfigError) as caught:
        to_iterations(Epochs(3), per_epoch, "train.max_iter (run.yaml:6)")
    assert str(caught.value) == (
        "train.max_iter (run.yaml:6): expected a whole number of iterations, got '3 epochs'. "
        f"The loader of data.train {why}, so an epoch is no number of iterations."
    )


def test_epochs_are_written_as_they_are_read():
    assert [str(Epochs(num)) for num in (0, 1, 2)] == ["0 epochs", "1 epoch", "2 epochs"]


def test_a_period_is_due_in_its_last_iteration():
    assert [iteration for iteration in range(9) if is_due(iteration, 3)] == [2, 5, 8]
    assert all(is_due(iteration, 1) for iteration in range(3))


def test_a_period_of_zero_is_never_due():
    assert not any(is_due(iteration, 0) for iteration in range(-1, 9))


def test_a_period_in_epochs_must_be_made_iterations_first():
    with pytest.raises(TypeError, match="period: expected a number of iterations, got '2 epochs'"):
        is_due(0, Epochs(2))
