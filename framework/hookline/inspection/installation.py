"""What is wrong with the way plugins are installed, told by their metadata; nothing is imported."""

from __future__ import annotations

import csv
import importlib.metadata
import os
import platform
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from importlib_metadata import EntryPoint

from hookline.catalog import InstalledPlugin, Metadata, module_spec, normalized, unmet
from hookline.inspection.choose import ambiguous

__all__ = ["Finding", "broken_distributions", "broken_entry_points", "equal_names"]


@dataclass(frozen=True)
class Finding:
    """Something that is wrong on this machine.

    Args:
        check: What was looked at, a word that stays the same: ``metadata``, ``duplicate``, ``editable``,
            ``files``, ``entry-point``, ``requirement``, ``name``, ``import`` or ``lint``.
        subject: The distribution or plugin.
        message: What is wrong and what to do.
    """

    check: str
    subject: str
    message: str


def broken_distributions(found: Sequence[Metadata]) -> Iterator[Finding]:
    """Yield what is wrong with distributions that bring plugins, or may do: halves, doubles, bad files."""
    by_name: dict[str, list[Metadata]] = defaultdict(list)
    for metadata in found:
        if _concerns_us(metadata):
            yield from _incomplete(metadata)
            by_name[normalized(metadata.folder_name or metadata.name)].append(metadata)
        yield from _unreadable(metadata)
    if not any(metadata.hidden for metadata in found):
        yield from _of_torch()
    for several in by_name.values():
        if len(several) > 1:
            yield _doubled(several)
    for metadata in found:
        if metadata.entry_points and not metadata.is_left_over:
            yield from _gone(metadata)
            yield from _unmet(metadata)
            yield from _repeated(metadata)


def _repeated(metadata: Metadata) -> Iterator[Finding]:
    """Yield each name that one distribution gives to several plugins of one kind."""
    values: dict[tuple[str, str], list[str]] = defaultdict(list)
    for point in metadata.all_entry_points:
        values[point.group, point.name].append(point.value)
    for (group, name), several in values.items():
        if len(several) > 1:
            where, got = f"{metadata.name}:{name}", f"{len(several)}: {', '.join(several)}; the last counts"
            fix = f"Report it to the author of {metadata.name}"
            yield Finding("name", name, _said(where, f"one line for it in [{group}]", got, fix))


def broken_entry_points(metadata: Metadata) -> dict[EntryPoint, str]:
    """Return why each of the entry points that lead nowhere does."""
    reasons = {point: _nowhere(point) for point in metadata.entry_points}
    return {point: reason for point, reason in reasons.items() if reason}


def equal_names(plugins: Sequence[InstalledPlugin]) -> Iterator[Finding]:
    """Yield each name that several distributions give to a plugin of one kind."""
    by_name: dict[tuple[str, str], list[InstalledPlugin]] = defaultdict(list)
    for plugin in plugins:
        if plugin in ambiguous(plugins):
            by_name[plugin.kind, plugin.name].append(plugin)
    for (kind, name), several in by_name.items():
        forms = " or ".join(repr(plugin.qualified_name) for plugin in several)
        got = f"{len(several)}: {', '.join(plugin.source for plugin in several)}"
        fix = f"In a config write {forms}, or uninstall one"
        yield Finding("name", name, _said(f"{kind} {name}", "one distribution that brings it", got, fix))


def _concerns_us(metadata: Metadata) -> bool:
    name = normalized(metadata.folder_name).lstrip("~")
    return bool(metadata.entry_points) or name.startswith(("hookline", "ookline"))


def _incomplete(metadata: Metadata) -> Iterator[Finding]:
    if metadata.is_left_over:
        got = f"{_place(metadata)}, which an interrupted pip left behind"
        yield _finding("metadata", metadata, "whole installations", got, "Delete that folder")
    elif not metadata.is_complete:
        unread = [fault for fault in metadata.faults if fault.startswith("METADATA")]
        got = f"{_place(metadata)}, which has {unread[0] if unread else 'none: the package is half removed'}"
        fix = f"Run 'pip install --force-reinstall {metadata.name}', or delete that folder"
        yield _finding("metadata", metadata, "METADATA with its name and version", got, fix)


def _unreadable(metadata: Metadata) -> Iterator[Finding]:
    """Yield what hides the entry points of a distribution, whosever it is."""
    if metadata.hidden:
        fix = f"Run 'pip install --force-reinstall {metadata.name}'"
        got = f"{metadata.hidden}, in {_place(metadata)}; plugins in it are not found, and it may stop torch"
        yield _finding("metadata", metadata, "entry points that can be read", got, fix)


def _of_torch() -> Iterator[Finding]:
    """Yield what stops torch, which looks for its own plugins as it is imported, before any of ours is."""
    try:
        importlib.metadata.entry_points(group="torch.backends")
    except Exception as error:  # of whatever is installed
        got = f"{type(error).__name__}: {error}"
        fix = "Reinstall what it names, or set TORCH_DEVICE_BACKEND_AUTOLOAD=0"
        expected = "metadata of all distributions that importlib.metadata can read, for torch"
        yield Finding("metadata", "torch", _said("torch", expected, got, fix))


def _doubled(several: Sequence[Metadata]) -> Finding:
    places = ", ".join(f"{one.version or 'no version'} in {_place(one)}" for one in several)
    first = several[0]
    one_folder = len({one.path.parent for one in several if one.path}) == 1
    fix = f"Delete what is stale, or run 'pip install --force-reinstall {first.name}'"
    fix = fix if one_folder else "The first hides the others: uninstall those that you do not want"
    return _finding("duplicate", first, "one installation of it", f"{len(several)}: {places}", fix)


def _gone(metadata: Metadata) -> Iterator[Finding]:
    """Yield files that the metadata promises and that are not there."""
    source = metadata.editable_source
    if source is not None and not os.path.exists(source):
        fix = f"Put it back, or run 'pip uninstall {metadata.name}'"
        got = f"{source}, which is gone"
        yield _finding("editable", metadata, "the folder of an editable installation", got, fix)
        return
    nowhere = broken_entry_points(metadata) if metadata.is_complete else {}  # else it is told already
    for point, reason in nowhere.items():
        fix = f"Reinstall or uninstall {metadata.name}"
        where = f"{metadata.name}:{point.name}"
        message = _said(where, "an entry point that leads to a module", f"{point.value!r}: {reason}", fix)
        yield Finding("entry-point", point.name, message)
    missing = [] if nowhere else _missing_files(metadata)
    if missing:
        fix = f"Run 'pip install --force-reinstall {metadata.name}'"
        got = f"{len(missing)} missing, {missing[0]} among them"
        yield _finding("files", metadata, "all files that it installed", got, fix)


def _nowhere(point: EntryPoint) -> str:
    """Return why ``point`` leads nowhere, or an empty string; its module is looked up, not imported."""
    try:
        module = point.module
    except ValueError:
        return "it does not read module:Name"
    try:
        return "" if module_spec(module) else f"there is no module {module!r}"
    except Exception as error:  # of a finder that some package has put in place
        return f"{type(error).__name__}: {error}"


def _missing_files(metadata: Metadata) -> list[str]:
    rows = csv.reader((metadata.text("RECORD") or "").splitlines())
    files = [row[0] for row in rows if row and row[0].endswith(".py")]
    # In a zip its place is no path of the file system.
    return [file for file in files if not metadata.distribution.locate_file(file).exists()]


def _unmet(metadata: Metadata) -> Iterator[Finding]:
    for one in unmet(metadata.requirements):
        got = f"version {one.installed}" if one.installed else "none"
        fix = f"Run \"pip install '{one.requirement}'\""
        if one.name == "hookline":
            fix += f", or install a version of {metadata.name} made for this one"
        yield _finding("requirement", metadata, f"{one.requirement}, which it requires", got, fix)
    yield from _other_python(metadata)


def _other_python(metadata: Metadata) -> Iterator[Finding]:
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    asked, here = metadata.header("Requires-Python"), platform.python_version()
    with suppress(InvalidSpecifier):
        if not SpecifierSet(asked).contains(here, prereleases=True):
            fix = f"Install a version of {metadata.name} made for this Python"
            yield _finding("requirement", metadata, f"Python {asked}, which it requires", here, fix)


def _finding(check: str, metadata: Metadata, expected: str, got: str, fix: str) -> Finding:
    where = f"{metadata.name} {metadata.version}".strip()
    return Finding(check, metadata.name, _said(where, expected, got, fix))


def _said(where: str, expected: str, got: str, fix: str) -> str:
    return f"{where}: expected {expected}, got {got}. {fix}."


def _place(metadata: Metadata) -> str:
    return str(getattr(metadata.distribution, "_path", metadata.distribution))
