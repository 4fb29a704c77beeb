"""Look at each call of a plugin: what training depends on, before and after."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from hookline.plugins import HookCall
from hookline.purity.fingerprint import RANDOM, differences, fingerprint
from hookline.trainer import TrainerBase

__all__ = ["CallWatch", "Change", "observe", "observers"]

_EVALUATION = ("before_evaluate", "after_evaluate")


@dataclass(frozen=True)
class Change:
    """One call of one plugin that changed what training depends on.

    Args:
        plugin: The plugin's instance name.
        hook: The hook that was called.
        iteration: ``trainer.iter`` of the call.
        parts: What it changed, as named by `fingerprint`.
    """

    plugin: str
    hook: str
    iteration: int
    parts: tuple[str, ...]


def observers(trainer: TrainerBase) -> list[str]:
    """Return the names of the registered plugins that call themselves observers, in call order."""
    hooks = trainer.hooks
    return [name for name in hooks.names() if getattr(hooks.get_plugin(name), "observer", False)]


def observe(trainer: TrainerBase, names: Collection[str] | None = None) -> CallWatch:
    """Compare what training depends on before and after each call of a plugin, from now on.

    Args:
        trainer: Its plugins are watched.
        names: Which of them; by default those that call themselves observers at the time of the call.
    """
    watch = CallWatch(trainer, names)
    trainer.hooks.watch(watch)
    return watch


class CallWatch:
    """Takes a fingerprint before and after each call; for `HookManager.watch`, which `observe` does.

    What ``before_evaluate`` changes counts only if it is not as before when ``after_evaluate`` has returned,
    and random numbers not at all: that is what these two hooks are for.

    Attributes:
        calls: How often each hook of each watched plugin was called, by (plugin, hook).
    """

    def __init__(self, trainer: TrainerBase, names: Collection[str] | None = None) -> None:
        self._trainer = weakref.ref(trainer)
        self._names = names
        self.calls: Counter[tuple[str, str]] = Counter()
        self._changes: list[Change] = []
        self._evaluation: _Evaluation | None = None

    @property
    def changes(self) -> list[Change]:
        """What was changed so far, in the order of the calls."""
        open_evaluation = self._evaluation.lasting() if self._evaluation is not None else []
        return [*self._changes, *open_evaluation]

    @contextmanager
    def __call__(self, call: HookCall) -> Iterator[None]:
        """Compare before and after the body, if ``call`` is one of a watched plugin."""
        trainer = self._trainer()
        if trainer is None or not self._is_watched(trainer, call.plugin):
            yield
            return
        self._enter(call.hook)
        self.calls[call.plugin, call.hook] += 1
        before = fingerprint(trainer)
        try:
            yield
        finally:
            self._compare(call, trainer.iter, before, fingerprint(trainer))

    def _is_watched(self, trainer: TrainerBase, name: str) -> bool:
        if self._names is not None:
            return name in self._names
        return bool(getattr(trainer.hooks.get_plugin(name), "observer", False))

    def _enter(self, hook: str) -> None:
        """Close the evaluation that is over, and open the one that begins, with ``hook``."""
        current = self._evaluation
        if current is not None and (hook not in _EVALUATION or (current.ending and hook == _EVALUATION[0])):
            self._changes += current.lasting()
            current = None
        if current is None and hook in _EVALUATION:
            current = _Evaluation()
        if current is not None:
            current.ending = hook == _EVALUATION[1]
        self._evaluation = current

    def _compare(
        self, call: HookCall, iteration: int, before: Mapping[str, str], after: Mapping[str, str]
    ) -> None:
        parts = differences(before, after)
        if not parts:
            return
        change = Change(call.plugin, call.hook, iteration, parts)
        if self._evaluation is not None:
            self._evaluation.add(change, before, after)
        else:
            self._changes.append(change)


class _Evaluation:
    """What was changed from ``before_evaluate`` to ``after_evaluate``, and whether it still is."""

    def __init__(self) -> None:
        self.ending = False
        self._changes: list[Change] = []
        self._first: dict[str, str | None] = {}
        self._last: dict[str, str | None] = {}

    def add(self, change: Change, before: Mapping[str, str], after: Mapping[str, str]) -> None:
        """Take note of the change of one call."""
        self._changes.append(change)
        for part in change.parts:
            self._first.setdefault(part, before.get(part))
            self._last[part] = after.get(part)

    def lasting(self) -> list[Change]:
        """Return the changes, of each only the parts that were not put back."""
        parts = {
            part
            for part, digest in self._first.items()
            if digest != self._last[part] and not part.startswith(f"{RANDOM}/")
        }
        found = []
        for change in self._changes:
            kept = tuple(part for part in change.parts if part in parts)
            if kept:
                found.append(Change(change.plugin, change.hook, change.iteration, kept))
        return found
