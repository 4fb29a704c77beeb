"""Plugins imported and linted as a registration would, those that cannot work here left alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from hookline.catalog import InstalledPlugin, unmet
from hookline.errors import Fault
from hookline.inspection.probe import Report, probe

__all__ = ["examine", "faults_of"]


def examine(plugins: Sequence[InstalledPlugin]) -> list[Report]:
    """Return a report of each of ``plugins``; one made for another hookline is not imported, but told."""
    held_back = {plugin: _other_hookline(plugin) for plugin in plugins}
    imported = [plugin for plugin in plugins if not held_back[plugin]]
    reports = dict(zip(imported, probe(imported), strict=True))
    return [reports.get(plugin) or _told(plugin, held_back[plugin]) for plugin in plugins]


def faults_of(report: Report) -> list[Fault]:
    """Return everything that is wrong with a plugin: why it cannot be imported, or what lint says."""
    if not report.error:
        return [*_misnamed(report), *(Fault(**problem) for problem in report.problems)]
    place = report.file, report.line
    return [Fault(report.name, "a plugin that can be imported", report.error, _mend(report), *place)]


def _misnamed(report: Report) -> Iterator[Fault]:
    """Yield a fault for a name that no config can list."""
    if report.distribution and not re.fullmatch(r"\w[\w-]*", report.name):
        expected = "the name of an entry point of letters, digits, '_' and '-', as a config lists it"
        where = f"{report.distribution}:{report.name}"
        yield Fault(where, expected, report.name, f"Report it to the author of {report.distribution}")


def _other_hookline(plugin: InstalledPlugin) -> str:
    missed = [str(one) for one in unmet(plugin.requirements) if one.name == "hookline"]
    return missed[0] if missed else ""


def _told(plugin: InstalledPlugin, requirement: str) -> Report:
    return Report(
        plugin.name,
        plugin.kind,
        plugin.distribution,
        plugin.version,
        plugin.value,
        error=f"{_NEEDS} {requirement}",
    )


def _mend(report: Report) -> str:
    if report.error.startswith(_NEEDS):
        return f"Install that hookline, or a version of {report.distribution} made for this one"
    module = report.value.partition(":")[0]
    is_gone = f"'{module}'" in report.error and report.error.startswith(_GONE)
    if report.distribution and is_gone:
        return f"Its entry point {report.value!r} leads nowhere: reinstall or uninstall {report.distribution}"
    if report.error.startswith("ModuleNotFoundError: "):
        return f"Install what holds {report.error.rpartition('module named ')[2]}"
    return f"Report it to the author of {report.distribution}" if report.distribution else "Mend the file"


_NEEDS = "one that requires"
_GONE = ("ModuleNotFoundError: ", "AttributeError: ")
