"""MMEngine's Runner with its default hooks, its local and its TensorBoard backend."""

from __future__ import annotations

from typing import Any

from mmengine.model import BaseDataPreprocessor, BaseModel
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import Tensor

from benchmarks.task import END_FACTOR, Task

__all__ = ["run"]


class _Preprocessor(BaseDataPreprocessor):
    def forward(self, data: Any, training: bool = False) -> dict[str, Any]:
        return {"batch": self.cast_data(data)}


class _Model(BaseModel):
    def __init__(self, task: Task) -> None:
        super().__init__(data_preprocessor=_Preprocessor())
        self.model = task.model

    def forward(self, batch: Any, mode: str = "tensor") -> dict[str, Tensor]:
        return {"loss": self.model(batch)}


def run(task: Task, *, fused: bool) -> None:
    case = task.case
    model = _Model(task)
    clip = {"clip_grad": {"max_norm": case.clip_norm}} if case.clip_norm else {}
    wrapper = OptimWrapper(task.optimizer(fused), accumulative_counts=case.accumulate, **clip)
    # It counts batches, not updates, and its line reaches the end one before ``end``.
    schedule = {"type": "LinearLR", "start_factor": 1.0, "end_factor": END_FACTOR, "by_epoch": False}
    runner = Runner(
        model=model,
        work_dir=str(task.folder),
        train_dataloader=task.torch_loader(),
        train_cfg={"by_epoch": False, "max_iters": task.num_batches, "val_interval": task.num_batches + 1},
        optim_wrapper=wrapper,
        param_scheduler=[
            {**schedule, "begin": case.accumulate - 1, "end": task.num_batches + case.accumulate}
        ],
        default_hooks={
            "logger": {"type": "LoggerHook", "interval": case.log_period * case.accumulate},
            "checkpoint": {"type": "CheckpointHook", "interval": -1, "save_last": False},
            "sampler_seed": None,  # It knows no loader whose sampler yields whole batches.
        },
        visualizer={
            "type": "Visualizer",
            "vis_backends": [{"type": "LocalVisBackend"}, {"type": "TensorboardVisBackend"}],
        },
        log_processor={"by_epoch": False},
        default_scope="mmengine",
        experiment_name=f"{task.folder.parent.name}-{task.folder.name}".replace(".", "-"),
    )
    runner.train()
