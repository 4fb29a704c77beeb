"""Ignite's Engine with its TensorBoard logger; it has no file logger, so a handler writes a line."""

from __future__ import annotations

from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.handlers.tensorboard_logger import OptimizerParamsHandler, OutputHandler, TensorboardLogger

from benchmarks.task import Task

__all__ = ["run"]


def run(task: Task, *, fused: bool) -> None:
    case, model, optimizer = task.case, task.model, task.optimizer(fused)
    scheduler = task.scheduler(optimizer)
    parameters = list(model.parameters())

    def update(engine: Engine, batch: Any) -> float:
        # One event an iteration of ours, as its users do who accumulate: the engine counts batches.
        loss = model(batch) / case.accumulate
        loss.backward()
        if engine.state.iteration % case.accumulate == 0:
            if case.clip_norm:
                torch.nn.utils.clip_grad_norm_(parameters, case.clip_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            scheduler.step()
        return loss.item() * case.accumulate

    trainer = Engine(update)
    period = Events.ITERATION_COMPLETED(every=case.log_period * case.accumulate)
    logger = TensorboardLogger(log_dir=task.folder)
    logger.attach(trainer, OutputHandler("train", output_transform=lambda loss: {"loss": loss}), period)
    logger.attach(trainer, OptimizerParamsHandler(optimizer), period)
    with open(task.folder / "losses.txt", "w") as file:
        trainer.add_event_handler(
            period, lambda engine: file.write(f"{engine.state.iteration} {engine.state.output}\n")
        )
        model.train()
        trainer.run(task, max_epochs=1, epoch_length=task.num_batches)
    logger.close()
