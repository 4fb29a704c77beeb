"""The loop that a good engineer writes by hand."""

from __future__ import annotations

import torch

from benchmarks.task import Task

__all__ = ["run"]


def run(task: Task, *, fused: bool, compile: bool = False) -> None:
    """Train; write the loss to a file when a period ends, and read it from the tensor only then."""
    case, model, optimizer = task.case, task.model, task.optimizer(fused)
    forward = torch.compile(model) if compile else model
    parameters = list(model.parameters())
    model.train()
    batches = iter(task)
    with open(task.folder / "losses.txt", "w") as file:
        for iteration in range(task.num_iters):
            for group in optimizer.param_groups:
                group["lr"] = case.lr * task.factor(iteration)
            if case.accumulate == 1:
                loss = forward(next(batches))
                loss.backward()
            else:
                losses = []
                for _ in range(case.accumulate):
                    loss = forward(next(batches)) / case.accumulate
                    loss.backward()
                    losses.append(loss.detach())
                loss = sum(losses)
            if case.clip_norm:
                torch.nn.utils.clip_grad_norm_(parameters, case.clip_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if (iteration + 1) % case.log_period == 0:
                file.write(f"{iteration} {loss.item()}\n")
