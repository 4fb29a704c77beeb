"""What pluggy would ignore in silence in a plugin: each check names the fault, its place and its mend."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import FunctionType, ModuleType
from typing import Any

from hookline.errors import Fault, did_you_mean
from hookline.events import EventWriter
from hookline.hookspecs import HookBase
from hookline.plugins.lint.attributes import HOOK_NAMES, attributes, hook_arguments, marker_of
from hookline.plugins.lint.elsewhere import counterpart
from hookline.plugins.lint.meant import meant
from hookline.plugins.lint.place import article, class_of, fault, is_a, kind_of
from hookline.plugins.lint.traits import STATE_METHODS, state_faults, trait_faults

__all__ = ["hook_faults"]

_HOOK_PREFIXES = ("before_", "after_", "on_")


def hook_faults(plugin: Any, name: str) -> Iterator[Fault]:
    """Yield the faults of ``plugin``, a class, an instance or a module."""
    if is_a(plugin, EventWriter):
        mend = "Writers belong into the list 'writers', and into the entry points 'hookline.writers'"
        yield fault(name, "a hook plugin", f"{kind_of(plugin)}, an EventWriter", mend, plugin)
        return
    if not isinstance(plugin, ModuleType) and class_of(plugin).__hash__ is None:
        yield fault(
            name,
            "a hashable plugin",
            f"{article(class_of(plugin))} that defines __eq__ without __hash__",
            "Use @dataclass(eq=False), so that two plugins with equal options stay two plugins",
            plugin,
        )
    yield from trait_faults(plugin, name)
    yield from state_faults(plugin, name)
    num_hooks = 0
    for attribute, value in attributes(plugin):
        marked = marker_of(value) is not None
        hook = (marker_of(value) or {}).get("specname") or attribute
        if hook in HOOK_NAMES:
            yield from _implementation_faults(plugin, name, attribute, hook, value, marked)
            num_hooks += 1
        elif marked or is_a(plugin, HookBase):
            yield from _name_faults(plugin, name, hook, value, marked)
    if num_hooks == 0:
        yield fault(
            name,
            "a plugin that implements at least one hook",
            f"{kind_of(plugin)} that implements none",
            f"Hooks: {', '.join(HOOK_NAMES)}. Define one; outside a HookBase subclass mark it with @hookimpl",
            plugin,
        )


def _implementation_faults(
    plugin: Any, name: str, attribute: str, hook: str, value: Any, marked: bool
) -> Iterator[Fault]:
    where, holders = f"{name}.{attribute}", (value, plugin)
    wrapper = bool((marker_of(value) or {}).get("wrapper"))
    if not isinstance(value, FunctionType) and not inspect.ismethod(value):
        got = f"{article(type(value))}, which pluggy ignores"
        yield fault(where, "a plain function", got, "Define it with def", *holders)
    elif inspect.iscoroutinefunction(value) or inspect.isasyncgenfunction(value):
        got = "an async function, which would never run"
        yield fault(where, "a plain function", got, "Remove 'async'", *holders)
    elif inspect.isgeneratorfunction(value) and not wrapper:
        got, mend = (
            "a generator function, which would never run",
            "Remove 'yield', or mark it @hookimpl(wrapper=True)",
        )
        yield fault(where, "a plain function", got, mend, *holders)
    elif marked or is_a(plugin, HookBase):
        yield from _argument_faults(plugin, where, attribute, hook, value)
    elif not isinstance(plugin, ModuleType) or value.__module__ == plugin.__name__:
        yield fault(
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
        yield fault(where, "a method that takes self", f"one that does not ({error})", "Add self", *holders)
        return
    expected = f"arguments out of {', '.join(offered)}"
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            yield fault(where, expected, str(parameter), "Name the arguments you want", *holders)
        elif parameter.kind is parameter.KEYWORD_ONLY:
            got = f"the keyword-only argument {parameter.name!r}, which pluggy cannot pass"
            yield fault(where, "positional arguments", got, "Remove the '*' before it", *holders)
        elif parameter.name not in offered:
            got = f"{parameter.name!r}, which no call passes"
            mend = did_you_mean(parameter.name, offered) or "Remove it"
            yield fault(where, expected, got, mend, *holders)


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
    theirs = counterpart(attribute, value)
    near = f"{theirs}." if theirs else did_you_mean(attribute.lower(), HOOK_NAMES, cutoff=0.85)
    if not near and attribute not in STATE_METHODS and (word := meant(attribute, STATE_METHODS)):
        near = f"Did you mean {word!r}?"
    hooks = f"Hooks: {', '.join(HOOK_NAMES)}."
    where, holders = f"{name}.{attribute}", (value, plugin)
    if marked:
        mend = (near or hooks).removesuffix(".")
        yield fault(where, "the name of a hook under @hookimpl", repr(attribute), mend, *holders)
    elif near or attribute.startswith(_HOOK_PREFIXES):
        yield fault(
            where,
            "the name of a hook",
            f"{attribute!r}, which would never be called",
            f"{near or hooks} If it is not meant as a hook, start its name with an underscore",
            *holders,
        )
