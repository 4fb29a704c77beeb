"""One plugin's function for one hook: what pluggy found, in the form in which the manager calls it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pluggy

from hookline.hookspecs import HookSpecs
from hookline.plugins.lint import HOOK_NAMES

__all__ = ["HookCall", "Implementation", "rank", "spec_defaults"]


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
        wrapper: True when it is a generator around the others.
    """

    plugin: str
    hook: str
    function: Callable[..., Any]
    arguments: tuple[str, ...]
    mark: str
    wrapper: bool

    @classmethod
    def of(cls, hook: str, impl: pluggy.HookImpl) -> Implementation:
        """Return pluggy's ``impl`` of ``hook``."""
        marks = {
            "wrapper: around all others": impl.wrapper,
            "tryfirst": impl.tryfirst,
            "trylast": impl.trylast,
        }
        mark = next((mark for mark, is_set in marks.items() if is_set), "")
        arguments = (*impl.argnames, *impl.kwargnames)
        return cls(impl.plugin_name, hook, impl.function, arguments, mark, impl.wrapper)

    @cached_property
    def key(self) -> tuple[str, str]:
        """The plugin's name and the hook's."""
        return self.plugin, self.hook

    def begin(self, offered: Mapping[str, Any]) -> Any:
        """Call it with what it takes of ``offered``; return what it returns, or a wrapper at its yield."""
        arguments = [offered[name] for name in self.arguments] if self.arguments else ()
        returned = self.function(*arguments)
        if self.wrapper:
            try:
                next(returned)
            except StopIteration:
                raise RuntimeError("wrapper: expected one yield, got none. Add it.") from None
        return returned

    def as_call(self, offered: Mapping[str, Any], half: str) -> HookCall:
        """Return the call that those who watch are shown."""
        return HookCall(self.plugin, self.hook, {name: offered[name] for name in self.arguments}, half)


def rank(impl: pluggy.HookImpl) -> tuple[bool, int]:
    """Return what orders ``impl`` before the place of its plugin does: wrappers, tryfirst, none, trylast."""
    return not impl.wrapper, 0 if impl.tryfirst else 2 if impl.trylast else 1


def spec_defaults() -> dict[str, dict[str, Any]]:
    """Return the arguments that a caller need not pass, since they were added to the spec later, by hook."""
    found = {}
    for hook in HOOK_NAMES:
        parameters = inspect.signature(getattr(HookSpecs, hook)).parameters.values()
        defaults = {each.name: each.default for each in parameters if each.default is not each.empty}
        if defaults:
            found[hook] = defaults
    return found
