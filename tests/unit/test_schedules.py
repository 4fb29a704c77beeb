import math

import pytest

from hookline.errors import ConfigError
from hookline.schedules import Constant, Cosine, Linear, MultiStep, Schedule

ALL = [Constant, Cosine, Linear, lambda **options: MultiStep([0.5], **options)]


def factors(schedule, max_iter):
    return [schedule.factor(iteration, max_iter) for iteration in range(max_iter + 1)]


@pytest.mark.parametrize("build", ALL)
def test_every_schedule_is_a_schedule(build):
    assert isinstance(build(), Schedule)


@pytest.mark.parametrize("build", ALL)
def test_without_warm_up_a_run_starts_at_the_configured_rate(build):
    assert build().factor(0, 100) == 1.0


@pytest.mark.parametrize("build", ALL)
def test_warm_up_rises_in_a_straight_line_to_the_configured_rate(build):
    schedule = build(warmup_iters=4, warmup_factor=0.2)
    assert factors(schedule, 100)[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_constant_stays():
    assert factors(Constant(), 5) == [1.0] * 6


def test_linear_falls_evenly_over_what_follows_the_warm_up():
    schedule = Linear(warmup_iters=2, end_factor=0.2)
    assert factors(schedule, 6)[2:] == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])


def test_cosine_is_half_way_in_the_middle_and_flat_at_both_ends():
    values = factors(Cosine(warmup_iters=100, end_factor=0.1), 1100)
    assert values[600] == pytest.approx(0.55)
    assert values[350] == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2)
    assert values[1100] == pytest.approx(0.1)
    assert values[100] - values[101] < 1e-5
    assert values[1099] - values[1100] < 1e-5


def test_multi_step_multiplies_by_gamma_at_each_share_of_the_whole_run():
    schedule = MultiStep([0.8, 0.5], gamma=0.1, warmup_iters=2, warmup_factor=0.5)
    expected = [0.5, 0.75, 1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01]
    assert factors(schedule, 10) == pytest.approx(expected)


def test_a_milestone_inside_the_warm_up_counts():
    assert MultiStep([0.1], warmup_iters=5, warmup_factor=0.0).factor(2, 10) == pytest.approx(0.04)


@pytest.mark.parametrize("build", ALL)
def test_past_the_end_the_last_factor_stays(build):
    schedule = build(warmup_iters=3)
    assert schedule.factor(25, 10) == schedule.factor(10, 10)


@pytest.mark.parametrize("build", ALL)
@pytest.mark.parametrize("max_iter", [0, 1, 5])
def test_a_run_as_long_as_its_warm_up_or_shorter_has_factors(build, max_iter):
    assert all(0 <= factor <= 1 for factor in factors(build(warmup_iters=5), max_iter))


def test_a_longer_run_is_rescaled_without_any_state():
    assert Cosine().factor(50, 100) == Cosine().factor(500, 1000)


def test_a_milestone_given_in_iterations_is_refused():
    with pytest.raises(
        ConfigError, match=r"MultiStep\.milestones: expected shares between 0 and 1, got \[30000\]"
    ):
        MultiStep([0.5, 30_000])
