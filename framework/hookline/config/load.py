"""A source and its overrides become a `Config`, or one error with everything that is wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from hookline.config.build import build
from hookline.config.instances import LISTS, by_name, with_defaults
from hookline.config.overrides import apply_override
from hookline.config.render import to_text
from hookline.config.schema import Config
from hookline.config.source import read_file
from hookline.config.tree import Node, origins, plain, tagged
from hookline.errors import ConfigError, HooklineError, Problem

__all__ = ["load_config"]


def load_config(
    source: str | Path | Mapping[str, Any],
    overrides: Sequence[str] = (),
    *,
    also: Callable[[Config], Sequence[Problem | HooklineError]] | None = None,
) -> Config:
    """Return the checked config of a YAML file or a mapping, with ``overrides`` applied left to right.

    Nothing is imported: targets and the options of plugins are checked when they are resolved.

    Args:
        source: Path of a YAML file, or the same as plain data. Relative targets of a mapping are looked
            up in the current folder.
        overrides: Such as ``train.max_iter=500``; see `hookline.config.overrides`.
        also: Further checks, whose problems are reported with the others. In the config that they are
            given, a section that is wrong in itself may be None.

    Raises:
        ConfigError: With every problem found, each with its origin.
    """
    root, about = _read(source)
    problems = _name_instances(root)
    for override in overrides:
        try:
            apply_override(root, override)
        except ConfigError as error:
            problems += error.problems
    known = dict(origins(root))
    config, found = build(root, known, overrides=tuple(overrides), origins=known, **about)
    problems += found
    if also is not None and config is not None:
        problems += also(config)
    if problems:
        raise ConfigError(problems)
    known.update(_defaults(config, known))
    return cast(Config, config)


def _read(source: str | Path | Mapping[str, Any]) -> tuple[Node, dict[str, Any]]:
    """Return the tree of a source, a mapping, and what a `Config` knows of the source."""
    path = None if isinstance(source, Mapping) else Path(source)
    if path is None:
        root = tagged(source, "dict")
        text = to_text(plain(root))
    else:
        root, text = read_file(path)
    if not isinstance(root.value, dict):
        expected = "a mapping with run, optimizer, train and the other sections"
        raise ConfigError([Problem(root.origin, expected, plain(root), missing=root.value is None)])
    base = Path.cwd() if path is None else path.resolve().parent
    return root, {"base": base, "source": path, "source_text": text}


def _name_instances(root: Node) -> list[Problem | HooklineError]:
    """Turn the lists of hooks and writers into mappings by instance name, and add the default hooks."""
    problems: list[Problem | HooklineError] = []
    for section in LISTS:
        instances, found = by_name(section, root.value.get(section, Node(None, root.origin)))
        problems += found
        root.value[section] = with_defaults(instances) if section == "hooks" else instances
    return problems


def _defaults(config: Config, known: Mapping[tuple[str, ...], str]) -> dict[tuple[str, ...], str]:
    """Return the origin of each value that was filled in; the items of a list never are."""
    tree = tagged(config.to_dict(), "default")
    _name_instances(tree)
    found = ((path, origin) for path, origin in origins(tree) if path not in known)
    return {path: origin for path, origin in found if not path[-1].isdecimal()}
