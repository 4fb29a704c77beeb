"""A loop of one's own with Accelerate and its TensorBoard tracker, and a line in a file."""

from __future__ import annotations

import torch
from accelerate import Accelerator

from benchmarks.task import Task

__all__ = ["run"]


def run(task: Task, *, fused: bool) -> None:
    case = task.case
    accelerator = Accelerator(
        cpu=True,
        gradient_accumulation_steps=case.accumulate,
        log_with="tensorboard",
        project_dir=str(task.folder),
    )
    accelerator.init_trackers("run")
    optimizer: torch.optim.Optimizer = task.optimizer(fused)
    # Not the loader: on one CPU nothing is to be done for it, and its own would cost more.
    model, optimizer, scheduler = accelerator.prepare(task.model, optimizer, task.scheduler(optimizer))
    model.train()
    iteration, total = 0, torch.zeros(())
    with open(task.folder / "losses.txt", "w") as file:
        for batch in task:
            with accelerator.accumulate(model):
                loss = model(batch)
                accelerator.backward(loss)
                total = total + loss.detach()
                if case.clip_norm and accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), case.clip_norm)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad(set_to_none=True)
            if not accelerator.sync_gradients:
                continue
            iteration += 1
            if iteration % case.log_period == 0:
                value = total.item() / case.accumulate
                accelerator.log({"loss": value, "lr": scheduler.get_last_lr()[0]}, step=iteration)
                file.write(f"{iteration} {value}\n")
            total = torch.zeros(())
    accelerator.end_training()
