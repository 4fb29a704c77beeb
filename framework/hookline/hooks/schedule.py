"""The learning rate of each iteration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from hookline.errors import CheckpointError, PluginError
from hookline.hookspecs import HookBase
from hookline.plugins import is_stateful
from hookline.schedules import Schedule as ProgressSchedule

__all__ = ["Schedule"]


class Schedule(HookBase):
    """Sets the learning rate of every parameter group before each iteration, and puts the one used as ``lr``.

    A schedule of `hookline.schedules` gives a factor for each iteration; it needs no state, so it follows
    a changed ``max_iter`` or base rate by itself. A torch scheduler is stepped once after each iteration.
    One of your own that has ``state_dict`` and ``load_state_dict`` goes on from its state in a resumed run.

    Args:
        schedule: A schedule of `hookline.schedules` or a torch scheduler; by default the trainer's own
            (the config's ``schedule`` section), and without one the rate stays as it is.
    """

    graph_safe = True

    def __init__(self, schedule: Any = None) -> None:
        self.schedule = schedule
        self._group = 0
        self._on_progress: ProgressSchedule | None = None
        self._saved: Mapping[str, Any] = {}
        self._configured: dict[str, Any] = {}

    def before_train(self) -> None:
        """Find the schedule, and the parameter group whose rate is shown: the one with most parameters."""
        if self.schedule is None:
            self.schedule = getattr(self.trainer, "schedule", None)
        if isinstance(self.schedule, ReduceLROnPlateau) or not isinstance(
            self.schedule, ProgressSchedule | LRScheduler | None
        ):
            raise PluginError(
                f"schedule: expected a schedule of hookline.schedules, or a torch scheduler that is stepped "
                f"without a metric, got a {type(self.schedule).__name__}. Give another schedule.target."
            )
        self._refuse_if_shared()
        groups = self._optimizer().param_groups
        sizes = [sum(parameter.numel() for parameter in group["params"]) for group in groups]
        self._group = sizes.index(max(sizes))
        for group in groups:
            _initial_lr(group)
        self._on_progress = None
        # ConstantLR has a `factor` too, but it is a number.
        if isinstance(self.schedule, ProgressSchedule) and not isinstance(self.schedule, LRScheduler):
            self._on_progress = self.schedule
        if isinstance(self.schedule, LRScheduler):
            self._configured = self._configured or _plain_state(self.schedule)
        stateful: Any = self.schedule
        if self._saved and is_stateful(stateful):
            stateful.load_state_dict(self._merged(self._saved))
            self._saved = {}

    def before_step(self) -> None:
        """Set the rates of this iteration."""
        schedule = self._on_progress
        if schedule is None:
            return
        trainer: Any = self.trainer
        factor = schedule.factor(trainer.iter, trainer.max_iter)
        for group in trainer.optimizer.param_groups:
            _set_lr(group, factor)

    def after_step(self) -> None:
        """Put the rate that was used, then move a torch scheduler on."""
        trainer: Any = self.trainer
        used = trainer.optimizer.param_groups[self._group]["lr"]
        trainer.storage.put_scalar("lr", used, smoothing_hint=False)
        if self._on_progress is None and self.schedule is not None:
            self.schedule.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of a schedule that has one; those of `hookline.schedules` have none."""
        if not is_stateful(self.schedule):
            return {}
        return {
            "class": type(self.schedule).__name__,
            "state": _plain_state(self.schedule),
            "configured": self._configured,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Keep ``state`` until training begins and the schedule is known."""
        self._saved = state

    def _refuse_if_shared(self) -> None:
        for other in self.trainer.hooks.get_plugins():
            if other is self or self.schedule is None or not isinstance(other, Schedule):
                continue
            if other.schedule is self.schedule:
                raise PluginError(
                    f"{self.name}: expected a schedule of its own, got that of {other.name!r}, which would "
                    "be stepped twice an iteration. Remove one of the two."
                )

    def _merged(self, saved: Mapping[str, Any]) -> dict[str, Any]:
        """Return the saved state, but what was configured otherwise since as it is configured now."""
        if saved["class"] != type(self.schedule).__name__:
            kind = type(self.schedule).__name__
            raise CheckpointError(
                f"schedule: expected the state of a {kind}, got that of a {saved['class']}. "
                "Use the schedule it was saved with, or --weights, which loads the model alone."
            )
        changed = {
            key: value for key, value in self._configured.items() if saved["configured"].get(key) != value
        }
        return {**saved["state"], **changed}

    def _optimizer(self) -> torch.optim.Optimizer:
        optimizer = getattr(self.trainer, "optimizer", None)
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise PluginError(
                f"schedule: expected a trainer with an optimizer, got {type(self.trainer).__name__}. "
                "Give it the attribute 'optimizer', or remove the hook."
            )
        return optimizer


def _plain_state(scheduler: Any) -> dict[str, Any]:
    return {key: value for key, value in scheduler.state_dict().items() if not callable(value)}


def _initial_lr(group: dict[str, Any]) -> Any:
    """Return what a group's rate is a factor of: the rate it had when it was first seen, maybe just now."""
    if "initial_lr" not in group:
        lr = group["lr"]
        group["initial_lr"] = lr.clone() if isinstance(lr, torch.Tensor) else lr
    return group["initial_lr"]


def _set_lr(group: dict[str, Any], factor: float) -> None:
    """Set a group's rate; into the tensor where it is one, which a CUDA graph reads."""
    lr, rate = group["lr"], _initial_lr(group) * factor
    if isinstance(lr, torch.Tensor):
        lr.fill_(rate)
    else:
        group["lr"] = rate
