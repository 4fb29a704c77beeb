"""Time spent in plugins and writers: measured in one iteration of 16, told as volatile scalars."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from hookline import EventStorage, HookBase
from hookline.hooks import Callback, Checkpoint
from hookline.plugins import HookManager
from hookline.trainer.cost import Cost


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes when a plugin says so, and a function that lets it."""
    now = [0.0]

    def spend(seconds):
        now[0] += seconds

    monkeypatch.setattr("hookline.plugins.dispatch.perf_counter", lambda: now[0])
    monkeypatch.setattr("hookline.trainer.cost.monotonic", lambda: now[0])
    return spend


@pytest.fixture
def slow(clock):
    """A hook that takes two milliseconds an iteration, until it is told otherwise."""

    class Slow(HookBase):
        seconds = 0.002

        def after_step(self):
            clock(self.seconds)

    return Slow()


def told(storage):
    """Return the list that scalars of plugins, by iteration and name, are added to as they are sealed."""
    found = []
    storage.attach(
        lambda events: found.extend(
            (event.iteration, name, scalar)
            for event in events
            for name, scalar in event.scalars.items()
            if name.startswith("plugin_s/")
        )
    )
    return found


def test_one_iteration_in_sixteen_is_measured_and_the_first():
    cost, hooks = Cost(), HookManager()
    weights = [cost.begin(iteration, iteration == 0, hooks) for iteration in range(1600)]
    assert weights[0] == 1
    assert set(weights[1:]) == {0, 16}
    assert sum(weights) == pytest.approx(1600, rel=0.05)


@pytest.mark.parametrize("period", [2, 4, 5, 8, 10, 16, 20, 32, 50, 64, 100, 144, 233, 500, 1000])
def test_what_is_measured_falls_in_with_no_period(period):
    cost, hooks = Cost(), HookManager()
    cost.reset(hooks)  # as each run does: what is drawn at random is the same every time
    sampled = [i for i in range(1, 16 * 30000) if cost.begin(i, False, hooks)]
    due = sum((iteration + 1) % period == 0 for iteration in sampled)
    assert due / len(sampled) == pytest.approx(1 / period, rel=0.35)


def test_measuring_draws_no_random_number_of_a_run():
    state = random.getstate()
    cost, hooks = Cost(), HookManager()
    cost.reset(hooks)
    assert sum(cost.begin(i, i == 0, hooks) > 0 for i in range(160)) == 11
    assert random.getstate() == state


def test_seconds_of_a_hook_are_a_volatile_scalar_of_the_measured_iterations(make_trainer, slow):
    slow.seconds = 0.5
    trainer = make_trainer(slow)
    found = told(trainer.storage)
    trainer.train(0, 64)
    assert 2 <= len(found) <= 8
    assert found[0][0] == 0
    assert {name for _, name, _ in found} == {"plugin_s/Slow/after_step"}
    assert all(scalar.volatile for _, _, scalar in found)
    assert [scalar.value for _, _, scalar in found] == pytest.approx([0.5] * len(found))


def test_writers_are_told_of_them_once_a_second_at_most(make_trainer, slow):
    trainer = make_trainer(slow)
    found = told(trainer.storage)
    trainer.train(0, 1600)
    assert 3 <= len(found) <= 4
    assert all(later - earlier >= 500 for (earlier, *_), (later, *_) in pairwise(found))


def test_they_have_no_history_so_that_checkpoints_stay_small(make_trainer, slow):
    trainer = make_trainer(slow)
    trainer.train(0, 64)
    assert not [name for name in trainer.storage.histories() if name.startswith("plugin_s/")]


def test_the_estimate_of_all_iterations_is_near_the_truth(make_trainer, slow):
    trainer = make_trainer(slow)
    trainer.train(0, 160)
    assert trainer.hooks.seconds["Slow"]["after_step"] == pytest.approx(160 * 0.002, rel=0.15)


def test_a_first_iteration_that_is_slow_counts_once(make_trainer, clock):
    trainer = make_trainer(Callback(after_step=lambda trainer: clock(5.0 if trainer.iter == 0 else 0.0)))
    trainer.train(0, 20)
    assert trainer.hooks.seconds["Callback"]["after_step"] == 5.0


def test_evaluating_and_saving_count_for_the_plugins_that_do_it(make_trainer, tmp_path, clock):
    def evaluate():
        clock(3.0)
        return {"slow/value": 1.0}

    class Saving(Checkpoint):
        def save(self, *arguments):
            clock(4.0)
            return super().save(*arguments)

    trainer = make_trainer(Saving(dir=str(tmp_path)))
    trainer.evaluations["slow"] = evaluate
    trainer.train(0, 2)
    assert trainer.hooks.seconds["slow"] == {"evaluate": 3.0}
    assert trainer.hooks.seconds["Saving"]["save"] == 4.0


def test_a_second_train_is_measured_by_itself(make_trainer, slow):
    trainer = make_trainer(slow)
    trainer.train(0, 1)
    trainer.train(1, 2)
    assert trainer.hooks.seconds["Slow"]["after_step"] == pytest.approx(0.002)


class _Delivery:
    seconds = {"memory": 0.0}


def test_a_writer_is_told_of_by_what_it_took_since_the_last_time():
    cost, storage, delivery = Cost(), EventStorage(), _Delivery()
    found = told(storage)
    for total in (1.0, 1.5, 1.5):
        delivery.seconds = {"memory": total}
        cost.put(storage, HookManager(), [delivery])
        storage.step()
    assert [(name, scalar.value) for _, name, scalar in found] == [
        ("plugin_s/memory/write", seconds) for seconds in (1.0, 0.5, 0.0)
    ]


def test_nothing_is_put_for_a_trainer_without_plugins(make_trainer):
    trainer = make_trainer()
    found = told(trainer.storage)
    trainer.train(0, 40)
    assert found == []


def test_two_trainers_measure_apart(make_trainer, slow):
    one, two = make_trainer(slow), make_trainer(Callback(after_step=lambda trainer: None))
    one.train(0, 3)
    two.train(0, 3)
    assert one.hooks.seconds.keys() == {"Slow"}
    assert two.hooks.seconds.keys() == {"Callback"}
