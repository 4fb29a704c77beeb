"""Everything that is wrong with the plugins of this machine: metadata first, then an import of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hookline.catalog import all_metadata, installed_plugins, qualified_name
from hookline.inspection.checks import examine, faults_of
from hookline.inspection.installation import (
    Finding,
    broken_distributions,
    broken_entry_points,
    equal_names,
)
from hookline.inspection.probe import Report

__all__ = ["Diagnosis", "diagnose"]


@dataclass(frozen=True)
class Diagnosis:
    """What the doctor found.

    Args:
        findings: What is wrong; empty when all is well.
        reports: Of every plugin, those that lead nowhere left out, slowest import first.
    """

    findings: list[Finding]
    reports: list[Report]


def diagnose() -> Diagnosis:
    """Return what is wrong; each plugin is imported in a process of its own, unless that would be in vain."""
    found = list(all_metadata())
    plugins = installed_plugins()
    findings = [*broken_distributions(found), *equal_names(plugins)]
    nowhere = {qualified_name(point) for metadata in found for point in broken_entry_points(metadata)}
    reports = examine([plugin for plugin in plugins if plugin.qualified_name not in nowhere])
    findings += _of_reports(reports, findings)
    return Diagnosis(findings, sorted(reports, key=lambda report: -(report.import_s or 0.0)))


def _of_reports(reports: Sequence[Report], told: Sequence[Finding]) -> Iterator[Finding]:
    unmet = {finding.subject for finding in told if finding.check == "requirement"}
    for report in reports:
        if report.error and report.distribution in unmet:
            continue  # the requirement says why
        for fault in faults_of(report):
            place = f" ({fault.file}:{fault.line})" if fault.file else ""
            check = "import" if report.error else "lint"
            yield Finding(check, report.name, f"{fault}{place}")
