"""The FLOPs of a model, counted without running it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hookline import EventStorage, forked_rng, to_device
from hookline_throughput.shadow import shadow_of, without_global_hooks

__all__ = ["NotCountedError", "count_flops"]

_AUTOCAST_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_NEEDS_DATA = (DataDependentOutputException, DynamicOutputShapeException)


class NotCountedError(Exception):
    """Says what failed when FLOPs were counted; its cause is what was raised."""


def count_flops(model: nn.Module, batch: Any, device: torch.device, precision: str = "fp32") -> int:
    """Return the FLOPs of forward and backward of ``model(batch)``: of its products and convolutions.

    A copy of the model is run on tensors that have a shape and no data, so nothing is computed and no memory
    of the device is taken; model, batch, gradients, random generators and metrics stay as they are, and of
    hooks on modules only the model's and torch's own are called. Attention is counted as the products it
    consists of, whichever way it is computed, and what is recomputed for activation checkpointing is counted
    again.

    Args:
        model: Returns a loss, or a dict of losses; it is not changed.
        batch: As the loader gave it.
        device: Where the model is.
        precision: ``fp32``, or autocast in ``bf16`` or ``fp16``.

    Raises:
        NotCountedError: If the model cannot be copied, or fails, or needs data to know what to compute.
    """
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    dtype = _AUTOCAST_DTYPES.get(precision)
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # Those are about how it is counted; training gives its own.
        stack.enter_context(forked_rng())
        stack.enter_context(EventStorage())  # A forward may put metrics: not into those of the run.
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(without_global_hooks())
        stack.enter_context(_gradients_kept(list(model.parameters())))
        with _named("the model cannot be copied"):
            shadow = shadow_of(model, fake)
        stack.enter_context(fake)
        counter = stack.enter_context(FlopCounterMode(display=False))
        with (
            _named("its forward failed without data"),
            torch.autocast(device.type, dtype=dtype, enabled=dtype is not None),
        ):
            output = shadow(to_device(batch, device))
        with _named("its backward failed without data"):
            _total(output).backward()  # type: ignore[no-untyped-call]
    return int(counter.get_total_flops())


@contextmanager
def _named(what: str) -> Iterator[None]:
    """Say what it was, when something fails inside."""
    try:
        yield
    except Exception as error:
        if isinstance(error, _NEEDS_DATA):
            what = "this model does not run without data"
        raised = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise NotCountedError(f"{what} ({raised})") from error


@contextmanager
def _gradients_kept(parameters: Sequence[Tensor]) -> Iterator[None]:
    """Put the gradients back after: a forward may reach the model itself besides its copy."""
    gradients = [parameter.grad for parameter in parameters]
    try:
        yield
    finally:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient


def _total(output: Any) -> Tensor:
    losses = output.values() if isinstance(output, Mapping) else [output]  # num_items adds no FLOPs
    total: Tensor = sum(losses, torch.zeros(()))
    return total
