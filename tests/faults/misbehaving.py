"""A hook and writers that misbehave as their options say, and a hook that fails where another is to be seen."""

from __future__ import annotations

import time

from hookline import EventWriter, HookBase

__all__ = ["BadHook", "BadJournal", "BadWriter", "Fails"]


def misbehave(act: str) -> None:
    """Do what ``act`` says."""
    if act == "raise":
        raise ValueError("no")
    if act == "exit":
        raise SystemExit(7)
    if act == "interrupt":
        raise KeyboardInterrupt
    if act == "block":
        time.sleep(0.05)
    while act == "hang":
        time.sleep(0.02)


class BadHook(HookBase):
    """Misbehaves at ``point``, from iteration ``at`` on."""

    def __init__(self, point: str, act: str, at: int = 0) -> None:
        self.point, self.act, self.at = point, act, at

    def before_train(self) -> None:
        self._called("before_train")

    def before_step(self) -> None:
        self._called("before_step")

    def after_backward(self) -> None:
        self._called("after_backward")

    def after_step(self) -> None:
        self._called("after_step")

    def before_evaluate(self) -> None:
        self._called("before_evaluate")

    def after_evaluate(self) -> None:
        self._called("after_evaluate")

    def after_save(self) -> None:
        self._called("after_save")

    def after_load(self) -> None:
        self._called("after_load")

    def on_error(self) -> None:
        self._called("on_error")

    def after_train(self) -> None:
        self._called("after_train")

    def _called(self, point: str) -> None:
        if point == self.point and self.trainer.iter >= self.at:
            (self.trainer.run_dir / "misbehaves").touch()
            misbehave(self.act)


class Fails(HookBase):
    """Ends the run after iteration ``at``, for others to be told of it."""

    def __init__(self, at: int) -> None:
        self.at = at

    def after_step(self) -> None:
        if self.trainer.iter == self.at:
            raise RuntimeError("the first error")


class BadWriter(EventWriter):
    """Misbehaves in ``method``; in ``state_dict`` only after a write, where that of ``open`` was well."""

    def __init__(self, method: str, act: str) -> None:
        self.method, self.act, self.num_writes = method, act, 0

    def open(self, run) -> None:
        self._called("open")

    def write(self, events) -> None:
        self.num_writes += 1
        self._called("write")

    def state_dict(self):
        if self.num_writes:
            self._called("state_dict")
        return {"num_writes": self.num_writes}

    def load_state_dict(self, state) -> None:
        self.num_writes = state["num_writes"]

    def close(self, status: str) -> None:
        self._called("close")

    def _called(self, method: str) -> None:
        if method == self.method:
            misbehave(self.act)


class BadJournal(BadWriter):
    """The same as the run's journal."""

    journal = True
