"""A tree becomes the dataclasses of the schema, whose fields and annotations say what may be there."""

from __future__ import annotations

import re
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints

from hookline.config.instances import LISTS, enabled
from hookline.config.options import check_options, unknown_option
from hookline.config.schema import Loader
from hookline.config.tree import Node, located, nearest, plain
from hookline.errors import Problem

__all__ = ["Builder"]


class Builder:
    """Makes sections and notes in ``problems`` what is wrong; what it makes after a problem is not to be used."""

    def __init__(self, known: Mapping[tuple[str, ...], str], problems: list[Problem]) -> None:
        self.known, self.problems = known, problems

    def section(self, cls: Any, path: str, node: Node, **fixed: Any) -> Any:
        """Return the dataclass ``cls`` made of the mapping at ``path`` and of what is ``fixed``.

        Fields that are sections are made first. When ``cls`` has ``options``, keys that are no field go there.
        """
        if not isinstance(node.value, dict):
            return self.note(path, _form(cls), plain(node))
        hints = {
            key: hint for key, hint in get_type_hints(cls, include_extras=True).items() if key not in fixed
        }
        shapes = {key: shape for key, hint in hints.items() if (shape := _shape(hint))}
        values = {key: plain(child) for key, child in node.value.items() if key not in shapes}
        made = {key: self.part(cls, key, shape, _below(path, key), node) for key, shape in shapes.items()}
        made = {key: part for key, part in made.items() if part is not MISSING}
        if "options" in hints:
            made["options"] = {
                key: values.pop(key) for key in list(values) if key not in hints or key == "options"
            }
        for key in [key for key in values if key not in hints]:
            del values[key]
            self.problems.append(
                unknown_option(self.at(_below(path, key)), path or "the config", key, list(hints))
            )
        if cls is Loader:
            values.setdefault("shuffle", path == "data.train.loader")
        valid, problems = check_options(cls, values, path, self.origin, given={*shapes, *made, *fixed})
        self.problems += problems
        return None if problems else cls(**valid, **made, **fixed)

    def part(self, cls: Any, key: str, shape: tuple[Any, Any], path: str, parent: Node) -> Any:
        """Return a section within a section, or MISSING where its default will do."""
        container, part = shape
        node = parent.value.get(key)
        if node is None or node.value is None:
            is_required = key in _required(cls)
            return (
                self.note(path, _form(part) if not container else "a mapping", missing=True)
                if is_required
                else MISSING
            )
        if path in LISTS:
            return [self.section(part, _below(path, name), child, name=name) for name, child in enabled(node)]
        if container is None:
            return self.section(part, path, node)
        if not isinstance(node.value, container):
            return self.note(path, f"a {'list' if container is list else 'mapping'}", plain(node))
        if container is list:
            return [self.section(part, _below(path, i), child) for i, child in enumerate(node.value)]
        if "train" not in node.value:
            self.note(_below(path, "train"), _form(part), missing=True)
        return {name: self.section(part, self.named(path, name), child) for name, child in node.value.items()}

    def named(self, path: str, name: Any) -> str:
        if not re.fullmatch(r"\w[\w-]*", str(name)):
            self.note(_below(path, name), "a name of letters, digits, '_' and '-'", name)
        return _below(path, name)

    def note(self, path: str, expected: str, got: Any = None, missing: bool = False) -> None:
        self.problems.append(Problem(self.at(path), expected, got, missing=missing))

    def at(self, path: str) -> str:
        return located(path, self.origin(path))

    def origin(self, path: str) -> str:
        return nearest(self.known, tuple(path.split(".")))


def _below(path: str, key: Any) -> str:
    return f"{path}.{key}".lstrip(".")


def _shape(hint: Any) -> tuple[Any, Any] | None:
    """Return the container and the dataclass of a field that is a section or holds sections, else None."""
    kind, args = get_origin(hint), [arg for arg in get_args(hint) if arg is not type(None)]
    if kind in (Union, types.UnionType) and len(args) == 1:
        return _shape(args[0])
    container = kind if kind in (list, dict) else None
    part = args[-1] if container else hint
    return (container, part) if is_dataclass(part) else None


def _required(cls: Any) -> list[str]:
    return [item.name for item in fields(cls) if item.default is MISSING and item.default_factory is MISSING]


def _form(cls: Any) -> str:
    """Return the shortest mapping that is right."""
    return f"a mapping such as {{{', '.join(f'{key}: …' for key in _required(cls) if key != 'name')}}}"
