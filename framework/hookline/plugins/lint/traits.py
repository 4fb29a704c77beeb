"""What a plugin says of itself: traits of the right type under their right names, and state in both ways."""

from __future__ import annotations

import functools
import inspect
from abc import ABC
from collections.abc import Iterator
from typing import Any

from hookline.errors import Fault
from hookline.events import EventWriter
from hookline.hookspecs import HookBase
from hookline.plugins.lint.meant import meant
from hookline.plugins.lint.place import class_of, fault, is_a

__all__ = ["STATE_METHODS", "state_faults", "trait_faults"]

STATE_METHODS = ("state_dict", "load_state_dict")

_HOOK_TRAITS = ("before", "after", "observer", "collective", "graph_safe", "state_version")
_WRITER_TRAITS = ("journal", "state_version")
_RULES = {
    "before": "the name of a plugin, or a tuple of names",
    "after": "the name of a plugin, or a tuple of names",
    "state_version": "a whole number >= 1",
}
_BASES = (HookBase, EventWriter, ABC, object)


def trait_faults(plugin: Any, where: str) -> Iterator[Fault]:
    """Yield the traits of ``plugin`` that have a wrong type, and what is nearly the name of one.

    Only what the plugin's author wrote is looked at; no property is run.
    """
    is_writer = is_a(plugin, EventWriter)
    traits = _WRITER_TRAITS if is_writer else _HOOK_TRAITS
    owner = f"hookline.{'EventWriter' if is_writer else 'HookBase'}"
    for trait in traits:
        value = inspect.getattr_static(plugin, trait, _NOTHING)
        if value is not _NOTHING and not _is_computed(value) and not _fits(trait, value):
            mend = f"See {owner}.{trait}"
            yield fault(f"{where}.{trait}", _rule(trait), repr(value), mend, plugin)
    if not is_writer and not is_a(plugin, HookBase):
        return
    for name, value in _own(class_of(plugin)).items():
        trait = meant(name, traits)
        if trait and _fits(trait, value):
            mend = f"Did you mean {trait!r}? If it is not meant as one, start its name with an underscore"
            got = f"{name!r}, which nothing would look at"
            yield fault(f"{where}.{name}", "the name of a trait", got, mend, plugin)


def state_faults(plugin: Any, where: str) -> Iterator[Fault]:
    """Yield a fault when ``plugin`` has one of the two methods for state without the other."""
    found = [method for method in STATE_METHODS if _defines(plugin, method)]
    if len(found) == 1:
        expected, got = " and ".join(STATE_METHODS), f"{found[0]} alone"
        value = inspect.getattr_static(plugin, found[0])
        yield fault(where, expected, got, "Define both, or neither", value, plugin)


def _defines(plugin: Any, method: str) -> bool:
    value = inspect.getattr_static(plugin, method, None)
    return value is not None and value is not inspect.getattr_static(EventWriter, method)


def _own(cls: type) -> dict[str, Any]:
    """Return the class attributes that are the author's: no methods, nothing private."""
    return {
        name: value
        for base in reversed(cls.__mro__)
        if base not in _BASES
        for name, value in vars(base).items()
        if not name.startswith("_") and not callable(value)
    }


def _fits(trait: str, value: Any) -> bool:
    if trait in ("before", "after"):
        names = (value,) if isinstance(value, str) else value
        is_list = isinstance(names, tuple | list | set | frozenset)
        return is_list and all(isinstance(name, str) for name in names)
    if trait == "state_version":
        return type(value) is int and value >= 1
    return isinstance(value, bool)


def _rule(trait: str) -> str:
    return _RULES.get(trait, "True or False")


def _is_computed(value: Any) -> bool:
    return inspect.isdatadescriptor(value) or isinstance(value, functools.cached_property)


_NOTHING = object()
