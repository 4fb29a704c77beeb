"""Find the one installed plugin that a config names, and load it; nothing else is imported."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hookline.catalog import HOOKS, WRITERS, InstalledPlugin, find, installed, plugin_of, unmet
from hookline.config import resolve_target
from hookline.errors import PluginError

__all__ = ["HOOKS", "WRITERS", "LoadedPlugin", "find", "installed", "load"]

_log = logging.getLogger(__name__)


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


def load(use: str, group: str, base: Path, where: str) -> LoadedPlugin:
    """Import the plugin that ``use`` names: an entry point, or a local ``./file.py:Name``.

    Raises:
        PluginError: If it is not installed, or its import fails.
        ConfigError: If a local file or the name in it does not exist.
    """
    if ".py:" in use:
        return LoadedPlugin(resolve_target(use, base, where), source=use.rpartition(":")[0])
    point = find(use, group, where)
    plugin = plugin_of(point)
    try:
        factory = point.load()
    except (Exception, SystemExit) as error:
        needs = "".join(f" It requires {need}." for need in unmet(plugin.requirements))
        raise PluginError(
            f"{where}: expected a plugin that can be imported, got {type(error).__name__} from "
            f"{point.value!r} of {plugin.source}: {error}.{needs} "
            f"Run 'python -c \"import {point.value.partition(':')[0].strip()}\"' to see the "
            "whole traceback, then reinstall or report it to the author of the distribution."
        ) from error
    _warn(plugin)
    return LoadedPlugin(factory, plugin.source)


@cache
def _warn(plugin: InstalledPlugin) -> None:
    """Say once that a plugin, which may work all the same, was made for other versions."""
    for need in unmet(plugin.requirements):
        _log.warning("The plugin %r (%s) requires %s.", plugin.name, plugin.source, need)


def _no_options() -> None:
    """Take nothing: the options of a plugin that is a module."""
