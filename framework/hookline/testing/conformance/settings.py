"""Settings of torch, which belong to the process: a plugin that changes them is not to change other runs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from operator import attrgetter
from typing import Any

import torch

__all__ = ["kept_settings"]

_Setting = tuple[Callable[[], Any], Callable[[Any], Any]]  # reads it, and sets it

_OF_BACKENDS = (
    "cuda.matmul.allow_tf32",
    "cuda.matmul.allow_fp16_reduced_precision_reduction",
    "cuda.matmul.allow_bf16_reduced_precision_reduction",
    "cudnn.enabled",
    "cudnn.benchmark",
    "cudnn.deterministic",
    "cudnn.allow_tf32",
    # Last: each of the above sets some of these, too, and not always to what they were.
    "fp32_precision",
    "cuda.matmul.fp32_precision",
    "cudnn.fp32_precision",
    "cudnn.conv.fp32_precision",
    "cudnn.rnn.fp32_precision",
    "mkldnn.fp32_precision",
    "mkldnn.matmul.fp32_precision",
    "mkldnn.conv.fp32_precision",
    "mkldnn.rnn.fp32_precision",
)
_OF_ATTENTION = ("flash_sdp", "mem_efficient_sdp", "math_sdp", "cudnn_sdp")


@contextmanager
def kept_settings() -> Iterator[None]:
    """Set back, at the end, what the body has changed of the settings of torch."""
    before = {}
    for read, write in _SETTINGS:
        with suppress(AttributeError, RuntimeError):  # a torch without it, or written in its other way
            before[read, write] = read()
    try:
        yield
    finally:
        for (read, write), value in before.items():
            with suppress(RuntimeError):
                if read() == value:
                    continue
            write(value)


def _of_backends(path: str) -> _Setting:
    owner, _, name = f"backends.{path}".rpartition(".")
    return (
        lambda: attrgetter(f"{owner}.{name}")(torch),
        lambda value: setattr(attrgetter(owner)(torch), name, value),
    )


def _of_attention(name: str) -> _Setting:
    cuda = torch.backends.cuda
    return getattr(cuda, f"{name}_enabled"), getattr(cuda, f"enable_{name}")


def _of_autocast(device: str) -> list[_Setting]:
    return [
        (partial(torch.is_autocast_enabled, device), partial(torch.set_autocast_enabled, device)),
        (partial(torch.get_autocast_dtype, device), partial(torch.set_autocast_dtype, device)),
    ]


_SETTINGS: list[_Setting] = [
    (torch.get_default_dtype, torch.set_default_dtype),
    (
        lambda: str(torch.get_default_device()),
        # Without a device it is the CPU, too, and no mode looks at every call.
        lambda device: torch.set_default_device(None if device == "cpu" else device),
    ),
    (torch.is_grad_enabled, torch._C._set_grad_enabled),
    (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
    *_of_autocast("cpu"),
    *_of_autocast("cuda"),
    (torch.get_num_threads, torch.set_num_threads),
    (lambda: sys.float_info.min / 2 == 0, torch.set_flush_denormal),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    *map(_of_attention, _OF_ATTENTION),
    *map(_of_backends, _OF_BACKENDS),
]
