"""Plugins that fail, are slow, or hang, to see what a run makes of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

from hookline.errors import PluginError, did_you_mean
from hookline.events import Events, Run
from hookline.hookspecs import HookBase
from hookline.plugins.lint import HOOK_NAMES
from hookline.testing.writers import MemoryWriter

__all__ = ["FailingHook", "FailingWriter", "HangingWriter", "SlowHook", "SlowWriter"]


class _HookAt(HookBase):
    """Implements one hook, by its name; the others are left alone, so that they cost and change nothing."""

    def __init__(self, hook: str, act: Callable[[Any], None]) -> None:
        if hook not in HOOK_NAMES:
            raise PluginError(
                f"{type(self).__name__}.hook: expected one of {', '.join(HOOK_NAMES)}, got {hook!r}. "
                f"{did_you_mean(hook, HOOK_NAMES)}".rstrip()
            )

        def implementation(trainer: Any) -> None:
            act(trainer)

        setattr(self, hook, implementation)


class FailingHook(_HookAt):
    """Raises ``error`` in ``hook``, at ``iteration`` or at every call.

    Args:
        hook: The hook's name.
        iteration: The iteration, or None for all of them.
        error: What is raised; by default a `RuntimeError`.
    """

    def __init__(
        self, hook: str = "after_step", iteration: int | None = None, error: BaseException | None = None
    ) -> None:
        self.iteration = iteration
        self.error = RuntimeError(f"{hook} was told to fail") if error is None else error
        super().__init__(hook, self._act)

    def _act(self, trainer: Any) -> None:
        if self.iteration is None or trainer.iter == self.iteration:
            raise self.error


class SlowHook(_HookAt):
    """Sleeps ``seconds`` in every call of ``hook``."""

    observer = True

    def __init__(self, hook: str = "after_step", seconds: float = 0.01) -> None:
        super().__init__(hook, lambda trainer: time.sleep(seconds))


class FailingWriter(MemoryWriter):
    """Raises ``error`` in calls of ``method``; of a ``write`` that fails, half of the events are left behind.

    Args:
        method: ``open``, ``write``, ``state_dict``, ``load_state_dict`` or ``close``.
        calls: Numbers of the calls that fail, counted from 0; by default every call.
        error: What is raised; by default an `OSError`.
        position: As for `MemoryWriter`.
    """

    def __init__(
        self,
        method: str = "write",
        calls: Container[int] | None = None,
        error: BaseException | None = None,
        position: bool = True,
    ) -> None:
        methods = ("open", "write", "state_dict", "load_state_dict", "close")
        if method not in methods:
            raise ValueError(f"method: expected one of {', '.join(methods)}, got {method!r}.")
        super().__init__(position)
        self._method, self._calls = method, calls
        self.error = OSError("disk full") if error is None else error
        self.num_calls = 0
        """Calls of ``method`` so far."""

    def open(self, run: Run) -> None:
        """See `MemoryWriter.open`."""
        self._fail("open")
        super().open(run)

    def write(self, events: Sequence[Events]) -> None:
        """See `MemoryWriter.write`."""
        half = len(events) // 2
        super().write(events[:half])
        self._fail("write")
        super().write(events[half:])

    def state_dict(self) -> dict[str, Any] | None:
        """See `MemoryWriter.state_dict`."""
        self._fail("state_dict")
        return super().state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `MemoryWriter.load_state_dict`."""
        self._fail("load_state_dict")
        super().load_state_dict(state)

    def close(self, status: str) -> None:
        """See `MemoryWriter.close`."""
        self._fail("close")
        super().close(status)

    def _fail(self, method: str) -> None:
        if method == self._method:
            number, self.num_calls = self.num_calls, self.num_calls + 1
            if self._calls is None or number in self._calls:
                raise self.error


class SlowWriter(MemoryWriter):
    """Takes ``seconds`` for every ``write``."""

    def __init__(self, seconds: float = 0.01, position: bool = True) -> None:
        super().__init__(position)
        self.seconds = seconds

    def write(self, events: Sequence[Events]) -> None:
        """See `MemoryWriter.write`."""
        time.sleep(self.seconds)
        super().write(events)


class HangingWriter(MemoryWriter):
    """Hangs in ``write`` until ``release`` is called.

    Attributes:
        hangs: An event that is set while it hangs, and ever after.
    """

    def __init__(self, position: bool = True) -> None:
        super().__init__(position)
        self.hangs = threading.Event()
        self._released = threading.Event()

    def write(self, events: Sequence[Events]) -> None:
        """Hang, then keep ``events``."""
        self.hangs.set()
        self._released.wait()
        super().write(events)

    def release(self) -> None:
        """Let every call go on, from now on all."""
        self._released.set()
