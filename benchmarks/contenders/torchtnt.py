"""torchtnt's AutoUnit with its TensorBoard and CSV loggers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchtnt.framework.auto_unit import AutoUnit, TrainStepResults
from torchtnt.framework.state import State
from torchtnt.framework.train import train
from torchtnt.utils.loggers import CSVLogger, TensorBoardLogger

from benchmarks.task import Task

__all__ = ["run"]


class _Unit(AutoUnit[Any]):
    def __init__(self, task: Task, fused: bool, loggers: list[Any]) -> None:
        super().__init__(
            module=task.model,
            device=torch.device("cpu"),
            step_lr_interval="step",
            gradient_accumulation_steps=task.case.accumulate,
            clip_grad_norm=task.case.clip_norm or None,
        )
        self.task, self.fused, self.loggers = task, fused, loggers

    def configure_optimizers_and_lr_scheduler(self, module: torch.nn.Module) -> tuple[Any, Any]:
        optimizer = self.task.optimizer(self.fused)
        return optimizer, self.task.scheduler(optimizer)

    def compute_loss(self, state: State, data: Any) -> tuple[Tensor, None]:
        return self.module(data), None

    def on_train_step_end(self, state: State, data: Any, step: int, results: TrainStepResults) -> None:
        if (step + 1) % (self.task.case.log_period * self.task.case.accumulate) == 0:
            value = results.loss.item()
            for logger in self.loggers:
                logger.log_dict({"loss": value}, step)


def run(task: Task, *, fused: bool) -> None:
    loggers = [TensorBoardLogger(str(task.folder)), CSVLogger(str(task.folder / "losses.csv"))]
    train(_Unit(task, fused, loggers), task, max_epochs=1, max_steps_per_epoch=task.num_batches)
    for logger in loggers:
        logger.close()
