"""How a run ends: what is asked for on any rank is carried out on all of them, after the same iteration."""

from __future__ import annotations

import logging
import math
import signal
from time import monotonic
from typing import TYPE_CHECKING, Literal

from hookline import distributed
from hookline.config.durations import duration_text
from hookline.trainer.interrupts import Interrupts

if TYPE_CHECKING:
    from hookline.trainer.base import TrainerBase

__all__ = ["Ending", "Status"]

Status = Literal["created", "running", "finished", "stopped", "paused", "failed"]

_AGREE_S = 2.0  # Ranks whose iterations are slow ask each other so often: a signal cannot wait for a period.
_MARGIN = 0.1  # Of a time limit: for the writers, for a save that takes longer than the last, for the exit.
_MAX_MARGIN_S = 30.0
# What is wanted; of several wishes the highest counts, and all that end the run save it. A signal is
# _TIME_IS_UP plus its number. A stop is part of what the run comes to: it goes before a pause, as the last
# iteration does.
_NOTHING, _SAVE, _TIME_IS_UP = range(3)
_STOP = 1000

_log = logging.getLogger(__name__)


class Ending:
    """Says after each iteration whether the run goes on; the same on every rank.

    One rank knows at once. Several agree at the end of each logging period, and in between every two seconds
    where iterations are slow. A stop waits for the period's end all the same: how long iterations take must
    not decide what comes of a run, and a pause changes nothing of that.

    Attributes:
        interrupts: The signals that were noted.
        is_out_of_time: Whether the time limit paused the run.
        is_saving: Whether a save is under way.
    """

    def __init__(self) -> None:
        self.interrupts = Interrupts()
        self.is_out_of_time = self.is_saving = False
        self._save_s = self._save_start_s = 0.0
        self._deadline_s = math.inf
        self._margin_s = 0.0
        self._pace = _Pace(0)
        self._agree_at = self._agreed_at = 0

    def begin(self, trainer: TrainerBase) -> None:
        """Start over: the time limit counts from now, but for what of it is spent."""
        limit_s = math.inf if trainer.time_limit_s is None else trainer.time_limit_s
        self.is_out_of_time = self.is_saving = False
        self._deadline_s = monotonic() - trainer.time_spent_s + limit_s
        self._margin_s = min(_MARGIN * limit_s, _MAX_MARGIN_S)
        self._pace = _Pace(trainer.start_iter)
        self._agree_at, self._agreed_at = trainer.start_iter + 1, trainer.start_iter

    def before_first(self, trainer: TrainerBase) -> Status | None:
        """Return how the run ends before its first iteration: a signal came, or no time is left."""
        wanted = self._wanted(trainer)
        (wanted,) = distributed.largest(_NOTHING if wanted in (_SAVE, _STOP) else wanted)
        return self._carry_out(wanted, trainer)

    def after_iteration(self, trainer: TrainerBase) -> Status | None:
        """Return how the run ends with this iteration, or None if it goes on.

        May be asked again after evaluations. A checkpoint that a signal asks for is requested here.
        """
        num_done = trainer.iter + 1
        if num_done >= trainer.max_iter:
            return "finished"
        if num_done == trainer.stop_at:
            trainer.reason = f"train.stop_at={trainer.stop_at}"
            return "paused"
        if trainer._num_ranks > 1:
            return self._carry_out(self._agreed(num_done, trainer), trainer)
        noted = self.interrupts
        if self._deadline_s != math.inf:
            self._pace.tick(num_done)
        elif not trainer._stop_due and noted.signal is None and not noted.save_due:
            return None  # nearly always, so nothing more is called
        return self._carry_out(self._wanted(trainer), trainer)

    def save_begins(self) -> None:
        """Note that a save begins."""
        self.is_saving, self._save_start_s = True, monotonic()

    def save_ended(self) -> None:
        """Note that it has ended, so that the time for another one is known."""
        self.is_saving, self._save_s = False, monotonic() - self._save_start_s

    def _agreed(self, num_done: int, trainer: TrainerBase) -> int:
        """Return what any rank wants, if now is the time to ask, and decide when the next is."""
        self._pace.tick(num_done)
        is_end_of_period = num_done % trainer.log_period == 0
        if num_done < self._agree_at and num_done != self._agreed_at and not is_end_of_period:
            return _NOTHING
        wanted, iteration_us = distributed.largest(self._wanted(trainer), round(1e6 * self._pace.mean_s()))
        if num_done != self._agreed_at:
            num_iters = int(1e6 * _AGREE_S) // max(iteration_us, 1)
            self._agreed_at, self._agree_at = num_done, num_done + max(num_iters, 1)
            self._pace.restart()
        return wanted if is_end_of_period or wanted != _STOP else _NOTHING

    def _wanted(self, trainer: TrainerBase) -> int:
        if trainer._stop_due:
            return _STOP
        if self.interrupts.signal is not None:
            return _TIME_IS_UP + self.interrupts.signal
        if self._deadline_s != math.inf and not self._has_time(trainer):
            return _TIME_IS_UP
        return _SAVE if self.interrupts.save_due else _NOTHING

    def _has_time(self, trainer: TrainerBase) -> bool:
        """Return whether there is time until this is asked again, and then to end the run."""
        until_next_s = self._pace.longest_s + (_AGREE_S if trainer._num_ranks > 1 else 0.0)
        saves_s = self._save_s * (2 if self.is_saving else 1)
        return monotonic() + until_next_s + saves_s + self._margin_s < self._deadline_s

    def _carry_out(self, wanted: int, trainer: TrainerBase) -> Status | None:
        if wanted == _NOTHING:
            return None
        self.interrupts.save_due = False
        if wanted == _SAVE:
            _request_save(trainer)
            return None
        if wanted == _STOP:
            reasons = distributed.gather(trainer.reason if trainer._stop_due else "")
            trainer.reason, self.is_out_of_time = next(filter(None, reasons), ""), False
            return "stopped"
        if wanted == _TIME_IS_UP:
            self.is_out_of_time = True
            trainer.reason = f"time limit of {duration_text(trainer.time_limit_s or 0.0)}"
            return "paused"
        # Noted on every rank, so that all end with the same exit code.
        self.interrupts.signal = signal.Signals(wanted - _TIME_IS_UP)
        trainer.reason = self.interrupts.signal.name
        return "paused"


class _Pace:
    """How long iterations take, from one decision to the next: evaluations and saves are in it.

    Attributes:
        longest_s: The longest but for the first one, in which much is done that never is again.
    """

    def __init__(self, num_done: int) -> None:
        self.longest_s = 0.0
        self._num_ticks = 0
        self._start, self._start_s = num_done, monotonic()
        self._last, self._last_s = num_done, self._start_s

    def tick(self, num_done: int) -> None:
        """Note that ``num_done`` iterations are done; to say it again changes nothing."""
        if num_done == self._last:
            return
        now = monotonic()
        took_s = now - self._last_s
        # Until there is another, the first is all that is known.
        self.longest_s = took_s if self._num_ticks < 2 else max(self.longest_s, took_s)
        self._num_ticks += 1
        self._last, self._last_s = num_done, now

    def mean_s(self) -> float:
        """Return the mean since the last `restart`."""
        return (self._last_s - self._start_s) / max(self._last - self._start, 1)

    def restart(self) -> None:
        """Let `mean_s` begin anew."""
        self._start, self._start_s = self._last, self._last_s


def _request_save(trainer: TrainerBase) -> None:
    if trainer.checkpointer is not None:
        trainer.request_checkpoint()
    elif distributed.is_main():
        _log.warning("SIGUSR1: nothing saves in this run. The hook 'checkpoint' would.")
