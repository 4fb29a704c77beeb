"""The lists ``hooks`` and ``writers`` as mappings from instance name to options, and back."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from hookline.config.tree import Node, plain, wrong
from hookline.errors import ConfigError, HooklineError, Problem

__all__ = [
    "DEFAULT_HOOKS",
    "LISTS",
    "OPTIONS",
    "by_name",
    "enabled",
    "is_name",
    "is_on",
    "name_in",
    "own",
    "repeated",
    "with_defaults",
]

DEFAULT_HOOKS = ("schedule", "timer", "writers", "progress")
"""Hooks that every run has unless its config switches them off.

They are called before the hooks of the config, but for the progress, which comes last so that it sees what
they put. One that the config lists itself stands where the config has it.
"""

LISTS = ("hooks", "writers")

OPTIONS = "a mapping of options, or false to switch it off"
"""The rule of what stands under the name of an instance."""

_LAST = "progress"
_FORMS = "a name, or one name with its options such as {checkpoint: {period: 500}}"


def by_name(section: str, listed: Node) -> tuple[Node, list[Problem | HooklineError]]:
    """Return the list of a config as a mapping in the same order, and what is wrong with it.

    An item is ``name``, ``distribution:name``, ``./file.py:Name``, or one of these with options; ``false``
    for options switches the instance off. What follows the last colon is the instance name, the whole
    is what it uses, unless the options say ``use``.
    """
    named: dict[str, Node] = {}
    problems: list[Problem | HooklineError] = []
    items = listed.value if isinstance(listed.value, list) else []
    if listed.value is not None and items is not listed.value:
        is_word = isinstance(listed.value, str)
        fix = f"Write [{listed.value}]" if is_word else "Write one item a line, each after '- '"
        problems += wrong(section, listed.origin, "a list", plain(listed), fix=fix).problems
    for item in items:
        try:
            name, options = _instance(section, item)
            if name in named:
                raise repeated(section, name, item.origin, named[name].origin)
            named[name] = options
        except ConfigError as error:
            problems += error.problems
    return Node(named, listed.origin), problems


def repeated(section: str, name: str, origin: str, first: str) -> ConfigError:
    """Return the error of two instances of one name."""
    exists = f"The first is at {first}"
    fix = f"Give one of them a name of its own: {{my-{name}: {{use: {name}}}}}"
    return wrong(f"{section}.{name}", origin, "a name that is not in use", name, exists, fix)


def with_defaults(hooks: Node) -> Node:
    """Return ``hooks`` with the default ones that it does not list; their origin is ``default``."""
    missing = {name: Node({}, "default") for name in DEFAULT_HOOKS if name not in hooks.value}
    return Node({**missing, **hooks.value}, hooks.origin)


def enabled(instances: Node) -> Iterator[tuple[str, Node]]:
    """Yield the instances that are on, in call order, each with what it uses."""

    def place(item: tuple[str, Node]) -> int:
        name, options = item
        return 1 if options.origin != "default" else 2 if name == _LAST else 0

    for name, options in sorted(instances.value.items(), key=place):
        values = {} if options.value is None else options.value
        if isinstance(values, dict):
            yield name, Node({"use": Node(name, options.origin), **values}, options.origin)
        elif is_on(options):
            yield name, options  # not a mapping: a problem


def is_name(text: str) -> bool:
    """Return True for a name of letters, digits, '_' and '-', as that of an instance is."""
    return re.fullmatch(r"\w[\w-]*", text) is not None


def is_on(options: Node) -> bool:
    """Return False for an instance that is switched off, as in ``{timer: false}``."""
    return options.value is not False


def own(use: str, section: str) -> str:
    """Return ``use`` in its full form for a hook that every run has, which nothing installed takes away."""
    return f"hookline:{use}" if section == "hooks" and use in DEFAULT_HOOKS else use


def name_in(use: str) -> str:
    """Return the instance name of what is listed without one: ``Hello`` of ``./file.py:Hello``."""
    return use.rpartition(":")[2]


def _instance(section: str, item: Node) -> tuple[str, Node]:
    use, options = item.value, Node({}, item.origin)
    if isinstance(use, dict) and len(use) == 1:
        ((use, options),) = use.items()
    if not isinstance(use, str):
        raise wrong(section, item.origin, _FORMS, plain(item), fix=_indentation_hint(use))
    name = name_in(use)
    if not is_name(name):
        fix = f"{use}:Name" if use.endswith(".py") else f"{{my-name: {{use: {use}}}}}"
        expected = "an instance name of letters, digits, '_' and '-'"
        raise wrong(section, item.origin, expected, name, fix=f"Give it a name: {fix}")
    return name, _options(f"{section}.{name}", use, name, options)


def _options(path: str, use: str, name: str, options: Node) -> Node:
    values = {} if options.value is None else options.value
    if values is False:
        return options
    if not isinstance(values, dict):
        raise wrong(path, options.origin, OPTIONS, plain(options))
    if use != name and "use" in values:
        exists, fix = f"{use} is another", f"Write {{{name}: {{use: …}}}}"
        raise wrong(path, options.origin, "one thing to use", plain(values["use"]), exists, fix)
    uses = {"use": Node(use, options.origin)} if use != name else {}
    return Node({**uses, **values}, options.origin)


def _indentation_hint(value: Any) -> str:
    """Return what to do about several keys; often the options of the first are not indented enough."""
    if not isinstance(value, dict) or len(value) < 2:
        return ""
    name, *rest = value
    if value[name].value is None:
        return f"Indent {', '.join(map(str, rest))} further: these are options of {name}"
    return "Write one item for each name"
