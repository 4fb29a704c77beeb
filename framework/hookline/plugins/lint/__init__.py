"""Refuse what a run would ignore in silence: in the code of a plugin, its traits and its options."""

from __future__ import annotations

import inspect
from typing import Any

from hookline.errors import Fault, PluginError
from hookline.plugins.lint.attributes import HOOK_NAMES, hook_arguments, implemented, marker_of
from hookline.plugins.lint.hooks import hook_faults
from hookline.plugins.lint.options import option_faults
from hookline.plugins.lint.writers import writer_faults

__all__ = [
    "HOOK_NAMES",
    "faults",
    "hook_arguments",
    "implemented",
    "lint",
    "lint_writer",
    "marker_of",
    "option_faults",
]


def faults(plugin: Any, name: str = "", kind: str = "hook") -> list[Fault]:
    """Return everything in ``plugin`` that would be refused, or ignored in silence, in a run.

    Nothing is called. Attributes that ``__init__`` sets are seen on an instance only, options on a class
    only; those of a function that makes the plugin see `option_faults`.

    Args:
        plugin: A class, an instance or a module.
        name: What it is called in the faults; by default as in its code.
        kind: ``hook`` or ``writer``.
    """
    name = name or getattr(plugin, "__name__", type(plugin).__name__)
    found = list(writer_faults(plugin, name) if kind == "writer" else hook_faults(plugin, name))
    return [*found, *option_faults(plugin, name, kind)] if inspect.isclass(plugin) else found


def lint(plugin: Any, name: str) -> None:
    """Return if every hook that ``plugin`` seems to implement would really be called as written.

    Its options are not looked at: an instance has got them already.

    Raises:
        PluginError: With the first fault found, and how to mend it.
    """
    if inspect.isclass(plugin):
        where = plugin.__name__ if name == type(plugin).__name__ else name  # not `type`, for want of a name
        raise _class_instead(where, "a plugin instance", plugin, "Register")
    for fault in hook_faults(plugin, name):
        raise PluginError(str(fault))


def lint_writer(writer: Any, name: str, source: str) -> None:
    """Return if ``writer`` is one, and its methods can be called as they will be.

    Raises:
        PluginError: If not.
    """
    if inspect.isclass(writer):
        raise _class_instead(f"writers.{name}", "an EventWriter", writer, "Make it return")
    for fault in writer_faults(writer, f"writers.{name}", f" from {source}"):
        raise PluginError(str(fault))


def _class_instead(where: str, expected: str, cls: type, what: str) -> PluginError:
    got, mend = f"the class {cls.__name__}", f"{what} {cls.__name__}(…)"
    return PluginError(str(Fault(where, expected, got, mend)))
