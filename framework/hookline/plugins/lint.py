"""Refuse what pluggy would ignore in silence: each check names the fault, its place and its mend."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

from hookline.errors import Fault, PluginError, did_you_mean
from hookline.events import EventWriter
from hookline.hookspecs import HookBase, HookSpecs

__all__ = ["HOOK_NAMES", "faults", "hook_arguments", "implemented", "lint", "lint_writer", "marker_of"]

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


def faults(plugin: Any, name: str = "", kind: str = "hook") -> list[Fault]:
    """Return everything in ``plugin`` that would be refused, or ignored in silence, in a run.

    Nothing is called. Attributes that ``__init__`` sets are seen on an instance only.

    Args:
        plugin: A class, an instance or a module.
        name: What it is called in the faults; by default as in its code.
        kind: ``hook`` or ``writer``.
    """
    name = name or getattr(plugin, "__name__", type(plugin).__name__)
    return list(_writer_faults(plugin, name) if kind == "writer" else _hook_faults(plugin, name))


def implemented(plugin: Any) -> list[str]:
    """Return the hooks that ``plugin``, a class, an instance or a module, implements."""
    found = {
        (marker_of(value) or {}).get("specname") or attribute
        for attribute, value in _attributes(plugin)
        if _is_hook_base(plugin) or marker_of(value) is not None
    }
    return [hook for hook in HOOK_NAMES if hook in found]


def lint(plugin: Any, name: str) -> None:
    """Return if every hook that ``plugin`` seems to implement would really be called as written.

    Raises:
        PluginError: With the first fault found, and how to mend it.
    """
    if inspect.isclass(plugin):
        got, mend = f"the class {plugin.__name__}", f"Register {plugin.__name__}(…)"
        raise PluginError(str(Fault(name, "a plugin instance", got, mend)))
    for fault in _hook_faults(plugin, name):
        raise PluginError(str(fault))


def lint_writer(writer: Any, name: str, source: str) -> None:
    """Return if ``writer`` is one, and its methods can be called as they will be.

    Raises:
        PluginError: If not.
    """
    for fault in _writer_faults(writer, f"writers.{name}", f" from {source}"):
        raise PluginError(str(fault))


def _hook_faults(plugin: Any, name: str) -> Iterator[Fault]:
    if _is_a(plugin, EventWriter):
        mend = "Writers belong into the list 'writers', and into the entry points 'hookline.writers'"
        yield _fault(name, "a hook plugin", f"{_kind(plugin)}, an EventWriter", mend, plugin)
        return
    if not isinstance(plugin, ModuleType) and _class_of(plugin).__hash__ is None:
        yield _fault(
            name,
            "a hashable plugin",
            f"{_a(_class_of(plugin))} that defines __eq__ without __hash__",
            "Use @dataclass(eq=False), so that two plugins with equal options stay two plugins",
            plugin,
        )
    num_hooks = 0
    for attribute, value in _attributes(plugin):
        marked = marker_of(value) is not None
        hook = (marker_of(value) or {}).get("specname") or attribute
        if hook in HOOK_NAMES:
            yield from _implementation_faults(plugin, name, attribute, hook, value, marked)
            num_hooks += 1
        elif marked or _is_hook_base(plugin):
            yield from _name_faults(plugin, name, hook, value, marked)
    if num_hooks == 0:
        yield _fault(
            name,
            "a plugin that implements at least one hook",
            f"{_kind(plugin)} that implements none",
            f"Hooks: {', '.join(HOOK_NAMES)}. Define one; outside a HookBase subclass mark it with @hookimpl",
            plugin,
        )


def _writer_faults(writer: Any, where: str, source: str = "") -> Iterator[Fault]:
    if not _is_a(writer, EventWriter):
        mend = "Hooks belong into the list 'hooks', and into the entry points 'hookline.hooks'"
        yield _fault(where, "an EventWriter", f"{_kind(writer)}{source}", mend, writer)
        return
    if inspect.isabstract(writer):
        lacking = ", ".join(sorted(writer.__abstractmethods__))
        mend = f"See hookline.EventWriter.{lacking.partition(',')[0]}"
        yield _fault(where, "a class that can be built", f"one without {lacking}", mend, writer)
    for method, num_arguments in _WRITER_METHODS.items():
        value = inspect.getattr_static(writer, method)
        function = value.__func__ if isinstance(value, staticmethod | classmethod) else value
        holders = function, writer
        mend = f"See hookline.EventWriter.{method}"
        if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
            got = f"one{source} with 'async' or 'yield', which would never run"
            yield _fault(f"{where}.{method}", "a plain method", got, mend, *holders)
            continue
        is_bound_later = inspect.isclass(writer) and isinstance(value, FunctionType)
        try:
            signature = inspect.signature(getattr(writer, method))
            signature.bind(*[None] * (num_arguments + is_bound_later))
        except (TypeError, ValueError) as error:
            expected = f"a method that takes {num_arguments} argument beside self"
            got = f"one{source} that does not ({error})"
            yield _fault(f"{where}.{method}", expected, got, mend, *holders)


def _attributes(plugin: Any) -> Iterator[tuple[str, Any]]:
    """Yield what the plugin's author defined: names and raw values, properties not run."""
    inherited = set(dir(HookBase)) if _is_hook_base(plugin) else set()
    for attribute in dir(plugin):
        value = inspect.getattr_static(plugin, attribute, None)
        if isinstance(value, (staticmethod, classmethod)):
            value = value.__func__
        if attribute in inherited and value is inspect.getattr_static(HookBase, attribute):
            continue
        if attribute in HOOK_NAMES or (
            callable(value) and not attribute.startswith("__") and not inspect.isclass(value)
        ):
            yield attribute, value


def _implementation_faults(
    plugin: Any, name: str, attribute: str, hook: str, value: Any, marked: bool
) -> Iterator[Fault]:
    where, holders = f"{name}.{attribute}", (value, plugin)
    wrapper = bool((marker_of(value) or {}).get("wrapper"))
    if not isinstance(value, FunctionType) and not inspect.ismethod(value):
        got = f"{_a(type(value))}, which pluggy ignores"
        yield _fault(where, "a plain function", got, "Define it with def", *holders)
    elif inspect.iscoroutinefunction(value) or inspect.isasyncgenfunction(value):
        got = "an async function, which would never run"
        yield _fault(where, "a plain function", got, "Remove 'async'", *holders)
    elif inspect.isgeneratorfunction(value) and not wrapper:
        got, mend = (
            "a generator function, which would never run",
            "Remove 'yield', or mark it @hookimpl(wrapper=True)",
        )
        yield _fault(where, "a plain function", got, mend, *holders)
    elif marked or _is_hook_base(plugin):
        yield from _argument_faults(plugin, where, attribute, hook, value)
    elif not isinstance(plugin, ModuleType) or value.__module__ == plugin.__name__:
        yield _fault(
            where,
            "@hookimpl on a function named like a hook",
            "an unmarked function, which would never be called",
            "Add @hookimpl (from hookline import hookimpl), or inherit HookBase",
            *holders,
        )


def _argument_faults(plugin: Any, where: str, attribute: str, hook: str, value: Any) -> Iterator[Fault]:
    offered, holders = hook_arguments(hook), (value, plugin)
    try:
        parameters = _parameters(plugin, attribute, value)
    except ValueError as error:
        yield _fault(where, "a method that takes self", f"one that does not ({error})", "Add self", *holders)
        return
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            yield _fault(
                where, f"arguments out of {offered}", f"{parameter}", "Name the arguments you want", *holders
            )
        elif parameter.kind is parameter.KEYWORD_ONLY:
            got = f"the keyword-only argument {parameter.name!r}, which pluggy cannot pass"
            yield _fault(where, "positional arguments", got, "Remove the '*' before it", *holders)
        elif parameter.name not in offered:
            expected, got = (
                f"arguments out of {', '.join(offered)}",
                f"{parameter.name!r}, which no call passes",
            )
            mend = did_you_mean(parameter.name, offered) or "Remove it"
            yield _fault(where, expected, got, mend, *holders)


def _parameters(plugin: Any, attribute: str, value: Any) -> list[inspect.Parameter]:
    """Return the parameters that a call fills, without self."""
    if not inspect.isclass(plugin):
        return list(inspect.signature(getattr(plugin, attribute)).parameters.values())
    parameters = list(inspect.signature(value).parameters.values())
    if isinstance(inspect.getattr_static(plugin, attribute), staticmethod):
        return parameters
    if not parameters:
        raise ValueError("it takes no arguments at all")
    return parameters[1:]


def _name_faults(plugin: Any, name: str, attribute: str, value: Any, marked: bool) -> Iterator[Fault]:
    """Refuse a method that is no hook but was surely meant as one."""
    near = did_you_mean(attribute.lower(), HOOK_NAMES, cutoff=0.85)
    hooks = f"Hooks: {', '.join(HOOK_NAMES)}"
    where, holders = f"{name}.{attribute}", (value, plugin)
    if marked:
        yield _fault(where, "the name of a hook under @hookimpl", repr(attribute), near or hooks, *holders)
    elif near or attribute.startswith(_HOOK_PREFIXES):
        yield _fault(
            where,
            "the name of a hook",
            f"{attribute!r}, which would never be called",
            f"{near or hooks + '.'} If it is not meant as a hook, start its name with an underscore",
            *holders,
        )


def _class_of(plugin: Any) -> Any:
    return plugin if inspect.isclass(plugin) else type(plugin)


def _is_a(plugin: Any, base: type) -> bool:
    return issubclass(_class_of(plugin), base)


def _is_hook_base(plugin: Any) -> bool:
    return _is_a(plugin, HookBase)


def _kind(plugin: Any) -> str:
    if isinstance(plugin, ModuleType):
        return f"the module {plugin.__name__}"
    return f"the class {plugin.__name__}" if inspect.isclass(plugin) else _a(type(plugin))


def _a(cls: type) -> str:
    return f"{'an' if cls.__name__[0] in 'aeiou' else 'a'} {cls.__name__}"


def _fault(where: str, expected: str, got: str, mend: str, *holders: Any) -> Fault:
    """Return a fault at the first function among ``holders``, or else at their last, the plugin."""
    place = next(filter(None, map(_place_of_function, holders)), None) or _place_of_plugin(holders[-1])
    return Fault(where, expected, got, mend, *place)


def _place_of_function(value: Any) -> tuple[str, int] | None:
    try:
        function = inspect.unwrap(value.func if isinstance(value, functools.partial) else value)
    except ValueError:  # it says that it wraps itself
        return None
    code = getattr(function, "__code__", None)
    return (code.co_filename, code.co_firstlineno) if isinstance(code, CodeType) else None


def _place_of_plugin(plugin: Any) -> tuple[str, int]:
    if isinstance(plugin, ModuleType):
        return getattr(plugin, "__file__", None) or "", 1
    try:
        cls = _class_of(plugin)
        return inspect.getsourcefile(cls) or "", inspect.getsourcelines(cls)[1]
    except (OSError, TypeError):  # made by exec, or a builtin
        return "", 0
