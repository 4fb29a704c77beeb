"""A loop of one's own with Lightning Fabric, its TensorBoard and CSV loggers."""

from __future__ import annotations

import torch
from lightning.fabric import Fabric
from lightning.fabric.loggers import CSVLogger, TensorBoardLogger

from benchmarks.task import Task

__all__ = ["run"]


def run(task: Task, *, fused: bool) -> None:
    case = task.case
    loggers = [TensorBoardLogger(task.folder), CSVLogger(task.folder)]
    fabric = Fabric(accelerator="cpu", devices=1, loggers=loggers)
    fabric.launch()
    optimizer: torch.optim.Optimizer = task.optimizer(fused)
    scheduler = task.scheduler(optimizer)
    model, optimizer = fabric.setup(task.model, optimizer)
    model.train()
    batches = iter(task)
    for iteration in range(task.num_iters):
        total = torch.zeros(())
        for number in range(case.accumulate):
            with fabric.no_backward_sync(model, enabled=number + 1 < case.accumulate):
                loss = model(next(batches)) / case.accumulate
                fabric.backward(loss)
                total = total + loss.detach()
        if case.clip_norm:
            fabric.clip_gradients(model, optimizer, max_norm=case.clip_norm)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad(set_to_none=True)
        if (iteration + 1) % case.log_period == 0:
            fabric.log_dict({"loss": total.item(), "lr": scheduler.get_last_lr()[0]}, step=iteration)
    for logger in loggers:
        logger.finalize("success")
