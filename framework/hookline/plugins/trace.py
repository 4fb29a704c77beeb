"""A line for each call of a plugin, as it happens: what was called with what, and how long it took."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from hookline.plugins.implementation import HookCall

if TYPE_CHECKING:
    from hookline.trainer import TrainerBase

__all__ = ["Trace"]

WIDTH = 100
_SOURCE_COLUMN = 72
_EVERY_ITERATION = ("before_step", "after_backward", "after_step")


class Trace:
    """Tells of the plugins' calls in the first iterations of a run, and of all calls between iterations.

    ``trainer.hooks.watch(Trace(trainer, print))`` begins it. A wrapper has two lines, for the part before
    its ``yield`` and the part after. Values are shown in short; a tensor's are not read, which would make
    the host wait for its device.

    Args:
        trainer: Whose iterations are counted.
        show: Is given one line at a time, at most 100 columns wide unless names are very long.
        num_iters: How many iterations are traced.
    """

    def __init__(self, trainer: TrainerBase, show: Callable[[str], Any], num_iters: int = 3) -> None:
        self._trainer, self._show, self._num_iters = trainer, show, num_iters
        self._has_begun = self._has_ended = False

    def __call__(self, call: HookCall) -> AbstractContextManager[None]:
        """Return what tells of ``call`` when it is left, or of nothing in a later iteration."""
        if not self._has_begun:
            self._has_begun = True
            self._show(_line("iter", "time", "call", "from"))
        last = self._trainer.start_iter + self._num_iters - 1
        if call.hook not in _EVERY_ITERATION or self._trainer.iter <= last:
            return self._told(call)
        if not self._has_ended:
            self._has_ended = True
            self._show(_line("…", "", f"calls within iterations after {last} are not shown", ""))
        return nullcontext()

    @contextmanager
    def _told(self, call: HookCall) -> Iterator[None]:
        outcome = ""
        start = perf_counter()
        try:
            yield
        except BaseException as error:
            outcome = f"raised {_short(error)}"
            raise
        finally:
            seconds = perf_counter() - start
            self._show(self._described(call, seconds, outcome))

    def _described(self, call: HookCall, seconds: float, outcome: str) -> str:
        half = f" [{call.half} yield]" if call.half else ""
        text = f"{call.plugin}.{call.hook}({_arguments(call.arguments)}){half} {outcome}".rstrip()
        source = self._trainer.hooks.sources.get(call.plugin, "")
        return _line(str(self._trainer.iter), _duration(seconds), text, source)


def _line(iteration: str, duration: str, text: str, source: str) -> str:
    """Return the columns as one line; the source moves aside, and goes, for a text that needs the room."""
    line = f"{iteration:>7}  {duration:>8}  {text}"
    room = WIDTH - 2 - len(source)
    if len(line) > WIDTH:
        return f"{line[: WIDTH - 1]}…"
    return f"{line:<{min(_SOURCE_COLUMN, room)}}  {source}".rstrip() if len(line) <= room else line


def _duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.3f} ms"


def _arguments(arguments: Mapping[str, Any]) -> str:
    return ", ".join(
        name if name == "trainer" else f"{name}={_short(value)}" for name, value in arguments.items()
    )


def _short(value: Any) -> str:
    """Return a few words for ``value`` that cost nothing and wait for nothing."""
    if isinstance(value, Path):
        return f"…/{value.name}"
    if isinstance(value, Mapping):
        items = [f"{key}: {_short(item)}" for key, item in value.items()]
        return f"{{{', '.join(items[:3])}{', …' if len(items) > 3 else ''}}}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, BaseException):
        return f"{type(value).__name__}: {value}".splitlines()[0].rstrip(": ")
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{type(value).__name__}{tuple(value.shape)}"
    return reprlib.repr(value) if value is None or isinstance(value, str | int) else type(value).__name__
