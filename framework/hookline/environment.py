"""What a run needs of the process it is in: a device, threads, seeds, the other ranks."""

from __future__ import annotations

import os
import random

import numpy as np
import torch
from torch import nn

from hookline import distributed
from hookline.config import Config
from hookline.errors import ConfigError, Problem
from hookline.processes import end_with_launcher

__all__ = ["on_all_ranks", "set_up"]


def set_up(config: Config) -> torch.device:
    """Choose device and threads, join the other ranks, seed every generator; return the device."""
    train = config.train
    device = _device(train.device, config.where("train.device"))
    if train.threads:
        torch.set_num_threads(train.threads)
    end_with_launcher()
    distributed.join(device)
    seed = (config.run.seed + distributed.rank()) % 2**32
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    if train.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else cuBLAS is not repeatable
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
    return device


def _device(name: str, where: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        expected = "auto, cpu, cuda or cuda:N"
        raise ConfigError([Problem(where, expected, name)]) from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError([Problem(where, "a device that is here", name, fix="Use auto or cpu")])
    if device.type == "cuda" and device.index is None and distributed.world_size() > 1:
        if distributed.local_rank() >= torch.cuda.device_count():
            expected, exists = "a GPU for each process of this machine", f"GPUs: {torch.cuda.device_count()}"
            raise ConfigError([Problem(where, expected, name, exists, fix="Start fewer processes")])
        device = torch.device("cuda", distributed.local_rank())
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def on_all_ranks(model: nn.Module, device: torch.device) -> nn.Module:
    """Return ``model`` so that its gradients are averaged over ranks, or as it is where there is one."""
    if distributed.world_size() == 1:
        return model
    ranks = nn.parallel.DistributedDataParallel(
        model, device_ids=[device.index] if device.type == "cuda" else None
    )
    _arrange_gradients(ranks)
    return ranks


def _arrange_gradients(ranks: nn.parallel.DistributedDataParallel) -> None:
    """Let DDP arrange the gradients that it sums now, not in the first backward of a run or a resumed run.

    The sum of three or more ranks depends, in its last bit, on how gradients are arranged. DDP arranges them
    once, in the order in which its first backward meets them: here all in the reverse order of parameters.
    """
    model = ranks.module
    if any(getattr(module, "sparse", False) for module in model.modules()):
        return  # DDP expects gradients of another kind than those of this backward
    ranks.module = _SumOfParameters(model)
    try:
        ranks().backward()
    finally:
        ranks.module = model
    ranks.zero_grad(set_to_none=True)


class _SumOfParameters(nn.Module):
    """Stands in for ``model`` where every parameter is to get a gradient, and nothing else to happen."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self) -> torch.Tensor:
        terms = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        sums = ((torch.view_as_real(term) if term.is_complex() else term).sum() for term in terms)
        return sum(sums, torch.zeros((), device=terms[0].device))
