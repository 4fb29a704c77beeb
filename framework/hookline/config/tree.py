"""A config as a tree of plain data whose every value knows where it was written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hookline.config.lengths import Epochs
from hookline.errors import ConfigError, Problem

__all__ = ["Node", "check_depth", "located", "nearest", "origins", "plain", "tagged", "wrong"]

_MAX_DEPTH = 100


@dataclass
class Node:
    """A value and where it was written: a scalar, a list of nodes or a dict of nodes."""

    value: Any
    origin: str


def located(path: str, origin: str) -> str:
    """Return how a message names a value: ``train.max_iter (run.yaml:12)``."""
    return f"{path} ({origin})" if path else origin


def wrong(path: str, origin: str, expected: str, got: Any, exists: str = "", fix: str = "") -> ConfigError:
    """Return the error of one problem with the value at ``path``."""
    return ConfigError([Problem(located(path, origin), expected, got, exists, fix)])


def plain(node: Node) -> Any:
    """Return the data of ``node`` without origins; changing it does not change the tree."""
    if isinstance(node.value, dict):
        return {key: plain(child) for key, child in node.value.items()}
    return [plain(child) for child in node.value] if isinstance(node.value, list) else node.value


def origins(node: Node, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the path of every value below ``node``, itself included, with its origin."""
    yield path, node.origin
    children = enumerate(node.value) if isinstance(node.value, list) else ()
    for key, child in node.value.items() if isinstance(node.value, dict) else children:
        yield from origins(child, (*path, str(key)))


def nearest(known: Mapping[tuple[str, ...], str], path: tuple[str, ...]) -> str:
    """Return the origin of ``path``, or of the nearest part of it that has one; the root always has."""
    while path not in known:
        path = path[:-1]
    return known[path]


def tagged(value: Any, origin: str, path: str = "") -> Node:
    """Return plain data as a tree in which everything has the same ``origin``."""
    check_depth(path, origin)
    if isinstance(value, Mapping):
        return Node({key: tagged(child, origin, f"{path}.{key}") for key, child in value.items()}, origin)
    if isinstance(value, list | tuple):
        return Node([tagged(child, origin, f"{path}.{i}") for i, child in enumerate(value)], origin)
    if value is None or isinstance(value, Path | Epochs):
        return Node(value and str(value), origin)
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return Node(kind(value), origin)  # a NumPy float64 is a float, but not one that YAML writes
    expected = "plain data (a number, string, boolean, None, list or mapping)"
    raise wrong(path.lstrip("."), origin, expected, value)


def check_depth(path: str, origin: str) -> None:
    """Raise ConfigError for a ``path`` so long that it leads into a structure that holds itself."""
    depth = path.count(".")
    if depth > _MAX_DEPTH:
        raise wrong(f"{path[1:40]}…", origin, f"at most {_MAX_DEPTH} levels of nesting", depth)
