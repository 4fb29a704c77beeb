"""Overrides from the command line, applied left to right to the tree of a config.

``KEY=VALUE`` sets a value, an instance's by its name (``hooks.evaluate.period=100``). ``hooks+=ITEM`` and
``writers+=ITEM`` append, ``hooks-=NAME`` removes. ``hooks=[…]`` and ``writers=[…]`` replace the whole list;
an instance that stays, named without options, keeps those it has. Values are YAML; relative targets in
them are looked up in the config's folder, as in the config.
"""

from __future__ import annotations

import re
from typing import Any

from hookline.config.instances import LISTS, by_name, is_on, repeated, with_defaults
from hookline.config.source import read_yaml
from hookline.config.tree import Node, plain, wrong
from hookline.errors import ConfigError, did_you_mean

__all__ = ["apply_override"]

_FORM = re.compile(r"([^=\s]+?)(\+=|-=|=)(.*)", re.DOTALL)
_FORMS = "KEY=VALUE, hooks+=ITEM or hooks-=NAME"


def apply_override(root: Node, text: str) -> None:
    """Change the tree as the override ``text`` says; what it sets has it as its origin.

    Raises:
        ConfigError: If it is malformed, or names what is not there.
    """
    origin = f"override {text!r}"
    match = _FORM.fullmatch(text.strip())
    if not match or not all(match[1].split(".")):
        raise wrong("", origin, _FORMS, text, fix="An example is train.max_iter=500")
    key, sign, value = match[1], match[2], read_yaml(match[3], lambda _line: origin, origin)
    if sign == "=" and key in LISTS:
        _replace_list(root, key, value)
    elif sign == "=":
        _set(root, key.split("."), value)
    elif key not in LISTS:
        raise wrong("", origin, f"hooks or writers before {sign}", key, fix=f"Write {key}=VALUE")
    elif sign == "+=":
        _append(root, key, value)
    else:
        _remove(root, key, value)


def _set(root: Node, parts: list[str], value: Node) -> None:
    section, *rest = parts
    if section in LISTS:
        otherwise = f"Enable it first with {section}+={rest[0]}"
        _require_enabled(root, section, rest[0], value.origin, otherwise)
    parent = root
    for depth, part in enumerate(parts):
        key = _key(parent, part, ".".join(parts[:depth]), value.origin)
        if depth == len(parts) - 1:
            parent.value[key] = value
        elif isinstance(parent.value, dict):
            parent = parent.value.setdefault(key, Node({}, value.origin))
        else:
            parent = parent.value[key]


def _key(parent: Node, part: str, path: str, origin: str) -> Any:
    """Return the key or index that ``part`` stands for in ``parent``; null becomes an empty mapping."""
    if parent.value is None:
        parent.value = {}
    if isinstance(parent.value, dict):
        return next((key for key in parent.value if str(key) == part), part)  # 1 is written `1` too
    if not isinstance(parent.value, list):
        exists = f"It is from {parent.origin}"
        raise wrong(path, origin, f"a mapping to set {part!r} in", parent.value, exists)
    if not part.isdecimal() or int(part) >= len(parent.value):
        raise wrong(path, origin, f"an index below {len(parent.value)}, the length of the list", part)
    return int(part)


def _replace_list(root: Node, section: str, value: Node) -> None:
    before = root.value[section].value
    after = _named(section, value)
    for name, options in after.value.items():
        is_bare = is_on(options) and not set(options.value) - {"use"}
        if is_bare and name in before and isinstance(before[name].value, dict):
            after.value[name] = Node({**before[name].value, **options.value}, value.origin)
    root.value[section] = with_defaults(after) if section == "hooks" else after


def _append(root: Node, section: str, value: Node) -> None:
    items = value if isinstance(value.value, list) else Node([value], value.origin)
    instances = root.value[section].value
    for name, options in _named(section, items).value.items():
        old = instances.get(name)
        if old is not None and is_on(old) and old.origin != "default":
            raise repeated(section, name, value.origin, old.origin)
        instances.pop(name, None)
        instances[name] = options


def _named(section: str, items: Node) -> Node:
    named, problems = by_name(section, items)
    if problems:
        raise ConfigError(problems)
    return named


def _remove(root: Node, section: str, value: Node) -> None:
    for item in value.value if isinstance(value.value, list) else [value]:
        if item.value is None or isinstance(item.value, list | dict):
            raise wrong(section, value.origin, "a name, or a list of names, to remove", plain(item))
        name = str(item.value)
        _require_enabled(root, section, name, value.origin, "There is nothing to remove")
        # Switched off rather than dropped, so that a default hook stays out of the run's config.yaml too.
        root.value[section].value[name] = Node(False, value.origin)


def _require_enabled(root: Node, section: str, name: str, origin: str, otherwise: str) -> None:
    on = [known for known, options in root.value[section].value.items() if is_on(options)]
    if name not in on:
        exists, fix = f"Enabled: {', '.join(on) or 'none'}", did_you_mean(name, on) or otherwise
        raise wrong(f"{section}.{name}", origin, f"an enabled instance of {section}", name, exists, fix)
