"""How ``hookline plugins`` shows what it found: for a person as text, for a program as JSON."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from hookline.cli.ending import ending_in_order
from hookline.cli.layout import counted, duration, echo, echo_json, echo_rows, echo_unfolded, plain, table_of
from hookline.cli.plugin_page import echo_faults, source_of

if TYPE_CHECKING:
    from hookline.errors import Fault
    from hookline.inspection.doctor import Diagnosis
    from hookline.inspection.listing import Listed
    from hookline.inspection.order import HookOrder
    from hookline.inspection.probe import Report

__all__ = ["importing", "show_check", "show_diagnosis", "show_list", "show_orders"]


@contextmanager
def importing(num_plugins: int) -> Iterator[None]:
    """Show on a terminal that it takes a moment; signals end what was started with it."""
    console = Console(stderr=True)
    with ending_in_order():
        if not console.is_terminal or num_plugins == 0:
            yield
            return
        with console.status(f"Importing {counted(num_plugins, 'plugin')} in processes of their own …"):
            yield


def show_list(rows: Sequence[Listed], *, named: bool, as_json: bool) -> None:
    """Show what is installed; with ``named``, also what a config says of it."""
    from hookline.inspection.choose import ambiguous

    double = ambiguous([row.plugin for row in rows])
    if as_json:
        echo_json([_row_as_json(row, row.plugin in double, named) for row in rows])
        return
    head = ["name", "from", *(["enabled"] if named else []), "summary"]
    for kind in ("hook", "writer"):
        cells = [
            [
                Text(row.plugin.qualified_name if row.plugin in double else row.plugin.name, style="cyan"),
                Text("not installed", style="red") if row.missing else Text(source_of(row.plugin)),
                *([_enabled(row)] if named else []),
                Text(plain(row.plugin.summary)),
            ]
            for row in rows
            if row.plugin.kind == kind
        ]
        echo(Text(f"{kind.capitalize()}s", style="bold"))
        if cells:
            echo_rows(head, cells, indent=2)
        else:
            echo(Text("  none"))
        echo(Text(""))


def show_check(reports: Sequence[Report], *, as_json: bool) -> int:
    """Show what is wrong with each plugin; return the exit code."""
    from hookline.inspection.checks import faults_of

    faults = [faults_of(report) for report in reports]
    num_wrong = sum(map(bool, faults))
    if as_json:
        keys = ("name", "kind", "distribution", "version", "value", "import_s", "linted")
        echo_json(
            [
                {
                    **{key: getattr(report, key) for key in keys},
                    "ok": not found,
                    "problems": [*map(vars, found)],
                }
                for report, found in zip(reports, faults, strict=True)
            ]
        )
        return 1 if num_wrong else 0
    table = table_of()
    for report, found in zip(reports, faults, strict=True):
        table.add_row(
            report.kind, Text(report.name, style="cyan"), source_of(report), _verdict(report, found)
        )
    echo(table)
    for report, found in zip(reports, faults, strict=True):
        if found:
            echo_faults(report)
    fine = f"{len(reports) - num_wrong} of {counted(len(reports), 'plugin')} in order"
    echo(Text(f"\n{fine}, {num_wrong} not." if num_wrong else f"\n{fine}."))
    return 1 if num_wrong else 0


def show_diagnosis(diagnosis: Diagnosis, *, as_json: bool) -> int:
    """Show what is wrong on this machine; return the exit code."""
    versions = _versions()
    findings, reports = diagnosis.findings, diagnosis.reports
    if as_json:
        keys = ("name", "kind", "distribution", "version", "import_s", "error")
        plugins = [{key: getattr(report, key) for key in keys} for report in reports]
        found = [asdict(finding) for finding in findings]
        echo_json({"healthy": not findings, **versions, "findings": found, "plugins": plugins})
        return 1 if findings else 0
    table = table_of(["plugin", "kind", "from", "import"])
    for report in reports:
        seconds = "not imported" if report.import_s is None else duration(report.import_s)
        table.add_row(Text(report.name, style="cyan"), report.kind, source_of(report), seconds)
    echo(table, Text(""))
    for finding in findings:
        echo_unfolded(Text("✗ ", style="red").append(finding.message, style="default"))
    num_distributions = len({report.distribution for report in reports})
    verdict = f"{counted(len(findings), 'thing')} to mend." if findings else "All is well."
    echo(
        *([Text("")] if findings else []),
        Text(
            f"{', '.join(f'{name} {version}' for name, version in versions.items())}; "
            f"{counted(len(reports), 'plugin')} of {counted(num_distributions, 'distribution')}."
        ),
        Text(verdict, style="red" if findings else "green"),
    )
    return 1 if findings else 0


def show_orders(orders: Sequence[HookOrder], *, as_json: bool) -> None:
    """Show each hook with those who implement it, in call order."""
    if as_json:
        echo_json([asdict(order) for order in orders])
        return
    for order in orders:
        echo(
            Text(order.hook, style="bold cyan").append(
                f"({', '.join(order.arguments)})", style="not bold default"
            ),
            Text(plain(order.doc), style="dim"),
        )
        table = table_of()
        for i, place in enumerate(order.places, 1):
            table.add_row(f"  {i}", Text(place.plugin, style="cyan"), place.source, place.reason)
        echo(table if order.places else Text("  nobody"), Text(""))


# ---- the parts


def _row_as_json(row: Listed, is_ambiguous: bool, named: bool) -> dict[str, Any]:
    plugin = row.plugin
    about = {
        "name": plugin.name,
        "kind": plugin.kind,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "summary": plugin.summary,
        "value": plugin.value,
        "requires": plugin.requires,
        "editable": plugin.editable,
        "location": plugin.location,
        "ambiguous": is_ambiguous,
    }
    return {**about, "enabled": row.enabled, "why": row.why, "installed": not row.missing} if named else about


def _enabled(row: Listed) -> Text:
    if row.enabled:
        return Text(f"yes: {row.why}", style="green")
    return Text(f"no, {row.why}" if row.why else "no", style="yellow" if row.why else "dim")


def _verdict(report: Report, found: Sequence[Fault]) -> Text:
    if found:
        return Text(counted(len(found), "problem"), style="red")
    if report.linted:
        return Text("ok", style="green")
    return Text("imported; what it makes is not known without its options", style="yellow")


def _versions() -> dict[str, str]:
    from importlib_metadata import PackageNotFoundError, version

    from hookline import __version__

    found = {"hookline": __version__, "python": sys.version.split()[0]}
    try:
        return {**found, "torch": version("torch")}
    except PackageNotFoundError:
        return {**found, "torch": "missing"}
