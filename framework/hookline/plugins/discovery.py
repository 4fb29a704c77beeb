"""Find the one installed plugin that a config names, and load it; nothing else is imported."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from importlib_metadata import EntryPoint, EntryPoints, entry_points

from hookline.config import resolve_target
from hookline.errors import PluginError, Problem, did_you_mean

__all__ = ["HOOKS", "WRITERS", "LoadedPlugin", "find", "installed", "load"]

HOOKS = "hookline.hooks"
WRITERS = "hookline.writers"


@dataclass(frozen=True)
class LoadedPlugin:
    """What a config's name led to: something that makes plugins, and where it came from.

    Args:
        factory: The class, function or module that was loaded.
        source: Its distribution and version, or the file it was loaded from.
    """

    factory: Any
    source: str

    @property
    def is_module(self) -> bool:
        """True for a module, which is registered as it is and takes no options."""
        return not callable(self.factory)

    @property
    def options_of(self) -> Callable[..., Any]:
        """The callable whose parameters are the plugin's options."""
        return _no_options if self.is_module else self.factory

    def make(self, options: dict[str, Any]) -> Any:
        """Return the plugin, built with ``options``."""
        return self.factory if self.is_module else self.factory(**options)


@cache
def installed(group: str) -> EntryPoints:
    """Return the entry points of ``group`` from installed metadata; read once a process, import nothing."""
    return entry_points(group=group)


def find(use: str, group: str, where: str) -> EntryPoint:
    """Return the one installed entry point that ``use`` names, as ``name`` or ``distribution:name``.

    Raises:
        PluginError: If none or more than one is installed under that name.
    """
    distribution, _, name = use.rpartition(":")
    matches: dict[str, EntryPoint] = {
        qualified_name(point): point
        for point in installed(group).select(name=name)
        if not distribution or _normalized(_distribution(point)) == _normalized(distribution)
    }
    if len(matches) == 1:
        (match,) = matches.values()
        return match
    if not matches:
        raise PluginError(str(_not_installed(use, name, group, where)))
    raise PluginError(
        str(
            Problem(
                where,
                f"one installed plugin named {name!r}",
                f"{len(matches)}",
                exists=f"Installed: {', '.join(sorted(matches))}",
                fix="Name the one you mean in its full form, or uninstall the other",
            )
        )
    )


def load(use: str, group: str, base: Path, where: str) -> LoadedPlugin:
    """Import the plugin that ``use`` names: an entry point, or a local ``./file.py:Name``.

    Raises:
        PluginError: If it is not installed, or its import fails.
        ConfigError: If a local file or the name in it does not exist.
    """
    if ".py:" in use:
        return LoadedPlugin(resolve_target(use, base, where), source=use.rpartition(":")[0])
    point = find(use, group, where)
    source = f"{_distribution(point)} {point.dist.version if point.dist else ''}".strip()
    try:
        factory = point.load()
    except Exception as error:
        raise PluginError(
            f"{where}: expected a plugin that can be imported, got {type(error).__name__} from "
            f"{point.value!r} of {source}: {error}. Run 'python -c \"import {point.module}\"' to see the "
            "whole traceback, then reinstall or report it to the author of the distribution."
        ) from error
    return LoadedPlugin(factory, source)


def qualified_name(point: EntryPoint) -> str:
    """Return ``distribution:name``, which is never ambiguous."""
    return f"{_distribution(point)}:{point.name}"


def _distribution(point: EntryPoint) -> str:
    return str(point.dist.name) if point.dist is not None else "unknown"


def _normalized(distribution: str) -> str:
    return distribution.lower().replace("_", "-").replace(".", "-")


def _not_installed(use: str, name: str, group: str, where: str) -> Problem:
    kind = group.rpartition(".")[2]
    names = sorted(installed(group).names)
    hint = did_you_mean(name, names)
    other = WRITERS if group == HOOKS else HOOKS
    if name in installed(other).names:
        hint = f"It is one of the {other.rpartition('.')[2]}: name it in that list"
    known = json.loads(files("hookline.plugins").joinpath("known.json").read_text("utf-8"))[group]
    package = known.get(name, f"hookline-{name}")
    return Problem(
        where,
        f"an installed plugin of the group {group!r}",
        use,
        exists=f"Installed {kind}: {', '.join(names) or 'none'}",
        fix=hint or f"Try 'pip install {package}'",
    )


def _no_options() -> None:
    """Take nothing: the options of a plugin that is a module."""
