"""What would be ignored in silence in an event writer."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import FunctionType
from typing import Any

from hookline.errors import Fault, did_you_mean
from hookline.events import EventWriter
from hookline.plugins.lint.attributes import HOOK_NAMES, attributes, marker_of
from hookline.plugins.lint.meant import meant
from hookline.plugins.lint.place import fault, is_a, kind_of
from hookline.plugins.lint.traits import state_faults, trait_faults

__all__ = ["writer_faults"]

_METHODS = {
    "open": 1,
    "write": 1,
    "close": 1,
    "state_dict": 0,
    "load_state_dict": 1,
    "view_command": 0,
    "read": 1,
}
_GENERATORS = ("read",)


def writer_faults(writer: Any, where: str, source: str = "") -> Iterator[Fault]:
    """Yield the faults of ``writer``, a class or an instance; ``source`` tells where it came from."""
    if not is_a(writer, EventWriter):
        mend = "Hooks belong into the list 'hooks', and into the entry points 'hookline.hooks'"
        yield fault(where, "an EventWriter", f"{kind_of(writer)}{source}", mend, writer)
        return
    if inspect.isabstract(writer):
        lacking = ", ".join(sorted(writer.__abstractmethods__))
        mend = f"See hookline.EventWriter.{lacking.partition(',')[0]}"
        yield fault(where, "a class that can be built", f"one without {lacking}", mend, writer)
    for method, num_arguments in _METHODS.items():
        yield from _method_faults(writer, where, method, num_arguments, source)
    for attribute, value in attributes(writer, EventWriter):
        yield from _name_faults(writer, where, attribute, value)
    yield from trait_faults(writer, where)
    yield from state_faults(writer, where)


def _method_faults(writer: Any, where: str, method: str, num_arguments: int, source: str) -> Iterator[Fault]:
    value = inspect.getattr_static(writer, method)
    function = value.__func__ if isinstance(value, staticmethod | classmethod) else value
    holders = function, writer
    mend = f"See hookline.EventWriter.{method}"
    is_generator = inspect.isgeneratorfunction(function) and method not in _GENERATORS
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function) or is_generator:
        got = f"one{source} with 'async' or 'yield', which would never run"
        yield fault(f"{where}.{method}", "a plain method", got, mend, *holders)
        return
    is_bound_later = inspect.isclass(writer) and isinstance(value, FunctionType)
    try:
        signature = inspect.signature(getattr(writer, method))
        signature.bind(*[None] * (num_arguments + is_bound_later))
    except (TypeError, ValueError) as error:
        takes = f"takes {num_arguments} argument beside self" if num_arguments else "takes self alone"
        got = f"one{source} that does not ({error})"
        yield fault(f"{where}.{method}", f"a method that {takes}", got, mend, *holders)


def _name_faults(writer: Any, where: str, attribute: str, value: Any) -> Iterator[Fault]:
    """Refuse a method that nothing calls, but was surely meant to be called."""
    hook = attribute if attribute in HOOK_NAMES or marker_of(value) else ""
    word = meant(attribute, _METHODS)
    near = f"Did you mean {word!r}?" if word else did_you_mean(attribute.lower(), HOOK_NAMES, cutoff=0.85)
    if attribute in _METHODS or not (hook or near):
        return
    mend = "Writers have no hooks: move it to a HookBase, a plugin beside this one" if hook else near
    if not hook:
        mend = f"{mend} If it is not meant as one, start its name with an underscore"
    got = f"{attribute!r}, which would never be called"
    yield fault(f"{where}.{attribute}", "the name of a method of EventWriter", got, mend, value, writer)
