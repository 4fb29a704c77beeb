"""Plugins as their entry points name them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from importlib_metadata import EntryPoint, EntryPoints

from hookline.catalog.metadata import HOOKS, WRITERS, Metadata, all_metadata, normalized
from hookline.catalog.modules import defined_summary
from hookline.catalog.requirements import specifier_of
from hookline.errors import PluginError, Problem, did_you_mean

__all__ = [
    "GROUPS",
    "HOOKS",
    "WRITERS",
    "InstalledPlugin",
    "find",
    "hides",
    "installed",
    "installed_plugins",
    "local_plugin",
    "means",
    "plugin_of",
    "qualified_name",
]

GROUPS = {"hook": HOOKS, "writer": WRITERS}
"""The group of entry points by kind of plugin."""


@dataclass(frozen=True)
class InstalledPlugin:
    """What metadata says of one plugin.

    Args:
        name: Its name in a config.
        kind: ``hook`` or ``writer``; ``""`` for a local file, which is not known before it is imported.
        distribution: Name of the distribution that brings it; ``""`` for a local file.
        version: Version of the distribution; may be empty.
        summary: One line of what it is for; may be empty.
        value: ``module:Name``, or ``/path/file.py:Name`` of a local file.
        requirements: What the distribution requires, as its metadata writes it.
        editable: Whether the distribution points at its sources.
        location: The folder that the distribution is installed in, or that of the local file.
    """

    name: str
    kind: str
    distribution: str
    version: str
    summary: str
    value: str
    requirements: tuple[str, ...] = ()
    editable: bool = False
    location: str = ""

    @property
    def qualified_name(self) -> str:
        """``distribution:name``, which is never ambiguous; of a local file, what it is imported from."""
        return f"{self.distribution}:{self.name}" if self.distribution else self.value

    @property
    def requires(self) -> str:
        """The versions of hookline that it asks for, such as ``>=0.1,<0.2``; may be empty."""
        return specifier_of("hookline", self.requirements)

    @property
    def source(self) -> str:
        """Distribution and version, or the local file."""
        return f"{self.distribution} {self.version}".strip() or self.value.rpartition(":")[0]


@cache
def installed(group: str = "") -> EntryPoints:
    """Return the entry points of ``group``, or of both groups; read once a process, nothing is imported.

    A distribution that cannot be read is left out; ``hookline plugins doctor`` names it.
    """
    if group:
        return installed().select(group=group)
    return EntryPoints(point for metadata in _in_use() for point in metadata.entry_points)


def installed_plugins() -> list[InstalledPlugin]:
    """Return every installed plugin, hooks first, by name; nothing is imported."""
    plugins = [plugin for metadata in _in_use() for plugin in _plugins_of(metadata)]
    return sorted(plugins, key=lambda plugin: (plugin.kind, plugin.name, plugin.distribution))


def plugin_of(point: EntryPoint) -> InstalledPlugin:
    """Return what metadata says of the plugin at ``point``."""
    return _plugin(point, _metadata(point))


def local_plugin(target: str, base: Path, kind: str = "") -> InstalledPlugin:
    """Return a plugin in a file, ``./file.py:Name``, looked up in the folder ``base``."""
    file, _, name = target.rpartition(":")
    path = (base / file).resolve()
    return InstalledPlugin(name, kind, "", "", "", f"{path}:{name}", location=str(path.parent))


def qualified_name(point: EntryPoint) -> str:
    """Return ``distribution:name``, which is never ambiguous."""
    return f"{_metadata(point).name}:{point.name}"


def means(use: str, name: str, distribution: str) -> bool:
    """Return whether ``use``, which is ``name`` or ``distribution:name``, may mean the plugin given."""
    asked_for, _, short = use.rpartition(":")
    return short == name and (not asked_for or normalized(asked_for) == normalized(distribution))


def find(use: str, group: str, where: str) -> EntryPoint:
    """Return the one installed entry point that ``use`` names, as ``name`` or ``distribution:name``.

    Raises:
        PluginError: If none or more than one is installed under that name.
    """
    name = use.rpartition(":")[2]
    matches: dict[str, EntryPoint] = {
        qualified_name(point): point
        for point in installed(group).select(name=name)
        if means(use, point.name, _metadata(point).name)
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
                len(matches),
                exists=f"Installed: {', '.join(sorted(matches))}",
                fix="Name the one you mean in its full form, or uninstall the other",
            )
        )
    )


def hides(name: str, group: str = HOOKS) -> str:
    """Return which distribution may bring ``name`` and cannot be read, and what to do; empty if none may."""
    asked_for, _, name = name.rpartition(":")
    package = normalized(asked_for or _package_of(name, group))
    for metadata in all_metadata():
        may_bring = normalized(metadata.name) == package or metadata.may_bring_plugins
        if may_bring and metadata.hidden and not metadata.is_left_over:
            return f"{metadata.name} is installed, but {metadata.hidden}: see 'hookline plugins doctor'"
    return ""


def _package_of(name: str, group: str) -> str:
    """Return the distribution that probably brings a plugin of that name."""
    known = json.loads(files("hookline").joinpath("plugins/known.json").read_text("utf-8"))[group]
    package: str = known.get(name, f"hookline-{name}")
    return package


def _in_use() -> list[Metadata]:
    """Return the distributions that count: of those of one name the first on `sys.path`, as in an import.

    Of several in one folder, which an interrupted installation leaves, a complete one counts.
    """
    chosen: dict[str, Metadata] = {}
    for metadata in all_metadata():
        key = normalized(metadata.folder_name or metadata.name)
        first = chosen.setdefault(key, metadata)
        if first is not metadata and _parent(first) == _parent(metadata) and not first.is_complete:
            chosen[key] = metadata
    return [metadata for metadata in chosen.values() if not metadata.is_left_over]


def _parent(metadata: Metadata) -> Path | None:
    return metadata.path.parent if metadata.path is not None else None


def _metadata(point: EntryPoint) -> Metadata:
    return _metadata_of(point.dist)  # type: ignore[arg-type]


@cache
def _metadata_of(distribution: Any) -> Metadata:
    # Its files are read once: every checkpoint records where its plugins are from.
    return Metadata(distribution)


def _plugins_of(metadata: Metadata) -> Iterator[InstalledPlugin]:
    several = len(metadata.entry_points) > 1
    for point in metadata.entry_points:
        yield _plugin(point, metadata, several)


def _plugin(point: EntryPoint, metadata: Metadata, several: bool = False) -> InstalledPlugin:
    # One line for a distribution of several plugins says little of any of them.
    summary = (defined_summary(point.value) if several else "") or metadata.header("Summary")
    return InstalledPlugin(
        name=point.name,
        kind="hook" if point.group == HOOKS else "writer",
        distribution=metadata.name,
        version=metadata.version,
        summary="" if summary == "UNKNOWN" else summary,
        value=point.value,
        requirements=tuple(metadata.requirements),
        editable=metadata.editable_source is not None,
        location=str(_parent(metadata) or ""),
    )


def _not_installed(use: str, name: str, group: str, where: str) -> Problem:
    kind = group.rpartition(".")[2]
    names = sorted(installed(group).names)
    hint = did_you_mean(name, names)
    other = WRITERS if group == HOOKS else HOOKS
    if name in installed(other).names:
        hint = f"It is one of the {other.rpartition('.')[2]}: name it in that list"
    hint = hides(use, group) or hint
    return Problem(
        where,
        f"an installed plugin of the group {group!r}",
        use,
        exists=f"Installed {kind}: {', '.join(names) or 'none'}",
        fix=hint or f"Try 'pip install {_package_of(name, group)}'",
    )
