"""Plain functions as hooks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hookline.hookspecs import HookBase

__all__ = ["Callback"]

Function = Callable[..., Any]


class Callback(HookBase):
    """Calls plain functions, each given the trainer: ``Callback(after_step=lambda trainer: …)``.

    In a config a function is named like any target: ``callback: {after_step: ./my.py:report}``.

    Args:
        before_train: Called before the first iteration.
        before_step: Called before each iteration.
        after_step: Called after each iteration.
        after_train: Called at the end, whatever happened.
    """

    def __init__(
        self,
        before_train: Function | None = None,
        before_step: Function | None = None,
        after_step: Function | None = None,
        after_train: Function | None = None,
    ) -> None:
        self._functions = {
            "before_train": before_train,
            "before_step": before_step,
            "after_step": after_step,
            "after_train": after_train,
        }

    def before_train(self) -> None:
        """Call the function given for it."""
        self._run("before_train")

    def before_step(self) -> None:
        """Call the function given for it."""
        self._run("before_step")

    def after_step(self) -> None:
        """Call the function given for it."""
        self._run("after_step")

    def after_train(self) -> None:
        """Call the function given for it."""
        self._run("after_train")

    def _run(self, hook: str) -> None:
        function = self._functions[hook]
        if function is not None:
            function(self.trainer)
