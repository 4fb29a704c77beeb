"""The JSON Schema of configs on this machine: its plugins and targets, imported in other processes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docstring_parser import DocstringStyle, ParseError, parse

from hookline.catalog import InstalledPlugin, installed_plugins, local_plugin
from hookline.config.instances import LISTS, by_name
from hookline.config.sections import Offer, config_schema
from hookline.config.source import read_file
from hookline.config.tree import Node, plain
from hookline.inspection.probe import Report, probe
from hookline.inspection.targets import TargetProbe, Wanted

__all__ = ["Described", "describe_config"]

_ANYTHING = {"type": "object", "properties": {}, "additionalProperties": True}


@dataclass(frozen=True)
class Described:
    """What an editor is told of configs.

    Args:
        schema: JSON Schema, draft 7.
        left_out: What is missing in it, one line each: plugins and targets that could not be imported.
    """

    schema: dict[str, Any]
    left_out: list[str]


def describe_config(config: Path | None = None) -> Described:
    """Return the schema of configs with all that is installed, and with what ``config`` names besides.

    Nothing is imported in this process. The config need not be right, or complete.

    Raises:
        ConfigError: If ``config`` cannot be read.
    """
    root = read_file(config)[0] if config is not None else Node(None, "")
    base = (config or Path()).resolve().parent
    with TargetProbe(list(_targets(plain(root))), base) as targets:  # imports while the plugins are imported
        plugins, left_out = _plugins(root, base)
        known, failed = targets.offers()
    left_out += failed
    used = ", ".join(sorted({f"{one.distribution} {one.version}".rstrip() for one in installed_plugins()}))
    comment = f"Made by 'hookline config schema' with {used}."
    comment += "".join(f" Left out {line}." for line in left_out)
    return Described({"$comment": comment, **config_schema(plugins, known)}, left_out)


def _plugins(root: Node, base: Path) -> tuple[dict[str, list[Offer]], list[str]]:
    """Return what can be listed in hooks and writers, and what could not be imported."""
    found = [(f"{plugin.kind}s", "", plugin) for plugin in installed_plugins()]
    found += [(kind, use, local_plugin(use, base)) for kind, use in _local(root)]
    names = Counter((kind, plugin.name) for kind, use, plugin in found if not use)
    offers: dict[str, list[Offer]] = {kind: [] for kind in LISTS}
    left_out = []
    for (kind, use, plugin), report in zip(found, probe([plugin for *_, plugin in found]), strict=True):
        if report.error:
            left_out.append(_failure(kind, use, report))
        else:
            offers[kind].append(_offer(plugin, report, use, names[kind, plugin.name] > 1))
    return offers, left_out


def _offer(plugin: InstalledPlugin, report: Report, use: str, is_ambiguous: bool) -> Offer:
    """Return what a config may write for a plugin; of an ambiguous name only the full form."""
    options, description = report.options_schema or _ANYTHING, _first_line(report.doc) or plugin.summary
    if use:
        return Offer(use, options, description)
    # pip takes '-', '_' and '.' for the same.
    distribution = re.sub(r"[-_.]+", "[-_.]+", plugin.distribution)
    name = plugin.name.replace(".", r"\.")
    if is_ambiguous:
        return Offer(f"{plugin.distribution}:{plugin.name}", options, description, f"{distribution}:{name}")
    return Offer(plugin.name, options, description, f"(?:{distribution}:)?{name}")


def _failure(kind: str, use: str, report: Report) -> str:
    source = use or f"{report.name} of {report.distribution} {report.version}".rstrip()
    at = f" ({report.file}:{report.line})" if report.file else ""
    return f"{kind.removesuffix('s')} {source}: {report.error}{at}"


def _first_line(doc: str) -> str:
    try:
        return " ".join((parse(doc, style=DocstringStyle.GOOGLE).short_description or "").split())
    except ParseError:
        return ""


def _local(root: Node) -> Iterator[tuple[str, str]]:
    """Yield the list and the name of every plugin in a file that the config names."""
    found = []
    for kind in LISTS if isinstance(root.value, dict) else ():
        instances, _ = by_name(kind, root.value.get(kind, Node(None, "")))
        options = [plain(options) for options in instances.value.values()]
        uses = [values.get("use") for values in options if isinstance(values, dict)]
        found += [(kind, use) for use in uses if isinstance(use, str) and ".py:" in use]
    yield from dict.fromkeys(found)


def _targets(config: Any) -> Iterator[Wanted]:
    """Yield every target that the config names, with the section that it makes."""
    sections = config if isinstance(config, dict) else {}
    for key in ("model", "optimizer", "schedule"):
        yield from _target(key, sections.get(key))
    for data in _values(sections.get("data")):
        yield from _target("data", data)
        for metric in _values(data.get("metrics")) if isinstance(data, dict) else ():
            yield from _target("metrics", metric)


def _values(section: Any) -> list[Any]:
    return list(section.values()) if isinstance(section, dict) else []


def _target(key: str, section: Any) -> Iterator[Wanted]:
    target = section.get("target") if isinstance(section, dict) else None
    if isinstance(target, str):
        yield key, target
