"""Where in a model the first value that is not finite comes from: the operation, the module and the line."""

from __future__ import annotations

import linecache
import re
import traceback
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["BadGradient", "Origin", "Watch", "is_bad"]

Phase = Literal["forward", "backward", "update"]
What = Literal["NaN", "inf"]

_TORCH = str(Path(torch.__file__).parent)
_OURS = tuple(str(Path(__file__).parents[1] / name) for name in ("kernel", "trainer", "replay"))
_FRAME = re.compile(r'\s*File "(?P<file>.+)", line (?P<line>\d+), in ')
# What these return was asked for, or is memory that nobody has written to yet.
_INTENDED = (
    *(
        "empty",
        "empty_like",
        "empty_strided",
        "new_empty",
        "new_empty_strided",
        "resize_",
        "full",
        "full_like",
    ),
    *("new_full", "fill", "fill_", "masked_fill", "masked_fill_", "index_fill", "index_fill_", "where"),
    *("scalar_tensor", "constant_pad_nd", "lift_fresh", "lift_fresh_copy", "_local_scalar_dense"),
)


@dataclass(frozen=True)
class Origin:
    """An operation that made NaN or infinity of values without.

    Args:
        what: What it made.
        of_inf: Whether infinities were among what it made NaN of.
        op: Its name, such as ``log``; in backward, that of the node of the graph.
        phase: Where in the iteration it ran; the ``update`` is what comes after backward.
        microbatch: In which of the iteration's batches, from 0 on.
        module: The dotted name of the module it ran in; empty for the model itself, or where none did.
        kind: The class of that module; empty where none ran.
        file: The file of the line that called it; in backward, of the line whose gradient it is.
        line: The number of that line; 0 where it is not known.
    """

    what: What
    of_inf: bool
    op: str
    phase: Phase
    microbatch: int
    module: str
    kind: str
    file: str = ""
    line: int = 0

    @property
    def text(self) -> str:
        """The line itself; empty where it cannot be read."""
        return linecache.getline(self.file, self.line).strip()


@dataclass(frozen=True)
class BadGradient:
    """The first parameter that backward gave a gradient that is not finite.

    Args:
        name: Its name in the model.
        num_bad: How many elements of its gradient are not finite.
        num: How many there are.
        microbatch: In which of the iteration's batches, from 0 on.
    """

    name: str
    num_bad: int
    num: int
    microbatch: int


class Watch(TorchDispatchMode):
    """Looks at every operation of ``model`` while it is entered; slow, and changes no result.

    It turns torch's anomaly mode on, which remembers the line of forward that each node of backward belongs
    to; nothing is raised.

    Attributes:
        origins: The first operation that made NaN, and the first that made inf, in each phase.
        module: The first module to return something that is not finite, by name and class.
        gradient: The first parameter with a gradient that is not finite.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._model = model
        self._names = {module: name for name, module in model.named_modules()}
        self._inside: list[nn.Module] = []
        self._microbatch = -1
        self._bad: set[str] = set()
        self._hooks = ExitStack()
        self.origins: dict[tuple[Phase, What], Origin] = {}
        self.module: tuple[str, str] | None = None
        self.gradient: BadGradient | None = None

    @property
    def num_gradients(self) -> int:
        """How many parameters were given a gradient that is not finite."""
        return len(self._bad)

    def __enter__(self) -> Watch:
        for module in self._names:
            self._register(module.register_forward_pre_hook(self._enter_module))
            self._register(module.register_forward_hook(self._leave_module, always_call=True))
        for name, parameter in self._model.named_parameters():
            if parameter.requires_grad and parameter.is_leaf:
                register: Any = parameter.register_post_accumulate_grad_hook
                self._register(register(self._look_at(name)))
        self._hooks.enter_context(torch.autograd.set_detect_anomaly(True, check_nan=False))
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]
        self._hooks.close()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run ``func``, and take note of it if it made what is not finite."""
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        # What it writes over has to be looked at before.
        before = _found((args, kwargs)) if func._schema.is_mutable else None
        result = func(*args, **kwargs)
        if name not in _INTENDED and (after := _found(result)):
            self._note(name, _found((args, kwargs)) if before is None else before, after)
        return result

    def _register(self, handle: Any) -> None:
        self._hooks.callback(handle.remove)

    def _note(self, op: str, before: set[What], after: set[What]) -> None:
        if before and ("NaN" in before or "NaN" not in after):
            return  # It handed on what it was given.
        what: What = "NaN" if "NaN" in after else "inf"
        node = _backward_node()
        phase: Phase = "backward" if node is not None else "forward" if self._inside else "update"
        if (phase, what) in self.origins:
            return
        frame = _innermost(traceback.extract_stack()) if self._inside else _innermost(_lines_of(node))
        if phase == "backward" and not self._inside:
            op = f"{node.name()} ({op})"
        module = self._inside[-1] if self._inside else None
        self.origins[phase, what] = Origin(
            what,
            "inf" in before,
            op,
            phase,
            max(self._microbatch, 0),
            self._names[module] if module is not None else "",
            type(module).__name__ if module is not None else "",
            *frame,
        )

    def _enter_module(self, module: nn.Module, args: Any) -> None:
        if module is self._model and not self._inside and _backward_node() is None:
            self._microbatch += 1
        self._inside.append(module)

    def _leave_module(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._inside:
            self._inside.pop()
        if self.module is None and _found(output):
            self.module = self._names[module], type(module).__name__

    def _look_at(self, name: str) -> Any:
        def look(parameter: Tensor) -> None:
            gradient = parameter.grad
            if gradient is None or not _found(gradient):
                return
            self._bad.add(name)
            if self.gradient is None:
                values = gradient.coalesce().values() if gradient.is_sparse else gradient
                num_bad = int((~torch.isfinite(values)).sum())
                self.gradient = BadGradient(name, num_bad, values.numel(), max(self._microbatch, 0))

        return look


def is_bad(value: Any) -> bool:
    """Return whether anything in ``value`` is NaN or infinite; waits for its device."""
    return bool(_found(value))


def _found(tree: Any) -> set[What]:
    """Return which of NaN and inf are in the tensors of ``tree``."""
    found: set[What] = set()
    for leaf in tree_leaves(tree):
        if isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex()):
            found |= _in(leaf)
    return found


def _in(tensor: Tensor) -> set[What]:
    if tensor.is_sparse:
        tensor = tensor.detach()._values()
    if tensor.layout != torch.strided or tensor.is_meta or not tensor.numel():
        return set()
    try:
        with torch.no_grad():
            if torch.isfinite(tensor).all().item():
                return set()
            kinds: Iterable[tuple[What, Any]] = (("NaN", torch.isnan), ("inf", torch.isinf))
            return {what for what, is_it in kinds if is_it(tensor).any().item()}
    except (NotImplementedError, RuntimeError):  # a dtype that torch cannot ask, such as of 8 bits
        return set()


def _backward_node() -> Any:
    """Return the node of the graph whose backward runs now, or None."""
    current = getattr(torch._C, "_current_autograd_node", None)
    return None if current is None else current()


def _lines_of(node: Any) -> list[tuple[str, int]]:
    """Return the lines of forward that made ``node``, outermost first, as anomaly mode has kept them."""
    kept = [] if node is None else node.metadata.get("traceback_", [])
    return [(found["file"], int(found["line"])) for text in kept if (found := _FRAME.match(text))]


def _innermost(frames: Iterable[Any]) -> tuple[str, int]:
    """Return file and number of the innermost line that is neither torch's nor of the trainer."""
    found: Iterator[tuple[str, int]] = (
        (frame[0], frame[1]) for frame in reversed(list(frames)) if not frame[0].startswith((_TORCH, *_OURS))
    )
    return next(found, ("", 0))
