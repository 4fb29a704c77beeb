"""The lists ``hooks`` and ``writers`` as mappings from instance name to options, and back."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from hookline.config.tree import Node, located, plain
from hookline.errors import ConfigError, Problem

__all__ = ["DEFAULT_HOOKS", "LISTS", "by_name", "enabled", "is_on", "name_in", "repeated", "with_defaults"]

DEFAULT_HOOKS = ("schedule", "timer", "progress")
"""Hooks that every run has unless its config switches them off.

The schedule and the timer are called before the hooks of the config, the progress after them, so that it
sees what they put. One that the config lists itself stands where the config has it.
"""

LISTS = ("hooks", "writers")

_LAST = "progress"
_FORMS = "a name, or one name with its options such as {checkpoint: {period: 500}}"


def by_name(section: str, listed: Node) -> tuple[Node, list[Problem]]:
    """Return the list of a config as a mapping in the same order, and what is wrong with it.

    An item is ``name``, ``distribution:name``, ``./file.py:Name``, or one of these with options; ``false``
    for options switches the instance off. What follows the last colon is the instance name, the whole
    is what it uses, unless the options say ``use``.
    """
    named: dict[str, Node] = {}
    problems: list[Problem] = []
    if listed.value is not None and not isinstance(listed.value, list):
        where, fix = (
            located(section, listed.origin),
            "Write one item a line after '- ': their order is call order",
        )
        return Node({}, listed.origin), [Problem(where, "a list", plain(listed), fix=fix)]
    for item in listed.value or []:
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
    where, exists = located(f"{section}.{name}", origin), f"The first is at {first}"
    fix = f"Give one of them a name of its own: {{my-{name}: {{use: {name}}}}}"
    return ConfigError([Problem(where, "a name that is not in use", name, exists, fix)])


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
        if isinstance(options.value, dict):
            yield name, Node({"use": Node(name, options.origin), **options.value}, options.origin)
        elif is_on(options):
            yield name, options


def is_on(options: Node) -> bool:
    """Return False for an instance that is switched off, as in ``{timer: false}``."""
    return options.value is not False


def name_in(use: str) -> str:
    """Return the instance name of what is listed without one: ``Hello`` of ``./file.py:Hello``."""
    return use.rpartition(":")[2]


def _instance(section: str, item: Node) -> tuple[str, Node]:
    use, options = item.value, Node({}, item.origin)
    if isinstance(use, dict) and len(use) == 1:
        ((use, options),) = use.items()
    if not isinstance(use, str):
        raise ConfigError(
            [Problem(located(section, item.origin), _FORMS, plain(item), fix=_indentation_hint(use))]
        )
    name = name_in(use)
    if not re.fullmatch(r"\w[\w-]*", name):
        fix = f"Give it one: {{my-name: {{use: {use}}}}}"
        if use.endswith(".py"):
            fix = f"Name the class in the file: {use}:Name"
        expected = "an instance name of letters, digits, '_' and '-'"
        raise ConfigError([Problem(located(section, item.origin), expected, name, fix=fix)])
    where = located(f"{section}.{name}", options.origin)
    if options.value is None:
        options.value = {}
    if options.value is not False and not isinstance(options.value, dict):
        expected = "a mapping of options, or false to switch it off"
        raise ConfigError([Problem(where, expected, options.value)])
    if use != name and is_on(options):
        if "use" in options.value:
            fix = f"Write {{{name}: {{use: …}}}}"
            raise ConfigError(
                [Problem(where, "one thing to use", plain(options.value["use"]), f"So is {use}", fix)]
            )
        options = Node({"use": Node(use, options.origin), **options.value}, options.origin)
    return name, options


def _indentation_hint(value: Any) -> str:
    """Return what to do about an item of several keys; often the options of the first are not indented enough."""
    if not isinstance(value, dict) or len(value) < 2:
        return ""
    name, *rest = value
    if value[name].value is None:
        return f"Indent {', '.join(map(str, rest))} further: these are options of {name}"
    return "Write one item for each name"
