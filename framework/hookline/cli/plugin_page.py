"""What ``hookline plugins info`` shows of one plugin."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.padding import Padding
from rich.text import Text

from hookline.cli.layout import (
    duration,
    echo,
    echo_json,
    echo_rows,
    echo_unfolded,
    plain,
    table_of,
    yaml_text,
)

if TYPE_CHECKING:
    from hookline.catalog import InstalledPlugin
    from hookline.inspection.probe import Report

__all__ = ["echo_faults", "show_info", "source_of"]


def show_info(
    found: Sequence[tuple[InstalledPlugin, Report]], among: Sequence[InstalledPlugin], *, as_json: bool
) -> None:
    """Show plugins one by one: what each says of itself, and what its import showed."""
    from hookline.inspection.choose import shown_name

    names = [shown_name(plugin, among) for plugin, _ in found]
    if as_json:
        shown = zip(found, names, strict=True)
        echo_json([_info_as_json(plugin, report, name) for (plugin, report), name in shown])
        return
    for i, ((plugin, report), name) in enumerate(zip(found, names, strict=True)):
        echo(*([Text("")] if i else []))
        _print_info(plugin, report, name)


def echo_faults(report: Report) -> None:
    """Print what is wrong with a plugin, each with its place."""
    from hookline.inspection.checks import faults_of

    for fault in faults_of(report):
        place = f"\n    {fault.file}:{fault.line}" if fault.file else ""
        echo_unfolded(Text("✗ ", style="red").append(f"{fault}{place}", style="default"))


def source_of(found: InstalledPlugin | Report) -> str:
    """Return distribution and version, or the local file."""
    source = f"{found.distribution} {found.version}".strip()
    file = found.value.rpartition(":")[0]
    is_below = file.startswith(f"{os.getcwd()}{os.sep}")
    return source or (os.path.relpath(file) if is_below else file)


def _info_as_json(plugin: InstalledPlugin, report: Report, name: str) -> dict[str, Any]:
    about = {"summary": plugin.summary, "requires": plugin.requires, "editable": plugin.editable}
    snippet = "" if report.error else _snippet(name, report)
    return {**asdict(report), **about, "location": plugin.location, "snippet": snippet}


def _print_info(plugin: InstalledPlugin, report: Report, name: str) -> None:
    kind = f"  a {report.kind} of {source_of(plugin)}"
    echo(Text(name, style="bold cyan").append(kind, style="not bold default"), Text(""))
    if report.error:
        echo(*([Text(f"{plain(plugin.summary)}\n")] if plugin.summary else []))
        echo_faults(report)
        return
    echo(Text(plain(_prose(report.doc) or plugin.summary or "It has no docstring.")), Text(""))
    _print_pairs(_facts(plugin, report))
    echo(Text(""), Text("Options" if report.options else "It takes no options.", style="bold"))
    _print_options(report)
    echo(Text("\nIn a config", style="bold"), Padding(Text(_snippet(name, report)), (0, 0, 0, 2)))
    if report.problems:
        echo(Text("\nWhat is wrong with it", style="bold red"))
        echo_faults(report)


def _facts(plugin: InstalledPlugin, report: Report) -> list[tuple[str, str]]:
    traits = [name if value is True else f"{name}={value}" for name, value in _notable(report).items()]
    seconds = f", imported in {duration(report.import_s)}" if report.import_s is not None else ""
    return [
        (
            "defined in",
            f"{report.file}:{report.line}{seconds}" if report.file else f"{report.value}{seconds}",
        ),
        ("hooks", ", ".join(report.hooks) if report.linted else "not known without its options"),
        ("traits", ", ".join(traits)),
        ("state", ("kept in checkpoints" if report.stateful else "none") if report.linted else ""),
        ("requires", f"hookline {plugin.requires}" if plugin.requires else ""),
    ]


def _notable(report: Report) -> dict[str, Any]:
    usual = {"before": [], "after": [], "state_version": 1}
    return {name: value for name, value in report.traits.items() if value not in (False, usual.get(name))}


def _print_options(report: Report) -> None:
    rows = [
        [
            Text(option["name"], style="cyan"),
            Text(_type(option["type"])),
            Text("required" if option["required"] else yaml_text(option["default"])),
            Text(option["limits"]),
            Text(plain(option["description"])),
        ]
        for option in report.options
    ]
    if rows:
        echo_rows(["name", "type", "default", "limits", "meaning"], rows, indent=2)


def _snippet(name: str, report: Report) -> str:
    """Return the lines of a config that turn a plugin on, with the options that have a value or need one."""
    properties = report.options_schema.get("properties", {})
    options = {
        option["name"]: "…" if option["required"] else yaml_text(option["default"])
        for option in report.options
        if option["required"] or properties.get(option["name"], {}).get("default") is not None
    }
    if not report.distribution:  # a file, named from the folder one is in
        file = source_of(report)
        name = f"{file if os.path.isabs(file) else f'./{file}'}:{report.value.rpartition(':')[2]}"
    lines = [f"{report.kind}s:", f"  - {name}:" if options else f"  - {name}"]
    return "\n".join([*lines, *(f"      {key}: {value}" for key, value in options.items())])


def _prose(doc: str) -> str:
    """Return a docstring without the description of its arguments."""
    from docstring_parser import DocstringStyle, ParseError, parse

    try:
        parsed = parse(doc, style=DocstringStyle.GOOGLE)
    except ParseError:
        return doc
    return "\n\n".join(filter(None, [parsed.short_description, parsed.long_description]))


def _print_pairs(pairs: Sequence[tuple[str, str]]) -> None:
    table = table_of()
    for key, value in pairs:
        if value:
            table.add_row(Text(key, style="dim"), value)
    echo(table)


def _type(text: str) -> str:
    """Return a type as its values are written: ``'a' | 'b'`` for a Literal."""
    return re.sub(r"Literal\[(.*?)\]", lambda found: found[1].replace(", ", " | "), text)
