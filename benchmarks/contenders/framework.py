"""hookline, as a library with empty plugins and as a run with everything that a run usually has."""

from __future__ import annotations

from typing import Any

from torch import nn

from benchmarks.task import END_FACTOR, Task
from hookline import DefaultTrainer, HookBase, Loader, SimpleTrainer
from hookline.hooks import Schedule
from hookline.schedules import Linear

__all__ = ["Empty", "run"]


class Empty(HookBase):
    """A plugin that does nothing, twice an iteration."""

    observer = True
    graph_safe = True

    def before_step(self) -> None:
        pass

    def after_step(self) -> None:
        pass


def run(task: Task, *, usual: bool = False, num_plugins: int = 0, compile: bool = False) -> None:
    """Train with fused AdamW."""
    if usual:
        trainer: SimpleTrainer = _usual(task, compile)
    else:
        options = {"accumulate": task.case.accumulate, "clip_norm": task.case.clip_norm, "compile": compile}
        trainer = SimpleTrainer(task.model, _loader(task), task.optimizer(fused=True), **options)
        trainer.log_period = task.case.log_period
        trainer.register_hook(Schedule(Linear(end_factor=END_FACTOR)))
    trainer.register_hooks([Empty() for _ in range(num_plugins)])
    trainer.train(0, task.num_iters)


def _loader(task: Task) -> Loader:
    return Loader(task.data, batch_size=task.case.batch_size, shuffle=False, drop_last=True)


def _usual(task: Task, compile: bool) -> DefaultTrainer:
    case = task.case
    config: dict[str, Any] = {
        "run": {"name": "run", "dir": str(task.folder)},
        "optimizer": {"target": "torch.optim.AdamW", "lr": case.lr, "fused": True},
        "schedule": {"target": "hookline.schedules:Linear", "end_factor": END_FACTOR},
        "train": {
            "max_iter": task.num_iters,
            "device": "cpu",
            "threads": 1,
            "accumulate": case.accumulate,
            "clip_norm": case.clip_norm,
            "log_period": case.log_period,
            "compile": compile,
        },
        # Schedule, timer and progress are on by themselves. The checkpoint at the end is not timed.
        "hooks": ["checkpoint"],
        "writers": ["json", "tensorboard"],
    }

    class Trainer(DefaultTrainer):
        def build_model(self) -> nn.Module:
            return task.model

        def build_train_loader(self) -> Loader:
            return _loader(task)

    return Trainer(config)
