"""One plugin's function for one hook: what pluggy found, in the form in which the manager calls it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pluggy

__all__ = ["HookCall", "Implementation", "rank"]

_WRAPPER = "wrapper: around all others"


@dataclass(frozen=True)
class HookCall:
    """One call of one plugin's implementation of a hook.

    Args:
        plugin: The plugin's instance name.
        hook: The hook's name.
        arguments: What the implementation is given, by name.
        half: Of a wrapper, ``before`` or ``after``: the part on that side of its yield; else empty.
    """

    plugin: str
    hook: str
    arguments: Mapping[str, Any]
    half: str = ""


@dataclass(frozen=True)
class Implementation:
    """One plugin's function for one hook.

    Args:
        plugin: The plugin's instance name.
        hook: The hook's name.
        function: What is called.
        arguments: The names of what it is given, in order.
        mark: Why it is called before or after those without one, in words; empty without one.
    """

    plugin: str
    hook: str
    function: Callable[..., Any]
    arguments: tuple[str, ...]
    mark: str

    @classmethod
    def of(cls, hook: str, impl: pluggy.HookImpl) -> Implementation:
        """Return pluggy's ``impl`` of ``hook``."""
        marks = {_WRAPPER: impl.wrapper, "tryfirst": impl.tryfirst, "trylast": impl.trylast}
        mark = next((mark for mark, is_set in marks.items() if is_set), "")
        return cls(impl.plugin_name, hook, impl.function, (*impl.argnames, *impl.kwargnames), mark)

    @property
    def wrapper(self) -> bool:
        """True when it is a generator around the others."""
        return self.mark == _WRAPPER

    def __call__(self, offered: Mapping[str, Any]) -> Any:
        """Call it with what it takes of ``offered``."""
        return self.function(*[offered[name] for name in self.arguments])

    def as_call(self, offered: Mapping[str, Any], half: str) -> HookCall:
        """Return the call that those who watch are shown."""
        return HookCall(self.plugin, self.hook, {name: offered[name] for name in self.arguments}, half)


def rank(impl: pluggy.HookImpl) -> tuple[bool, int]:
    """Return what orders ``impl`` before the place of its plugin does: wrappers, tryfirst, none, trylast."""
    return not impl.wrapper, 0 if impl.tryfirst else 2 if impl.trylast else 1
