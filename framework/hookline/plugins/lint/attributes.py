"""What the author of a plugin defined, as it stands in the code: nothing is called."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from typing import Any

from hookline.hookspecs import HookBase, HookSpecs
from hookline.plugins.lint.place import is_a

__all__ = ["HOOK_NAMES", "attributes", "hook_arguments", "implemented", "marker_of"]

HOOK_NAMES: tuple[str, ...] = tuple(name for name in vars(HookSpecs) if not name.startswith("_"))


@functools.cache
def hook_arguments(hook: str) -> tuple[str, ...]:
    """Return the arguments that the spec of ``hook`` offers."""
    return tuple(inspect.signature(getattr(HookSpecs, hook)).parameters)[1:]


def marker_of(function: Any) -> dict[str, Any] | None:
    """Return the options that ``@hookimpl`` left on ``function``, or None."""
    return getattr(function, "hookline_impl", None)


def implemented(plugin: Any) -> list[str]:
    """Return the hooks that ``plugin``, a class, an instance or a module, implements."""
    found = {
        (marker_of(value) or {}).get("specname") or attribute
        for attribute, value in attributes(plugin)
        if is_a(plugin, HookBase) or marker_of(value) is not None
    }
    return [hook for hook in HOOK_NAMES if hook in found]


def attributes(plugin: Any, base: type = HookBase) -> Iterator[tuple[str, Any]]:
    """Yield the functions that are not those of ``base``: names and raw values, properties not run.

    What starts with an underscore is the author's own, unless it is marked as a hook.
    """
    inherited = set(dir(base)) if is_a(plugin, base) else set()
    for attribute in dir(plugin):
        value = inspect.getattr_static(plugin, attribute, None)
        if isinstance(value, (staticmethod, classmethod)):
            value = value.__func__
        if attribute in inherited and value is inspect.getattr_static(base, attribute):
            continue
        is_private = attribute.startswith("_") and (attribute.startswith("__") or marker_of(value) is None)
        if attribute in HOOK_NAMES or (callable(value) and not is_private and not inspect.isclass(value)):
            yield attribute, value
