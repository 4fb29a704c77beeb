"""A tree becomes the dataclasses of the schema, whose fields and annotations say what may be there."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints

from hookline.config.instances import LISTS, OPTIONS, enabled, is_name
from hookline.config.options import check_options, unknown_option
from hookline.config.schema import Config, Loader, PluginSpec
from hookline.config.tree import Node, located, nearest, plain
from hookline.errors import HooklineError, Problem

__all__ = ["build", "shape_of"]

Origins = Mapping[tuple[str, ...], str]

_OWN_LOADER = "Remove it; where it is needed, make the target return a DataLoader, and remove 'loader'"
_OF_DATALOADER = {
    "persistent_workers": "Remove it: worker processes stay from epoch to epoch",
    "prefetch_factor": "Remove it: each worker process fetches two batches ahead",
    "collate_fn": "Remove it, and give the dataset a method get_batch(indices) that returns the batch",
    "generator": "Remove it: the order is that of run.seed",
    **dict.fromkeys(
        ("sampler", "batch_sampler", "timeout", "worker_init_fn", "multiprocessing_context"), _OWN_LOADER
    ),
}
"""What to do about an option that torch's DataLoader has and a loader of hookline has not."""


def build(root: Node, known: Origins, **about: Any) -> tuple[Any, list[Problem | HooklineError]]:
    """Return the `Config` of a tree, with ``about`` beside its sections, and every problem found.

    The config is None, or unusable, when there is a problem.
    """
    builder = _Builder(known)
    return builder.section(Config, "", root, **about), builder.problems


class _Builder:
    """Makes sections, and collects what is wrong with them."""

    def __init__(self, known: Origins) -> None:
        self.known = known
        self.problems: list[Problem | HooklineError] = []

    def section(self, cls: Any, path: str, node: Node, **fixed: Any) -> Any:
        """Return the dataclass ``cls`` made of the mapping at ``path`` and of what is ``fixed``.

        A key that is no field is an option where ``cls`` has options, and a problem where it has none.
        """
        if not isinstance(node.value, dict):
            return self.note(path, _form(cls), plain(node))
        hints = get_type_hints(cls, include_extras=True)
        hints = {key: hint for key, hint in hints.items() if key not in fixed}
        shapes = {key: shape for key, hint in hints.items() if (shape := shape_of(hint))}
        made: dict[str, Any] = {"options": {}} if "options" in hints else {}
        values: dict[str, Any] = {"shuffle": path == "data.train.loader"} if cls is Loader else {}
        for key, child in node.value.items():
            below = _below(path, key)
            if key in shapes:
                made |= {key: self.part(*shapes[key], below, child)} if child.value is not None else {}
            elif key in hints and key != "options":
                values[key] = plain(child)
            elif "options" in hints:
                made["options"][key] = plain(child)
            else:
                fix = _OF_DATALOADER.get(key, "") if cls is Loader else ""
                owner = path or "the config"
                self.problems.append(unknown_option(self.at(below), owner, key, list(hints), fix=fix))
        for key in [key for key in _required(cls) if key in shapes and key not in made]:
            made[key] = self.note(_below(path, key), _form(shapes[key][1]), missing=True)
        valid, problems = check_options(cls, values, path, self.origin, given={*made, *fixed})
        self.problems += problems
        return None if problems else cls(**valid, **made, **fixed)

    def part(self, container: Any, cls: Any, path: str, node: Node) -> Any:
        """Return a section within a section, or a list or dict of them."""
        if path in LISTS:
            fixed = {"period": None} if path == "hooks" else {}  # to a hook, its period is an option
            found = enabled(node)
            return [self.section(cls, _below(path, name), child, name=name, **fixed) for name, child in found]
        if container is None:
            return self.section(cls, path, node)
        if not isinstance(node.value, container):
            self.note(path, "a list" if container is list else "a mapping", plain(node))
            return container()
        if container is list:
            return [self.section(cls, _below(path, i), child) for i, child in enumerate(node.value)]
        for name in node.value:
            if not is_name(str(name)):
                self.note(_below(path, name), "a name of letters, digits, '_' and '-'", name)
        return {name: self.section(cls, _below(path, name), child) for name, child in node.value.items()}

    def note(self, path: str, expected: str, got: Any = None, missing: bool = False) -> Any:
        """Collect a problem; returns None, which stands for the section that cannot be made."""
        self.problems.append(Problem(self.at(path), expected, got, missing=missing))

    def at(self, path: str) -> str:
        return located(path, self.origin(path))

    def origin(self, path: str) -> str:
        return nearest(self.known, tuple(path.split(".")))


def _below(path: str, key: Any) -> str:
    return f"{path}.{key}".lstrip(".")


def shape_of(hint: Any) -> tuple[Any, Any] | None:
    """Return the container, if any, and the dataclass of a field that holds sections; else None."""
    kind, args = get_origin(hint), [arg for arg in get_args(hint) if arg is not type(None)]
    if kind in (Union, types.UnionType) and len(args) == 1:
        return shape_of(args[0])
    container = kind if kind in (list, dict) else None
    part = args[-1] if container else hint
    return (container, part) if is_dataclass(part) else None


def _required(cls: Any) -> list[str]:
    return [item.name for item in fields(cls) if item.default is MISSING and item.default_factory is MISSING]


def _form(cls: Any) -> str:
    """Return the shortest mapping that is right for a section."""
    if cls is PluginSpec:
        return OPTIONS
    keys = _required(cls) or [item.name for item in fields(cls)]
    return f"a mapping such as {{{', '.join(f'{name}: …' for name in keys)}}}"
