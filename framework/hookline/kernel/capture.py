"""The device's side of CUDA graphs, and what it takes to run an iteration as if it had never been."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from contextlib import suppress
from time import perf_counter
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hookline.kernel.buffers import buffers_of

__all__ = ["Contents", "CudaGraphs", "Snapshot"]

_Result = TypeVar("_Result")


class CudaGraphs:
    """What a kernel asks of a device that can replay; all on the current stream, as seen from outside."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._aside: torch.cuda.Stream | None = None

    def are_there(self) -> bool:
        """Return whether the device has graphs."""
        return self.device.type == "cuda"

    def warm_up(self, function: Callable[[], _Result]) -> _Result:
        """Return what ``function`` returns, run on a stream of its own, as a capture will be."""
        here, aside = torch.cuda.current_stream(self.device), self._stream()
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            result = function()
        here.wait_stream(aside)
        return result

    def capture(self, function: Callable[[], _Result]) -> tuple[_Result, Callable[[], None]]:
        """Record what ``function`` queues, without doing it; return its result, and what does it.

        The memory of the result is written by each replay. Waits for the device.
        """
        graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
        here = torch.cuda.current_stream(self.device)
        # A capture that fails leaves its stream the current one, so ours is set around it.
        with torch.cuda.device(self.device), torch.cuda.stream(here):
            try:
                # Other threads may use the device meanwhile: those that fetch and pin batches do.
                with torch.cuda.graph(
                    graph, pool=pool, stream=self._stream(), capture_error_mode="thread_local"
                ):
                    result = function()
            except BaseException:
                self._clean_up(pool)
                raise
        return result, graph.replay

    def _clean_up(self, pool: Any) -> None:
        """Undo what a failed capture leaves behind in torch before 2.13; later there is nothing to undo."""
        with suppress(Exception):  # All memory would come from the pool ever after.
            torch._C._cuda_endAllocateToPool(self.device.index, pool)
        with suppress(Exception):  # The generator would refuse to draw, as if it were still captured.
            generator = torch.cuda.default_generators[self.device.index]
            generator.graphsafe_set_state(generator.clone_state())

    def _stream(self) -> torch.cuda.Stream:
        if self._aside is None:
            self._aside = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        return self._aside

    def seconds(self, function: Callable[[], Any], num: int) -> float:
        """Return how long one call of ``function`` takes, the mean of ``num``. Waits for the device."""
        torch.cuda.synchronize(self.device)
        start = perf_counter()
        for _ in range(num):
            function()
        torch.cuda.synchronize(self.device)
        return (perf_counter() - start) / num


class Snapshot:
    """What an iteration changes, to be put back into the memory where it is then.

    Args:
        model: Its parameters and buffers.
        optimizer: Its state; what has none yet is set to zeros, from which it begins.
        others: Further tensors.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, others: Iterable[Tensor]) -> None:
        self._optimizer = optimizer
        self._buffers = Contents([buffers_of(module) for module in model.modules()])
        tensors = (*model.parameters(), *model.buffers(), *others)
        self._tensors = [*{id(tensor): tensor for tensor in tensors}.values()]
        self._copies = [tensor.detach().clone() for tensor in self._tensors]
        self._state = {place: value.clone() for place, value in self._state_now().items()}
        self._rng = random.getstate(), torch.get_rng_state()
        has_device = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        self._device_rng = torch.cuda.get_rng_state_all() if has_device else []

    def restore(self) -> None:
        """Make everything as it was."""
        self._buffers.put_back()
        with torch.no_grad():
            for tensor, copy in zip(self._tensors, self._copies, strict=True):
                tensor.copy_(copy)
            for place, tensor in self._state_now().items():  # A kernel may keep it in other memory now.
                tensor.copy_(self._state[place]) if place in self._state else tensor.zero_()
        random.setstate(self._rng[0])
        torch.set_rng_state(self._rng[1])
        if self._device_rng:
            torch.cuda.set_rng_state_all(self._device_rng)

    def _state_now(self) -> dict[tuple[int, str], Tensor]:
        states = self._optimizer.state.items()
        return {
            (id(p), name): value
            for p, state in states
            for name, value in state.items()
            if isinstance(value, Tensor)
        }


class Contents:
    """What stands in some dicts; a capture that runs no operation must not leave its own tensors there."""

    def __init__(self, dicts: Iterable[dict[Any, Any]]) -> None:
        self._dicts = [(each, dict(each)) for each in dicts]

    def put_back(self) -> bool:
        """Make everything as it was; return whether anything was not."""
        was_changed = False
        for now, before in self._dicts:
            if len(now) != len(before) or any(now.get(key) is not value for key, value in before.items()):
                was_changed = True
                now.clear()
                now.update(before)
        return was_changed
