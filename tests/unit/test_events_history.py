"""The recent values of one scalar."""

import json
import math
import statistics

import numpy as np
import pytest

from hookline.events import History


def filled(values: list[float]) -> History:
    history = History()
    for iteration, value in enumerate(values):
        history.update(value, iteration)
    return history


def test_means_and_median_are_over_the_last_values():
    history = filled([5.0, 1.0, 2.0, 4.0, 9.0])
    assert history.latest() == 9.0
    assert (history.median(3), history.avg(3)) == (4.0, 5.0)
    assert (history.median(4), history.avg(4)) == (3.0, 4.0)
    assert (history.median(100), history.avg(100)) == (4.0, 4.2)
    assert history.global_avg() == pytest.approx(4.2)


def test_a_history_is_bounded_but_its_mean_is_not():
    data = [math.sin(i) for i in range(3000)]
    history = filled(data)
    assert history.values() == [(value, i) for i, value in enumerate(data)][-1024:]
    assert history.global_avg() == pytest.approx(statistics.fmean(data))


def test_a_second_value_of_an_iteration_replaces_the_first():
    history = filled([1.0, 2.0])
    history.update(4.0, 1)
    assert history.values() == [(1.0, 0), (4.0, 1)]
    assert history.global_avg() == 2.5


def test_a_value_that_arrives_late_takes_its_place():
    history = History()
    for value, iteration in [(1.0, 0), (3.0, 2), (2.0, 1), (5.0, 1), (6.0, 4), (7.0, 4)]:
        history.update(value, iteration)
    assert history.values() == [(1.0, 0), (5.0, 1), (3.0, 2), (7.0, 4)]
    assert history.global_avg() == pytest.approx(4.0)


def test_a_value_that_is_not_finite_is_kept_and_seen():
    history = filled([1.0, math.nan, 3.0])
    assert math.isnan(history.values()[1][0])
    assert math.isnan(history.median(2))
    assert math.isnan(history.avg(2))
    assert history.median(1) == 3.0


def test_values_since_an_iteration_are_counted():
    history = History()
    for iteration in (0, 5, 7, 8):
        history.update(1.0, iteration)
    assert [history.count_since(iteration) for iteration in (0, 5, 6, 8, 9)] == [4, 3, 2, 1, 0]


@pytest.mark.parametrize("window", [0, -1])
def test_a_window_holds_one_value_at_least(window):
    with pytest.raises(ValueError, match="window: expected a whole number >= 1"):
        filled([1.0]).median(window)


def test_a_restored_history_goes_on_bit_for_bit():
    through, before, after = History(), History(), History()
    for iteration in range(2000):
        through.update(math.sin(iteration), iteration)
        if iteration < 1500:
            before.update(math.sin(iteration), iteration)
    state = {
        key: value.copy() if isinstance(value, np.ndarray) else json.loads(json.dumps(value))
        for key, value in before.state_dict().items()
    }
    after.load_state_dict(state)
    for iteration in range(1500, 2000):
        after.update(math.sin(iteration), iteration)
    np.testing.assert_equal(after.state_dict(), through.state_dict())


def test_an_empty_history_survives_its_state():
    history = History()
    history.load_state_dict(History().state_dict())
    history.update(1.0, 0)
    assert history.values() == [(1.0, 0)]
