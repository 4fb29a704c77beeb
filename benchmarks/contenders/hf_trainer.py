"""The Trainer of transformers with its TensorBoard callback; it prints what it logs."""

from __future__ import annotations

import os
from typing import Any

from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from benchmarks.task import Task

__all__ = ["run"]


def run(task: Task, *, fused: bool) -> None:
    case = task.case
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(task.folder)
    optimizer = task.optimizer(fused)

    class _Trainer(Trainer):
        def get_train_dataloader(self) -> DataLoader[Any]:
            return task.torch_loader()

        def compute_loss(self, model: nn.Module, inputs: Any, **unused: Any) -> Tensor:
            return model(inputs)

    trainer = _Trainer(
        task.model,
        TrainingArguments(
            output_dir=str(task.folder),
            max_steps=task.num_iters,
            per_device_train_batch_size=case.batch_size,
            gradient_accumulation_steps=case.accumulate,
            max_grad_norm=case.clip_norm,
            logging_steps=case.log_period,
            report_to=["tensorboard"],
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
        ),
        optimizers=(optimizer, task.scheduler(optimizer)),
    )
    trainer.train()
