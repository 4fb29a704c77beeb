"""A whole iteration as one CUDA graph: recorded once, then replayed by a single launch.

::

    some iterations, eagerly ─▶ capture ─▶ [ copy batch and rates in ─▶ replay ─▶ copy metrics out ] · n
                                   │
                     what forbids it: one line, and on as a `StepKernel` does

A graph repeats the same operations on the same memory. So batches are copied to where those were that it was
captured with, learning rates are tensors on the device, and everything else that it took as given is held
against what it was: where something has changed, the iteration is captured anew.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hookline.kernel.buffers import buffers_of
from hookline.kernel.capture import Contents, CudaGraphs, Snapshot
from hookline.kernel.step import StepKernel
from hookline.nesting import map_tensors, to_device

__all__ = ["ForwardWatch", "GraphKernel"]

_WARM_UPS = 3  # Source: torch's notes on CUDA graphs. Libraries set themselves up in the first iterations.
_NUM_TIMED = 10
_MAX_CAPTURES = 5
_NUM_COMMON = 3  # As many in a row are no exception.
_NOT_THE_USERS = (str(Path(torch.__file__).parent), str(Path(__file__).parent))

_log = logging.getLogger(__name__)


class ForwardWatch(Protocol):
    """Knows what a model measures in its ``forward``, which a replay does not run."""

    def discarding(self) -> AbstractContextManager[Any]:
        """Inside, nothing is measured."""

    def recording(self) -> AbstractContextManager[Any]:
        """Inside, what is measured is kept for `renew`; raises ValueError for what a replay cannot renew."""

    def renew(self) -> None:
        """Measure what was kept once more, with the values of the last replay."""


class GraphKernel(StepKernel):
    """A `StepKernel` that replays iterations as a CUDA graph, where that can be done.

    Results are those of a StepKernel, with learning rates rounded to float32. What runs on the host runs when
    the graph is captured, and not again: a ``forward`` must not draw from Python's generators, count its
    calls, change its mind, or keep tensors for the next one other than in buffers that it changes in place.
    An iteration whose batches have other shapes runs eagerly.

    Args:
        model: As for `StepKernel`.
        optimizer: As for `StepKernel`.
        choose: Measure before the first iteration whether a graph is faster here, and keep what is.
        watch: Knows what the model measures in its ``forward``.
        say: Is told in one line why there is no graph, or what was measured.
        graphs: The device's side of it.
        options: As for `StepKernel`.

    Attributes:
        mode: ``graph`` or ``eager``; empty as long as nobody has chosen.
        forbidden: Why there may be no graph, for reasons that a kernel cannot know of.
        watch: As given.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        choose: bool = False,
        watch: ForwardWatch | None = None,
        say: Callable[[str], Any] = _log.warning,
        graphs: CudaGraphs | None = None,
        **options: Any,
    ) -> None:
        super().__init__(model, optimizer, **options)
        self.mode = "" if choose else "graph"
        self._measured = ""
        self.forbidden = ""
        self.watch, self._say = watch, say
        self._graphs = graphs or CudaGraphs(self.device)
        self._compile = options.get("compile", False)
        self._captured: _Captured | None = None
        self._num_warm = self._num_captures = self._num_odd = 0
        self._has_said_shapes = False

    def step(self, microbatches: Sequence[Any]) -> dict[str, Tensor]:
        """See `StepKernel.step`."""
        if self.mode == "eager" or not isinstance(microbatches, (list, tuple)):
            return super().step(microbatches)
        self._update.refresh()
        if obstacle := self._obstacle():
            self._give_up(obstacle)
            return super().step(microbatches)
        batches = [to_device(microbatch, self.device) for microbatch in microbatches]
        if not self.mode:
            self._choose(batches)
            return self.step(batches)
        if self._num_warm < _WARM_UPS:
            self._num_warm += 1
            return self._graphs.warm_up(lambda: StepKernel.step(self, batches))
        captured = self._captured_for(batches)
        if captured is None:
            return super().step(batches)
        metrics = captured.run()
        if self.watch is not None:
            self.watch.renew()
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """Return what `StepKernel.state_dict` does, and the mode where it was measured."""
        return {**super().state_dict(), **({"mode": self._measured} if self._measured else {})}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``; what was measured there is not measured again."""
        if not self.mode and "mode" in state:
            self.mode = self._measured = state["mode"]
            self._say(f"train.kernel: {self.mode}, as it was measured before.")
        super().load_state_dict(state)

    def _obstacle(self) -> str:
        """Return what forbids a graph, and whose it is."""
        if not self._graphs.are_there():
            return f"the model is on {self.device}, and only CUDA has graphs"
        if self.forbidden:
            return self.forbidden
        if self._group is not None:
            return "the gradients are averaged over several ranks"
        if self.after_backward is not None:
            return "after_backward is to be called in the midst of each iteration"
        if isinstance(self._compile, Mapping) and self._compile.get("mode") in (
            "reduce-overhead",
            "max-autotune",
        ):
            return f"torch.compile with mode {self._compile['mode']!r} makes graphs of its own"
        return self._update.obstacle()

    def _give_up(self, why: str) -> None:
        self._say(f"train.kernel: no CUDA graph, because {why}. The run goes on eagerly.")
        self.mode, self._captured = "eager", None
        self._update.lrs.clear()

    def _choose(self, batches: list[Any]) -> None:
        """Run ``batches`` in both ways, leave everything as it was, and keep the faster way."""
        others = [*self._update.params, *self.state_tensors()]
        snapshot = Snapshot(self.model, self.optimizer, others)
        with self.watch.discarding() if self.watch is not None else nullcontext():
            for _ in range(_WARM_UPS):
                self._graphs.warm_up(lambda: StepKernel.step(self, batches))
            eager_s = self._graphs.seconds(lambda: StepKernel.step(self, batches), _NUM_TIMED)
        self.mode, self._num_warm = "graph", _WARM_UPS
        captured = self._captured_for(batches)
        graph_s = self._graphs.seconds(captured.run, _NUM_TIMED) if captured is not None else 0.0
        snapshot.restore()
        if captured is None:
            return
        times = f"{graph_s * 1e3:.3g} ms an iteration as a CUDA graph, {eager_s * 1e3:.3g} ms eagerly"
        self._measured = "graph" if graph_s < eager_s else "eager"
        if graph_s < eager_s:
            self._say(f"train.kernel: graph, measured {times}.")
        else:
            self._give_up(f"it is not faster: {times}")

    def _captured_for(self, batches: list[Any]) -> _Captured | None:
        """Return the graph of an iteration, its inputs set to ``batches``; None where it must run eagerly."""
        tensors, shapes = _flat(batches)
        strange = [type(value).__name__ for value in tensors if not isinstance(value, Tensor)]
        if strange:
            self._give_up(f"a batch holds a {strange[0]}")
            return None
        for group in self.optimizer.param_groups:
            self._set_lr(group)
        captured = self._captured
        if captured is not None and captured.given != self._given():
            self._captured = None  # Eagerly first: state may have to be begun.
            return None
        if captured is None:
            if self._num_captures == _MAX_CAPTURES:
                self._give_up("options of the optimizer, or modes of the model, keep changing")
                return None
            captured = self._try_to_capture(batches, tensors, shapes)
        elif not _are_equal(captured.shapes, shapes):
            captured = self._other_shapes(batches, tensors, shapes)
        else:
            self._num_odd = 0
        if captured is not None:
            torch._foreach_copy_(captured.inputs, tensors, non_blocking=True)
        return captured

    def _other_shapes(self, batches: list[Any], tensors: list[Tensor], shapes: Any) -> _Captured | None:
        """Return a new graph when these shapes are common; None where they are the exception."""
        self._num_odd += 1
        if self._num_odd == _NUM_COMMON and self._num_captures < _MAX_CAPTURES:
            self._num_odd = 0
            return self._try_to_capture(batches, tensors, shapes)
        if not self._has_said_shapes:
            self._has_said_shapes = True
            self._say(
                "train.kernel: an iteration whose batches have other shapes, or hold other values beside "
                "their tensors, runs eagerly."
            )
        return None

    def _set_lr(self, group: dict[str, Any]) -> None:
        """Have the rate of ``group`` on the device, in memory that stays."""
        rate, room = group["lr"], self._update.lrs.get(id(group))
        if room is None:
            room = self._update.lrs[id(group)] = torch.zeros((), dtype=torch.float32, device=self.device)
        if isinstance(rate, Tensor) and not rate.is_cpu:
            room.copy_(rate)
        else:
            room.fill_(float(rate))

    def _given(self) -> list[Any]:
        """Return what a graph takes as given, to be compared."""
        self._buffers.refresh()
        params, buffers = self._parameters(), self._buffers.tensors()
        return [
            *self._update.constants(),
            *self._update.identity(),
            *map(id, (*self._buffers.modules, *params, *buffers)),
            *map(Tensor.data_ptr, (*params, *buffers)),
            *(p.requires_grad for p in params),
            *(module.training for module in self._buffers.modules),
        ]

    def _parameters(self) -> list[Tensor]:
        """Return those of the model and of the optimizer, some of them twice."""
        own = chain.from_iterable([module._parameters.values() for module in self._buffers.modules])
        return [*(p for p in own if p is not None), *self._update.params]

    def _try_to_capture(self, batches: list[Any], tensors: list[Tensor], shapes: Any) -> _Captured | None:
        self._captured = None  # Its memory is free for the next one.
        self._num_captures += 1
        self._update.bind()
        self._buffers.refresh()
        for p in self._parameters():  # Also those that the optimizer does not have, and so does not drop.
            p.grad = None
        try:
            self._captured = self._capture(batches, tensors, shapes)
        except Exception as error:  # Whatever it is: eagerly it works, or is raised again where it belongs.
            self._give_up(_described(error))
        return self._captured

    def _capture(self, batches: list[Any], tensors: list[Tensor], shapes: Any) -> _Captured:
        inputs = [tensor.clone() for tensor in tensors]
        rest = iter(inputs)
        own = map_tensors(batches, lambda _: next(rest))
        states = self.optimizer.state
        buffers = [buffers_of(module) for module in self._buffers.modules]
        before = Contents([*buffers, states, *states.values()])

        def iterate() -> tuple[list[str], Tensor]:
            metrics = StepKernel.step(self, own)
            return [*metrics], torch.stack([*metrics.values()])

        try:
            with self.watch.recording() if self.watch is not None else nullcontext():
                (names, values), replay = self._graphs.capture(iterate)
        finally:
            was_changed = before.put_back()
        if was_changed:
            raise ValueError("an iteration puts a new tensor in place of a buffer, or begins optimizer state")
        grads = [(p, p.grad) for p in set(self._parameters()) if p.grad is not None]
        kept = [own, self._buffers.held(), self._update.held()]
        return _Captured(self._given(), shapes, inputs, names, values, grads, replay, kept)


@dataclass
class _Captured:
    """A graph and what belongs to it.

    Args:
        given: What it takes as given.
        shapes: Batches as `_flat` describes them.
        inputs: Where the tensors of a batch are copied to.
        names: The names of the metrics.
        values: Where a replay writes them.
        grads: Each parameter and where its gradient is written.
        replay: Does one iteration.
        kept: What holds the memory that the graph uses.
    """

    given: list[Any]
    shapes: Any
    inputs: list[Tensor]
    names: list[str]
    values: Tensor
    grads: list[tuple[Tensor, Tensor]]
    replay: Callable[[], None]
    kept: list[Any]

    def run(self) -> dict[str, Tensor]:
        """Do one iteration with the inputs as they are; return its metrics in memory of their own."""
        self.replay()
        for p, grad in self.grads:  # Somebody may have dropped it.
            p.grad = grad
        return dict(zip(self.names, self.values.clone().unbind(), strict=True))


@dataclass(frozen=True)
class _Shape:
    """Stands for a tensor where batches are compared."""

    size: torch.Size
    dtype: torch.dtype


def _flat(batches: Sequence[Any]) -> tuple[list[Tensor], Any]:
    """Return the tensors in ``batches``, and the batches with shapes in their place."""
    tensors: list[Tensor] = []

    def take(tensor: Tensor) -> Any:
        tensors.append(tensor)
        return _Shape(tensor.shape, tensor.dtype) if isinstance(tensor, Tensor) else tensor

    return tensors, map_tensors(batches, take)


def _are_equal(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except Exception:  # As arrays do, which have no truth.
        return False


def _described(error: BaseException) -> str:
    """Return ``error`` in one line, with the user's line that raised it."""
    # The end of a capture fails too when something within it did.
    while error.__context__ is not None:
        error = error.__context__
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(_NOT_THE_USERS)
    ]
    place = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    text = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}{place}: {text}".rstrip(" .:")
