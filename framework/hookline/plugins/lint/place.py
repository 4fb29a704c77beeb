"""A fault in words, and where in the code it is."""

from __future__ import annotations

import functools
import inspect
import re
from types import CodeType, ModuleType
from typing import Any

from hookline.errors import Fault

__all__ = ["article", "class_of", "fault", "is_a", "kind_of"]

_VOWEL_SOUND = re.compile(r"(?!eu|one|uni|us[aeiu]|ut[aeiou])[aeiou]|un(?!i)|unim", re.IGNORECASE)


def fault(where: str, expected: str, got: str, mend: str, *holders: Any) -> Fault:
    """Return a fault at the first function among ``holders``, or else at their last, the plugin."""
    place = next(filter(None, map(_place_of_function, holders)), None) or _place_of_plugin(holders[-1])
    return Fault(where, expected, got, mend, *place)


def class_of(plugin: Any) -> Any:
    """Return ``plugin`` if it is a class, and else its class."""
    return plugin if inspect.isclass(plugin) else type(plugin)


def is_a(plugin: Any, base: type) -> bool:
    """Return whether ``plugin``, a class or an instance, is one of ``base``."""
    return issubclass(class_of(plugin), base)


def kind_of(plugin: Any) -> str:
    """Return what ``plugin`` is: ``the class Timer``, ``a Timer``, ``the module timer``."""
    if isinstance(plugin, ModuleType):
        return f"the module {plugin.__name__}"
    return f"the class {plugin.__name__}" if inspect.isclass(plugin) else article(type(plugin))


def article(cls: type) -> str:
    """Return the name of ``cls`` with its article: ``an Evaluate``, ``a Timer``, ``a UserHook``."""
    return f"{'an' if _VOWEL_SOUND.match(cls.__name__) else 'a'} {cls.__name__}"


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
        cls = class_of(plugin)
        return inspect.getsourcefile(cls) or "", inspect.getsourcelines(cls)[1]
    except (OSError, TypeError):  # made by exec, or a builtin
        return "", 0
