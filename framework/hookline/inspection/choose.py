"""The installed plugins that a person means by a name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from hookline.catalog import InstalledPlugin, hides, local_plugin, means
from hookline.errors import PluginError, Problem, did_you_mean

__all__ = ["ambiguous", "choose", "choose_clear", "shown_name"]


def choose(name: str, plugins: Sequence[InstalledPlugin]) -> list[InstalledPlugin]:
    """Return the plugins that ``name`` may mean: ``name``, ``distribution:name`` or ``./file.py:Name``.

    Raises:
        PluginError: If there is none.
    """
    if ".py:" in name:
        return [_local(name)]
    found = [plugin for plugin in plugins if means(name, plugin.name, plugin.distribution)]
    if not found:
        raise PluginError(str(_not_installed(name, plugins)))
    return found


def choose_clear(name: str, plugins: Sequence[InstalledPlugin]) -> list[InstalledPlugin]:
    """Return the one plugin that ``name`` means, or the hook and the writer that share it.

    Raises:
        PluginError: If there is none, or several of one kind.
    """
    found = choose(name, plugins)
    unclear = [plugin.qualified_name for plugin in found if plugin in ambiguous(found)]
    if not unclear:
        return found
    exists = f"Installed: {', '.join(unclear)}"
    fix = "Name the one you mean in its full form"
    raise PluginError(str(Problem("NAME", f"one plugin named {name!r}", len(unclear), exists, fix)))


def ambiguous(plugins: Sequence[InstalledPlugin]) -> set[InstalledPlugin]:
    """Return the plugins whose name another one of their kind has, too."""
    keys = [(plugin.kind, plugin.name) for plugin in plugins]
    return {plugin for plugin, key in zip(plugins, keys, strict=True) if keys.count(key) > 1}


def shown_name(plugin: InstalledPlugin, among: Sequence[InstalledPlugin]) -> str:
    """Return how a config names ``plugin``: in its full form where its name is ambiguous."""
    return plugin.qualified_name if plugin in ambiguous(among) else plugin.name


def _local(name: str) -> InstalledPlugin:
    path = Path(name.rpartition(":")[0])
    if path.is_file():
        return local_plugin(name, Path())
    found = sorted(other.name for other in path.parent.glob("*.py"))
    exists = f"Python files in {path.parent}: {', '.join(found) or 'none'}"
    fix = did_you_mean(path.name, found)
    raise PluginError(str(Problem("NAME", "a file that exists", name, exists, fix)))


def _not_installed(name: str, plugins: Sequence[InstalledPlugin]) -> Problem:
    names = sorted({plugin.name for plugin in plugins})
    exists = f"Installed: {', '.join(names) or 'none'}"
    fix = hides(name) or did_you_mean(name, [*names, *(plugin.qualified_name for plugin in plugins)])
    other = f"Try 'pip install hookline-{name}', or './file.py:Name' for a file of yours"
    if not re.fullmatch(r"\w[\w-]*", name):
        other = f"Write {name}:Name for what is in it" if name.endswith(".py") else "Give the name of one"
    return Problem("NAME", "an installed plugin", name, exists, fix or other)
