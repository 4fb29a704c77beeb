"""Lightning's Trainer with its TensorBoard and CSV loggers; no progress bar, no checkpoints."""

from __future__ import annotations

import logging
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor

from benchmarks.task import Task

__all__ = ["run"]


class _Module(LightningModule):
    def __init__(self, task: Task, fused: bool) -> None:
        super().__init__()
        self.model, self.task, self.fused = task.model, task, fused

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.model(batch)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer: torch.optim.Optimizer = self.task.optimizer(self.fused)
        scheduler = {"scheduler": self.task.scheduler(optimizer), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}


def run(task: Task, *, fused: bool) -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    case = task.case
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=task.num_iters,
        max_epochs=1,
        logger=[TensorBoardLogger(task.folder), CSVLogger(task.folder)],
        log_every_n_steps=case.log_period,
        accumulate_grad_batches=case.accumulate,
        gradient_clip_val=case.clip_norm or None,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(_Module(task, fused), task)
