"""YAML read safely, with line numbers: no objects, no key twice, no alias bomb."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from hookline.config.tree import Node, check_depth, located, wrong
from hookline.errors import ConfigError, HooklineError, Problem, did_you_mean

__all__ = ["read_file", "read_yaml", "resolve_floats"]

_MAX_BYTES = 256 * 2**10
_MAX_ALIASED = 1000
_TAG = "tag:yaml.org,2002:"
_FLOAT = re.compile(r"[-+]?(\d[\d_]*\.?\d*|\.\d+)[eE][-+]?\d+$")


def read_file(path: Path) -> tuple[Node, str]:
    """Return the tree of the YAML file at ``path``, and its text."""
    try:
        with open(path, "rb") as file:
            raw = file.read(_MAX_BYTES + 1)
        text = raw.decode("utf-8") if len(raw) <= _MAX_BYTES else ""
    except (FileNotFoundError, IsADirectoryError) as error:
        folder = path if path.is_dir() else path.parent
        found = sorted(file.name for file in folder.glob("*.y*ml"))
        exists = f"YAML files in {folder}: {', '.join(found) or 'none'}"
        raise wrong(
            "", str(path), "a YAML file", error.strerror, exists, did_you_mean(path.name, found)
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise wrong("", str(path), "a UTF-8 file that can be read", str(error)) from error
    if len(raw) > _MAX_BYTES:
        # YAML is read at some 50 KiB a second: what is larger is no config, and would seem to hang.
        raise wrong("", str(path), f"a file of at most {_MAX_BYTES // 2**10} KiB", "a larger one")
    return read_yaml(text, lambda line: f"{path}:{line}", str(path)), text


def read_yaml(text: str, origin: Callable[[int], str], name: str) -> Node:
    """Return the tree of ``text``.

    Args:
        text: One YAML document; may be empty.
        origin: Maps a line number, from 1, to the origin of what begins on that line.
        name: Origin of the document as a whole.

    Raises:
        ConfigError: If it is no YAML, or holds a tag that makes objects, a key twice, aliases that
            expand beyond 1,000 values, or more than 100 levels.
    """
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        reader = _Reader(loader, origin)
        tree = Node(reader.node(root, "").value if root is not None else None, name)
    except RecursionError as error:
        raise wrong("", name, "at most 100 levels of nesting", text.strip()) from error
    except yaml.YAMLError as error:
        raise _not_yaml(error, text, origin, name) from error
    if reader.problems:
        raise ConfigError(reader.problems)
    return tree


def resolve_floats(kind: Any) -> None:
    """Make a YAML loader read ``1e-3`` as a number, or a dumper quote the string that looks like it."""
    kind.add_implicit_resolver(f"{_TAG}float", _FLOAT, list("-+.0123456789"))


class _Loader(yaml.SafeLoader):
    """YAML's safe types; ``1e-3`` is a number here, which YAML 1.1 reads as a string."""


resolve_floats(_Loader)


class _Reader:
    """Turns composed YAML nodes into ours, and checks what composing does not: tags, keys and aliases."""

    def __init__(self, loader: _Loader, origin: Callable[[int], str]) -> None:
        self.loader, self.origin_of_line = loader, origin
        self.problems: list[Problem | HooklineError] = []
        self.seen: set[yaml.Node] = set()
        self.num_aliased = 0

    def node(self, raw: yaml.Node, path: str) -> Node:
        origin = self.origin(raw)
        check_depth(path, origin)
        self.num_aliased += raw in self.seen
        self.seen.add(raw)
        if self.num_aliased > _MAX_ALIASED:
            raise wrong(
                "", origin, f"aliases that expand to at most {_MAX_ALIASED:,} values", self.num_aliased
            )
        return Node(self.value(raw, path), origin)

    def value(self, raw: yaml.Node, path: str) -> Any:
        kind = raw.tag.replace(_TAG, "!!")
        if isinstance(raw, yaml.MappingNode) and kind == "!!map":
            return self.mapping(raw, path)
        if isinstance(raw, yaml.SequenceNode) and kind == "!!seq":
            return [self.node(child, f"{path}.{i}") for i, child in enumerate(raw.value)]
        if isinstance(raw, yaml.ScalarNode) and kind in ("!!null", "!!bool", "!!int", "!!float", "!!str"):
            try:
                return self.loader.construct_object(raw)
            except (ValueError, KeyError):
                return self.refuse(raw, path, f"a value that its tag {kind} allows", raw.value)
        if isinstance(raw, yaml.ScalarNode) and kind == "!!timestamp":
            return raw.value
        fix = "Remove the tag: a config holds plain data, and names code with `target`"
        return self.refuse(raw, path, "plain YAML", kind, fix=fix)

    def mapping(self, raw: yaml.MappingNode, path: str) -> dict[Any, Node]:
        merged: dict[Any, Node] = {}
        items: dict[Any, Node] = {}
        for raw_key, raw_value in raw.value:
            if raw_key.tag == f"{_TAG}merge":
                merged = {**self.merged(raw_value, path), **merged}
                continue
            key = self.key(raw_key, path)
            child = Node(self.node(raw_value, f"{path}.{key}").value, self.origin(raw_key))
            first = items.setdefault(key, child)
            if first is not child:
                exists = f"The first is at {first.origin}"
                self.refuse(raw_key, f"{path}.{key}", "each key once", key, exists, "Remove one of them")
        return {**merged, **items}

    def merged(self, raw: yaml.Node, path: str) -> dict[Any, Node]:
        """Return what ``<<: *base`` or ``<<: [*first, *second]`` brings in; of equal keys the first."""
        values = [self.node(base, path).value for base in (raw.value if raw.tag == f"{_TAG}seq" else [raw])]
        if not all(isinstance(value, dict) for value in values):
            self.refuse(raw, path, "mappings to merge after <<", "another value")
            return {}
        return {key: child for value in reversed(values) for key, child in value.items()}

    def key(self, raw: yaml.Node, path: str) -> Any:
        if not isinstance(raw, yaml.ScalarNode):
            return self.refuse(raw, path, "a key that is a word or a number", "a list or mapping")
        value = self.value(raw, path)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return value if is_number else raw.value  # `on`, `no` and `null` are words before a colon

    def refuse(
        self, raw: yaml.Node, path: str, expected: str, got: Any, exists: str = "", fix: str = ""
    ) -> None:
        where = located(path.lstrip("."), self.origin(raw))
        self.problems.append(Problem(where, expected, got, exists, fix))

    def origin(self, raw: yaml.Node) -> str:
        return self.origin_of_line(raw.start_mark.line + 1)


def _not_yaml(error: yaml.YAMLError, text: str, origin: Callable[[int], str], name: str) -> ConfigError:
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return wrong("", name, "valid YAML", str(error).split("\n")[0])
    lines = text.splitlines() or [""]
    line = min(error.problem_mark.line, len(lines) - 1)
    fix = "Indent with spaces" if "\\t" in str(error.problem) else ""
    return wrong("", origin(line + 1), "valid YAML", lines[line].strip(), f"YAML says: {error.problem}", fix)
