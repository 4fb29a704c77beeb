"""How a run ends: a time limit is met, a signal saves or pauses at once, and ranks do it together."""

from __future__ import annotations

import os
import signal

import pytest

from hookline import HookBase
from hookline.hooks import Checkpoint, Evaluate
from hookline.trainer import ending


class Clock(HookBase):
    """Lets each iteration take some seconds of a clock that only it moves."""

    def __init__(self, now, *iteration_s):
        self.now, self.iteration_s = now, iteration_s

    def before_step(self):
        number = min(self.trainer.iter, len(self.iteration_s) - 1)
        self.now[0] += self.iteration_s[number]


class SlowCheckpoint(Checkpoint):
    """Saves, and lets it take some seconds of the clock."""

    def __init__(self, now, save_s, **options):
        super().__init__(**options)
        self.now, self.save_s = now, save_s

    def save(self, *arguments):
        self.now[0] += self.save_s
        return super().save(*arguments)


@pytest.fixture
def now(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(ending, "monotonic", lambda: now[0])
    return now


def test_a_time_limit_pauses_while_another_iteration_would_still_fit_without_its_margin(make_trainer, now):
    trainer = make_trainer(Clock(now, 10.0))
    trainer.time_limit_s = 100.0
    trainer.train(0, 1000)
    # After 8 iterations 20 s are left: 10 for the next one and 10 of margin are not less.
    assert (trainer.status, trainer.iter) == ("paused", 8)
    assert trainer.is_out_of_time
    assert trainer.reason == "time limit of 1m40s"


def test_what_of_the_limit_is_spent_before_counts(make_trainer, now):
    trainer = make_trainer(Clock(now, 10.0))
    trainer.time_limit_s, trainer.time_spent_s = 100.0, 40.0
    trainer.train(0, 1000)
    assert trainer.iter == 4


def test_the_margin_of_a_long_limit_is_half_a_minute(make_trainer, now):
    trainer = make_trainer(Clock(now, 10.0))
    trainer.time_limit_s = 3600.0
    trainer.train(0, 1000)
    assert trainer.iter == (3600 - 30 - 10) // 10


def test_the_slow_first_iteration_does_not_count_for_the_next_ones(make_trainer, now):
    trainer = make_trainer(Clock(now, 40.0, 1.0))
    trainer.time_limit_s = 100.0
    trainer.train(0, 1000)
    assert now[0] - 100.0 == pytest.approx(89.0)


def test_the_longest_iteration_counts_for_the_next_one(make_trainer, now):
    trainer = make_trainer(Clock(now, 1.0, 1.0, 30.0, 1.0))
    trainer.time_limit_s = 100.0
    trainer.train(0, 1000)
    assert 59.0 <= now[0] - 100.0 <= 60.0


def test_time_is_left_for_the_last_save(make_trainer, now, tmp_path):
    checkpoint = SlowCheckpoint(now, 20.0, period=1, keep=2)
    trainer = make_trainer(Clock(now, 1.0), checkpoint, run_dir=tmp_path)
    trainer.time_limit_s = 100.0
    trainer.train(0, 1000)
    assert trainer.status == "paused"
    # Four times 21 s, and no fifth time.
    assert now[0] - 100.0 == 84.0


def test_a_limit_that_is_over_before_the_first_iteration_pauses_at_once(make_trainer, now, tmp_path):
    trainer = make_trainer(Clock(now, 1.0), Checkpoint(), run_dir=tmp_path)
    trainer.time_limit_s, trainer.time_spent_s = 60.0, 59.0
    trainer.train(4, 1000)
    assert (trainer.status, trainer.iter) == ("paused", 4)
    assert not list((tmp_path / "checkpoints").glob("iter_*"))


def test_the_next_train_has_a_limit_of_its_own(make_trainer, now):
    trainer = make_trainer(Clock(now, 10.0))
    trainer.time_limit_s = 100.0
    trainer.train(0, 1000)
    trainer.train(8, 10)
    assert (trainer.status, trainer.is_out_of_time) == ("finished", False)


def test_a_stop_goes_before_a_pause_of_the_same_iteration(make_trainer):
    class Both(HookBase):
        def after_step(self):
            if self.trainer.iter == 2:
                os.kill(os.getpid(), signal.SIGTERM)
                self.trainer.request_stop("enough")

    trainer = make_trainer(Both())
    with pytest.raises(SystemExit):  # the program around the run ends all the same
        trainer.train(0, 100)
    assert (trainer.status, trainer.reason, trainer.iter) == ("stopped", "enough", 3)


def test_a_stop_that_an_evaluation_asks_for_goes_before_a_pause_that_was_decided(make_trainer, now):
    class Stopper(HookBase):
        def before_train(self):
            self.trainer.evaluations["any"] = lambda: {"any/x": 1.0}

        def after_step(self):
            self.trainer.request_evaluation("any")

        def after_evaluate(self):
            if self.trainer.iter == 8:
                self.trainer.request_stop("good enough")

    trainer = make_trainer(Clock(now, 10.0), Stopper())
    trainer.time_limit_s = 105.0  # which pauses after nine iterations
    trainer.train(0, 1000)
    assert (trainer.status, trainer.reason, trainer.iter) == ("stopped", "good enough", 9)
    assert not trainer.is_out_of_time


def send_at(hook, number, iteration=2):
    """Return a plugin that sends a signal to its process when a hook is called."""

    def act(self):
        if hook in ("before_train", "after_train") or self.trainer.iter == iteration:
            os.kill(os.getpid(), number)

    return type("Sender", (HookBase,), {hook: act})()


@pytest.mark.parametrize("hook", ["before_train", "before_step", "after_step", "after_train"])
def test_sigusr1_saves_at_the_end_of_the_iteration_and_the_run_goes_on(make_trainer, tmp_path, hook):
    trainer = make_trainer(Checkpoint(keep=0), send_at(hook, signal.SIGUSR1), run_dir=tmp_path)
    trainer.train(0, 6)
    assert (trainer.status, trainer.iter) == ("finished", 6)
    saved = sorted(path.name for path in (tmp_path / "checkpoints").glob("iter_*"))
    asked = {"before_train": ["iter_0000000"], "after_train": []}.get(hook, ["iter_0000002"])
    assert saved == [*asked, "iter_0000005"]


def test_sigusr1_without_a_checkpoint_hook_is_one_warning(make_trainer, caplog):
    trainer = make_trainer(send_at("after_step", signal.SIGUSR1))
    trainer.train(0, 6)
    assert trainer.status == "finished"
    warned = [record.getMessage() for record in caplog.records if "nothing saves" in record.getMessage()]
    assert warned == ["SIGUSR1: nothing saves in this run. The hook 'checkpoint' would."]


def test_a_signal_that_comes_during_an_evaluation_pauses_after_it(make_trainer, tmp_path):
    class Interrupted:
        def __iter__(self):
            if trainer.iter == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            return iter(make_trainer().data_loader)

    evaluation = Evaluate(period=3, data=Interrupted())
    trainer = make_trainer(Checkpoint(keep=0), evaluation, run_dir=tmp_path)
    with pytest.raises(SystemExit) as caught:
        trainer.train(0, 100)
    assert caught.value.code == 143
    assert (trainer.status, trainer.iter) == ("paused", 3)
    assert "eval/total_loss" in trainer.storage.latest()
    assert [path.name for path in (tmp_path / "checkpoints").glob("iter_*")] == ["iter_0000002"]


@pytest.mark.parametrize("background", [False, True])
def test_a_signal_that_comes_during_a_save_pauses_after_the_next_iteration(
    make_trainer, tmp_path, background
):
    class Interrupted(Checkpoint):
        def save(self, iteration, *arguments):
            if iteration == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().save(iteration, *arguments)

    hook = Interrupted(period=4, keep=0, background=background)
    trainer = make_trainer(hook, run_dir=tmp_path)
    with pytest.raises(SystemExit):
        trainer.train(0, 100)
    saved = sorted(path.name for path in (tmp_path / "checkpoints").glob("iter_*"))
    assert saved == ["iter_0000003", "iter_0000004"]
    assert (trainer.status, trainer.iter) == ("paused", 5)


def test_a_signal_before_the_first_iteration_pauses_without_one(make_trainer, tmp_path):
    trainer = make_trainer(Checkpoint(), send_at("before_train", signal.SIGINT), run_dir=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        trainer.train(0, 100)
    assert (trainer.status, trainer.reason, trainer.iter) == ("paused", "SIGINT", 0)
    trainer.hooks.unregister(name="Sender")
    trainer.train(0, 3)
    assert trainer.status == "finished"


class Ranks:
    """What the largest of every rank's values would be, if another rank wanted something, too."""

    def __init__(self, wanted=0, iteration_s=0.0):
        self.wanted, self.iteration_us, self.asked_at = wanted, round(1e6 * iteration_s), []

    def largest(self, *values):
        self.asked_at.append(self.trainer.iter)
        if len(values) == 1:  # before the first iteration
            return list(values)
        others = (self.wanted, self.iteration_us)
        return [max(pair) for pair in zip(values, others, strict=True)]


@pytest.fixture
def two_ranks(make_trainer, monkeypatch):
    """Return a function that makes a trainer which believes to be one of two ranks."""

    def make(ranks, *hooks, **options):
        trainer = make_trainer(*hooks, **options)
        trainer.log_period, ranks.trainer = 5, trainer
        monkeypatch.setattr(ending.distributed, "largest", ranks.largest)
        begin = trainer._begin
        trainer._begin = lambda *arguments: (begin(*arguments), setattr(trainer, "_num_ranks", 2))
        trainer.run_step = lambda: None
        return trainer

    return make


def test_ranks_of_fast_iterations_agree_at_the_end_of_each_period(two_ranks):
    ranks = Ranks()
    two_ranks(ranks).train(0, 20)
    assert ranks.asked_at == [0, 0, 4, 9, 14]  # before and after the first, whose time says little


def test_ranks_of_slow_iterations_agree_every_two_seconds(two_ranks):
    ranks = Ranks(iteration_s=1.0)
    two_ranks(ranks).train(0, 11)
    assert ranks.asked_at == [0, 0, 2, 4, 6, 8, 9]


def test_a_stop_waits_for_the_end_of_the_period_and_a_pause_does_not(two_ranks):
    stopped = two_ranks(Ranks(wanted=ending._STOP, iteration_s=9.0))
    stopped.train(0, 20)
    assert (stopped.status, stopped.iter) == ("stopped", 5)
    paused = two_ranks(ranks := Ranks(iteration_s=9.0))

    class Then(HookBase):
        def after_step(self):
            ranks.wanted = ending._TIME_IS_UP + signal.SIGTERM if self.trainer.iter == 2 else 0

    paused.register_hooks([Then()])
    with pytest.raises(SystemExit):
        paused.train(0, 20)
    assert (paused.status, paused.iter, paused.reason) == ("paused", 3, "SIGTERM")


def test_a_save_that_another_rank_was_asked_for_is_made_by_all(two_ranks, tmp_path):
    ranks = Ranks(wanted=ending._SAVE)
    two_ranks(ranks, Checkpoint(keep=0), run_dir=tmp_path).train(0, 7)
    saved = sorted(path.name for path in (tmp_path / "checkpoints").glob("iter_*"))
    assert saved == ["iter_0000000", "iter_0000004", "iter_0000006"]


def test_between_iterations_a_run_without_a_limit_does_not_look_at_the_clock(make_trainer, monkeypatch):
    looked, counts = [], []

    class Spy(HookBase):
        def before_step(self):
            counts.append(len(looked))
            looked.clear()

    monkeypatch.setattr(ending, "monotonic", lambda: looked.append(1) or 0.0)
    make_trainer(Spy()).train(0, 5)
    assert counts[1:] == [0, 0, 0, 0]
