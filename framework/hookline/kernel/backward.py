"""Backward without what ``Tensor.backward`` looks up first: 30 µs of a small model's iteration on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

__all__ = ["backward_function"]


def backward_function(device: torch.device) -> Callable[[Tensor, Tensor], None]:
    """Return what does the same as ``loss.backward(factor)`` for a loss on ``device``.

    Both are 0-D. Where this torch has no such function it is ``Tensor.backward`` itself.
    """
    engine = _engine(has_threads=device.type != "cpu")

    def run(loss: Tensor, factor: Tensor) -> None:
        if engine is None or type(loss) is not Tensor:  # A subclass may do it in its own way.
            loss.backward(factor)  # type: ignore[no-untyped-call]
        else:
            _call(engine, loss, factor)

    return run


@cache
def _engine(has_threads: bool) -> Callable[..., Any] | None:
    """Return what ``Tensor.backward`` calls in the end, if this torch has it as it is called here.

    Where backward runs on threads of the device's own, these must be given the context in which compiled code
    looks for its settings: torch's function does that. On a CPU it runs on the thread that asks for it.
    """
    try:
        function = torch.autograd.graph._engine_run_backward
        if not has_threads:
            function = torch.autograd.Variable._execution_engine.run_backward
        x = torch.ones((), requires_grad=True)
        _call(function, x * 2, torch.tensor(3.0))
        return function if x.grad == 6 else None
    except (AttributeError, TypeError, RuntimeError):
        return None


def _call(function: Callable[..., Any], loss: Tensor, factor: Tensor) -> None:
    function((loss,), (factor,), False, False, (), allow_unreachable=True, accumulate_grad=True)
