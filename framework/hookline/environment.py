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

__all__ = ["on_all_ranks", "set_up"]


def set_up(config: Config) -> torch.device:
    """Choose device and threads, join the other ranks, seed every generator; return the device."""
    train = config.train
    device = _device(train.device, config.where("train.device"))
    if train.threads:
        torch.set_num_threads(train.threads)
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
        device = torch.device("cuda", distributed.local_rank())
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def on_all_ranks(model: nn.Module, device: torch.device) -> nn.Module:
    """Return ``model`` so that its gradients are averaged over ranks, or as it is where there is one."""
    if distributed.world_size() == 1:
        return model
    return nn.parallel.DistributedDataParallel(
        model, device_ids=[device.index] if device.type == "cuda" else None
    )
