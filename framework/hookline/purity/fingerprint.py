"""Everything that decides how training goes on, part by part, and its digests."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from hookline.checkpoint import rng
from hookline.data import state_of_generators
from hookline.purity.digests import digests
from hookline.trainer import TrainerBase

__all__ = ["RANDOM", "described", "differences", "fingerprint", "settings"]

RANDOM = "random numbers"
"""The kind of the parts that are states of random generators."""


def fingerprint(trainer: TrainerBase) -> dict[str, str]:
    """Return a digest of everything that decides how training goes on, by part: ``weights/linear.bias``.

    Two are equal exactly when every bit is: weights, buffers, gradients, optimizer state and options, the
    schedule, modes of modules, random generators, settings of torch, the loader's position, the batches of
    the iteration. It changes none of them. Costs a pass over all of that, on its device; waits for it.
    """
    return digests(dict(_parts(trainer)))


def differences(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[str, ...]:
    """Return the parts of two fingerprints that are not the same in both, in their order."""
    return tuple(part for part in {**before, **after} if before.get(part) != after.get(part))


def described(parts: Iterable[str], limit: int = 2) -> str:
    """Return parts in words, ``weights (linear.bias, linear.weight), random numbers (torch)``.

    Args:
        parts: As named by `fingerprint`.
        limit: How many of a kind are named.
    """
    kinds: dict[str, list[str]] = {}
    for part in parts:
        kind, _, name = part.partition("/")
        kinds.setdefault(kind, []).append(name)
    shown = []
    for kind, names in kinds.items():
        more = f" and {len(names) - limit} more" if len(names) > limit else ""
        shown.append(f"{kind} ({', '.join(names[:limit])}{more})")
    return ", ".join(shown)


def settings() -> dict[str, Any]:
    """Return what is set in torch for the whole process, such as the number of threads, by name."""
    return {name: _read(read) for name, read in _SETTINGS.items()}


def _parts(trainer: TrainerBase) -> Iterator[tuple[str, Any]]:
    # First: whatever is asked for its state below could draw from them.
    yield from _random_states(trainer)
    names: dict[int, str] = {}
    for prefix, module in _attributes(trainer, nn.Module):
        yield from _module(prefix, module, names)
    for prefix, optimizer in _attributes(trainer, torch.optim.Optimizer):
        yield from _optimizer(prefix, optimizer, names)
    for prefix, schedule in _attributes(trainer, LRScheduler):
        for key, value in schedule.state_dict().items():
            yield f"schedule/{prefix}{key}", value
    kernel = getattr(trainer, "kernel", None)
    for owner, kind, attributes in ((trainer, "trainer", _OF_TRAINER), (kernel, "kernel", _OF_KERNEL)):
        yield from ((f"{kind}/{name}", getattr(owner, name)) for name in attributes if hasattr(owner, name))
    if kernel is not None:
        yield from ((f"kernel/{name}", value) for name, value in kernel.state_dict().items())
    yield "data/batches of the iteration", getattr(trainer, "microbatches", ())
    loader: Any = getattr(trainer, "data_loader", None)
    if hasattr(loader, "state_dict"):
        with rng.forked_rng():  # a loader may begin an epoch to tell where it is, and draw a seed for it
            yield "data/position", loader.state_dict()
    yield from ((f"data/{name}", state) for name, state in state_of_generators(loader).items())
    yield from ((f"torch settings/{name}", value) for name, value in settings().items())


def _attributes(trainer: TrainerBase, kind: type[Any]) -> Iterator[tuple[str, Any]]:
    """Yield each attribute of ``trainer`` that is of ``kind``, with the prefix of its parts' names."""
    for name, value in vars(trainer).items():
        if isinstance(value, kind):
            yield "" if name in ("model", "optimizer", "schedule") else f"{name}.", value


def _random_states(trainer: TrainerBase) -> Iterator[tuple[str, Any]]:
    yield f"{RANDOM}/Python", random.getstate()
    yield f"{RANDOM}/NumPy", np.random.get_state(legacy=False)
    yield f"{RANDOM}/torch", torch.get_rng_state()
    modules = [module for _, module in _attributes(trainer, nn.Module)]
    if any(parameter.is_cuda for module in modules for parameter in module.parameters()):
        # Only then: to ask for memory, say, makes generators that training does not draw from.
        for device, state in enumerate(torch.cuda.get_rng_state_all()):
            yield f"{RANDOM}/cuda:{device}", state
    for name, generator in _attributes(trainer, torch.Generator):
        yield f"{RANDOM}/{name.rstrip('.')}", generator.get_state()


def _module(prefix: str, module: nn.Module, names: dict[int, str]) -> Iterator[tuple[str, Any]]:
    prefix = prefix.rstrip(".")
    parameters = dict(module.named_parameters(prefix=prefix))
    names.update((id(parameter), name) for name, parameter in parameters.items())
    yield from ((f"weights/{name}", parameter) for name, parameter in parameters.items())
    yield from ((f"buffers/{name}", buffer) for name, buffer in module.named_buffers(prefix=prefix))
    for name, parameter in parameters.items():
        yield f"requires_grad/{name}", parameter.requires_grad
        if parameter.grad is not None:
            yield f"gradients/{name}", parameter.grad
    for name, part in module.named_modules(prefix=prefix):
        yield f"training mode/{name or 'the model'}", part.training


def _optimizer(
    prefix: str, optimizer: torch.optim.Optimizer, names: Mapping[int, str]
) -> Iterator[tuple[str, Any]]:
    for number, group in enumerate(optimizer.param_groups):
        # By name: a weight that was replaced by another object is no longer updated.
        yield (
            f"optimizer options/{prefix}{number}.params",
            [names.get(id(p), "unknown") for p in group["params"]],
        )
        for key, value in group.items():
            if key != "params":
                yield f"optimizer options/{prefix}{number}.{key}", value
    for number, (parameter, state) in enumerate(optimizer.state.items()):
        name = names.get(id(parameter), f"parameter {number}")
        for key, value in state.items():
            yield f"optimizer state/{prefix}{name}.{key}", value


_OF_TRAINER = ("iter", "start_iter", "max_iter", "stop_at", "log_period", "accumulate", "max_skips")
_OF_KERNEL = ("precision", "accumulate", "clip_norm")
_OF_CUDNN = ("enabled", "benchmark", "deterministic", "allow_tf32")
_OF_MATMUL = (
    "allow_tf32",
    "allow_fp16_reduced_precision_reduction",
    "allow_bf16_reduced_precision_reduction",
)
_OF_ATTENTION = ("flash_sdp", "mem_efficient_sdp", "math_sdp", "cudnn_sdp")
_SETTINGS: dict[str, Callable[[], Any]] = {
    "default dtype": torch.get_default_dtype,
    "default device": lambda: str(torch.get_default_device()),
    "gradients on": torch.is_grad_enabled,
    "inference mode": torch.is_inference_mode_enabled,
    "deterministic algorithms": torch.get_deterministic_debug_mode,
    "autocast": lambda: [
        (torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)) for device in ("cpu", "cuda")
    ],
    "threads": torch.get_num_threads,
    "matmul precision": torch.get_float32_matmul_precision,
    "flushing of denormals": lambda: sys.float_info.min / 2 == 0,
    "cudnn": lambda: [getattr(torch.backends.cudnn, name) for name in _OF_CUDNN],
    "cuda matmul": lambda: [getattr(torch.backends.cuda.matmul, name) for name in _OF_MATMUL],
    "attention": lambda: [getattr(torch.backends.cuda, f"{name}_enabled")() for name in _OF_ATTENTION],
}


def _read(setting: Callable[[], Any]) -> Any:
    try:
        return setting()
    except RuntimeError as error:  # torch refuses to read a setting that was written in its newer way
        return str(error)
