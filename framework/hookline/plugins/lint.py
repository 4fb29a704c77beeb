"""Refuse what pluggy would ignore in silence: each check names the fault and its mend."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from types import FunctionType, ModuleType
from typing import Any

from hookline.errors import PluginError, did_you_mean
from hookline.events import EventWriter
from hookline.hookspecs import HookBase, HookSpecs

__all__ = ["HOOK_NAMES", "hook_arguments", "lint", "lint_writer", "marker_of"]

HOOK_NAMES: tuple[str, ...] = tuple(name for name in vars(HookSpecs) if not name.startswith("_"))
_WRITER_METHODS = {"open": 1, "write": 1, "close": 1, "state_dict": 0, "load_state_dict": 1}
_HOOK_PREFIXES = ("before_", "after_", "on_")


@functools.cache
def hook_arguments(hook: str) -> tuple[str, ...]:
    """Return the arguments that the spec of ``hook`` offers."""
    return tuple(inspect.signature(getattr(HookSpecs, hook)).parameters)[1:]


def marker_of(function: Any) -> dict[str, Any] | None:
    """Return the options that ``@hookimpl`` left on ``function``, or None."""
    return getattr(function, "hookline_impl", None)


def lint(plugin: Any, name: str) -> None:
    """Return if every hook that ``plugin`` seems to implement would really be called as written.

    Raises:
        PluginError: With the first fault found, and how to mend it.
    """
    if inspect.isclass(plugin):
        raise _fault(
            name, "a plugin instance", f"the class {plugin.__name__}", f"Register {plugin.__name__}(…)"
        )
    if type(plugin).__hash__ is None:
        raise _fault(
            name,
            "a hashable plugin",
            f"a {type(plugin).__name__} that defines __eq__ without __hash__",
            "Use @dataclass(eq=False), so that two plugins with equal options stay two plugins",
        )
    num_hooks = 0
    for attribute, value in _attributes(plugin):
        marked = marker_of(value) is not None
        hook = (marker_of(value) or {}).get("specname") or attribute
        if hook in HOOK_NAMES:
            _check_implementation(plugin, name, attribute, hook, value, marked)
            num_hooks += 1
        elif marked or isinstance(plugin, HookBase):
            _check_name(name, hook, marked)
    if num_hooks == 0:
        raise _fault(
            name,
            "a plugin that implements at least one hook",
            f"{_kind(plugin)} that implements none",
            f"Hooks: {', '.join(HOOK_NAMES)}. Define one; outside a HookBase subclass mark it with @hookimpl",
        )


def lint_writer(writer: Any, name: str, source: str) -> None:
    """Return if ``writer`` is one, and its methods can be called as they will be.

    Raises:
        PluginError: If not.
    """
    where = f"writers.{name}"
    if not isinstance(writer, EventWriter):
        got = f"a {type(writer).__name__} from {source}"
        raise _fault(where, "an EventWriter", got, "Hooks belong into the list 'hooks'")
    for method, num_arguments in _WRITER_METHODS.items():
        try:
            inspect.signature(getattr(writer, method)).bind(*[None] * num_arguments)
        except TypeError as error:
            expected = f"a method that takes {num_arguments} argument beside self"
            got = f"one from {source} that does not ({error})"
            raise _fault(f"{where}.{method}", expected, got, f"See hookline.EventWriter.{method}") from error


def _attributes(plugin: Any) -> Iterator[tuple[str, Any]]:
    """Yield what the plugin's author defined: names and raw values, properties not run."""
    inherited = set(dir(HookBase)) if isinstance(plugin, HookBase) else set()
    for attribute in dir(plugin):
        value = inspect.getattr_static(plugin, attribute)
        if isinstance(value, (staticmethod, classmethod)):
            value = value.__func__
        if attribute in inherited and value is inspect.getattr_static(HookBase, attribute):
            continue
        if attribute in HOOK_NAMES or (
            callable(value) and not attribute.startswith("__") and not inspect.isclass(value)
        ):
            yield attribute, value


def _check_implementation(
    plugin: Any, name: str, attribute: str, hook: str, value: Any, marked: bool
) -> None:
    where = f"{name}.{attribute}"
    if not isinstance(value, FunctionType) and not inspect.ismethod(value):
        kind = type(value).__name__
        raise _fault(where, "a plain function", f"a {kind}, which pluggy ignores", "Define it with def")
    if inspect.iscoroutinefunction(value) or inspect.isasyncgenfunction(value):
        raise _fault(where, "a plain function", "an async function, which would never run", "Remove 'async'")
    wrapper = bool((marker_of(value) or {}).get("wrapper"))
    if inspect.isgeneratorfunction(value) and not wrapper:
        raise _fault(
            where,
            "a plain function",
            "a generator function, which would never run",
            "Remove 'yield', or mark it @hookimpl(wrapper=True)",
        )
    if not marked and not isinstance(plugin, HookBase):
        if isinstance(plugin, ModuleType) and value.__module__ != plugin.__name__:
            return
        raise _fault(
            where,
            "@hookimpl on a function named like a hook",
            "an unmarked function, which would never be called",
            "Add @hookimpl (from hookline import hookimpl), or inherit HookBase",
        )
    _check_arguments(where, hook, getattr(plugin, attribute))


def _check_arguments(where: str, hook: str, bound: Any) -> None:
    parameters = inspect.signature(bound).parameters.values()
    offered = hook_arguments(hook)
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise _fault(where, f"arguments out of {offered}", f"{parameter}", "Name the arguments you want")
        if parameter.kind is parameter.KEYWORD_ONLY:
            raise _fault(
                where,
                "positional arguments",
                f"the keyword-only argument {parameter.name!r}, which pluggy cannot pass",
                "Remove the '*' before it",
            )
        if parameter.name not in offered:
            mend = did_you_mean(parameter.name, offered) or "Remove it"
            raise _fault(
                where,
                f"arguments out of {', '.join(offered)}",
                f"{parameter.name!r}, which no call passes",
                mend,
            )


def _check_name(plugin: str, attribute: str, marked: bool) -> None:
    """Refuse a method that is no hook but was surely meant as one."""
    near = did_you_mean(attribute.lower(), HOOK_NAMES, cutoff=0.85)
    hooks = f"Hooks: {', '.join(HOOK_NAMES)}"
    where = f"{plugin}.{attribute}"
    if marked:
        raise _fault(where, "the name of a hook under @hookimpl", repr(attribute), near or hooks)
    if near or attribute.startswith(_HOOK_PREFIXES):
        raise _fault(
            where,
            "the name of a hook",
            f"{attribute!r}, which would never be called",
            f"{near or hooks + '.'} If it is not meant as a hook, start its name with an underscore",
        )


def _kind(plugin: Any) -> str:
    return f"the module {plugin.__name__}" if isinstance(plugin, ModuleType) else f"a {type(plugin).__name__}"


def _fault(where: str, expected: str, got: str, mend: str) -> PluginError:
    return PluginError(f"{where}: expected {expected}, got {got}. {mend}{'' if mend.endswith('?') else '.'}")
