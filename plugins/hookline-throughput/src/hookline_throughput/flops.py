"""The FLOPs of a model, counted without running it."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hookline import EventStorage, forked_rng, to_device

__all__ = ["count_flops"]

_AUTOCAST_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def count_flops(model: nn.Module, batch: Any, device: torch.device, precision: str = "fp32") -> int:
    """Return the FLOPs of forward and backward of ``model(batch)``: of its products and convolutions.

    A copy of the model is run on tensors that have a shape and no data, so nothing is computed and no memory
    of the device is taken; model, batch, gradients, random generators and metrics stay as they are. Attention
    is counted as the products it consists of, whichever way it is computed, and what is recomputed for
    activation checkpointing is counted again.

    Args:
        model: Returns a loss, or a dict of losses; it is not changed.
        batch: As the loader gave it.
        device: Where the model is.
        precision: ``fp32``, or autocast in ``bf16`` or ``fp16``.

    Raises:
        Exception: If the model needs data, not only shapes, to know what to compute.
    """
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    # deepcopy takes what is in the memo for copies it has made: only the rest of the model is copied.
    memo = {id(tensor): fake.from_tensor(tensor) for tensor in (*model.parameters(), *model.buffers())}
    dtype = _AUTOCAST_DTYPES.get(precision)
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # Those are about how it is counted; training gives its own.
        stack.enter_context(forked_rng())
        stack.enter_context(EventStorage())  # A forward may put metrics: not into those of the run.
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        shadow = copy.deepcopy(model, memo)
        stack.enter_context(fake)
        counter = stack.enter_context(FlopCounterMode(display=False))
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            output = shadow(to_device(batch, device))
        _total(output).backward()  # type: ignore[no-untyped-call]
    return int(counter.get_total_flops())


def _total(output: Any) -> Tensor:
    losses = output.values() if isinstance(output, Mapping) else [output]  # num_items adds no FLOPs
    total: Tensor = sum(losses, torch.zeros(()))
    return total
