"""Which plugins there are, which a config turns on, and where it says so; none is imported."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hookline.catalog import InstalledPlugin, installed_plugins, local_plugin, means
from hookline.inspection.choose import ambiguous

if TYPE_CHECKING:
    from hookline.config import Config, PluginSpec

__all__ = ["Listed", "listed"]


@dataclass(frozen=True)
class Listed:
    """A plugin, and what a config says of it.

    Args:
        plugin: What metadata says; with an empty ``distribution`` for a local file.
        enabled: Whether the config turns it on.
        why: Where it says so; empty when it does not name the plugin.
        missing: True for a name of the config that is not installed.
    """

    plugin: InstalledPlugin
    enabled: bool
    why: str
    missing: bool = False


def listed(config: str | Path | None = None, overrides: Sequence[str] = ()) -> list[Listed]:
    """Return the installed plugins and what else ``config`` names, each with what the config says of it.

    Raises:
        ConfigError: If the config is wrong; what its plugins are told is not looked at.
    """
    plugins = installed_plugins()
    if config is None:
        return [Listed(plugin, False, "") for plugin in plugins]
    from hookline.config import load_config  # takes longer than all the rest

    found = load_config(config, overrides)
    return [*(_row(plugin, found, plugins) for plugin in plugins), *_others(found, plugins)]


def _row(plugin: InstalledPlugin, config: Config, plugins: Sequence[InstalledPlugin]) -> Listed:
    from hookline.config.instances import own

    section = f"{plugin.kind}s"
    uses = [(own(spec.use, section), spec) for spec in _specs(config, section)]
    named = [(use, spec) for use, spec in uses if means(use, plugin.name, plugin.distribution)]
    clear = [spec for use, spec in named if ":" in use or plugin not in ambiguous(plugins)]
    if clear:
        return Listed(plugin, True, "; ".join(_reason(spec, config, section) for spec in clear))
    if named:
        return Listed(plugin, False, f"ambiguous: {_reason(named[0][1], config, section)}")
    off = _switched_off(plugin, config, section)
    return Listed(plugin, False, f"off: {off}" if off else "")


def _others(config: Config, plugins: Sequence[InstalledPlugin]) -> Iterator[Listed]:
    """Yield local files, and names that are not installed."""
    for section in ("hooks", "writers"):
        kind = section[:-1]
        of_kind = [plugin for plugin in plugins if plugin.kind == kind]
        for spec in _specs(config, section):
            reason = _reason(spec, config, section)
            if ".py:" in spec.use:
                yield Listed(local_plugin(spec.use, config.base, kind), True, reason)
            elif not any(means(spec.use, plugin.name, plugin.distribution) for plugin in of_kind):
                distribution, _, name = spec.use.rpartition(":")
                unknown = InstalledPlugin(name, kind, distribution, "", "", "")
                yield Listed(unknown, False, f"not installed: {reason}", missing=True)


def _specs(config: Config, section: str) -> list[PluginSpec]:
    specs: list[PluginSpec] = getattr(config, section)
    return specs


def _reason(spec: PluginSpec, config: Config, section: str) -> str:
    origin = _short(config.origin(f"{section}.{spec.name}"), config)
    is_renamed = spec.name != spec.use.rpartition(":")[2]
    return f"{spec.name} at {origin}" if is_renamed else origin


def _switched_off(plugin: InstalledPlugin, config: Config, section: str) -> str:
    key = (section, plugin.name)
    on = {spec.name for spec in _specs(config, section)}
    return _short(config.origins.get(key, ""), config) if plugin.name not in on else ""


def _short(origin: str, config: Config) -> str:
    """Return ``config.yaml:12`` for a line of the config itself, whatever its folder."""
    prefix = f"{config.source}:"
    is_own = config.source is not None and origin.startswith(prefix)
    return f"{config.source.name}:{origin.removeprefix(prefix)}" if is_own and config.source else origin
