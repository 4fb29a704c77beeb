"""Whether what is installed is what a distribution requires; told before anything is imported."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from importlib_metadata import PackageNotFoundError, version

__all__ = ["Unmet", "specifier_of", "unmet"]


class Unmet(NamedTuple):
    """A requirement that does not hold here.

    Args:
        name: Of a distribution.
        requirement: Such as ``hookline>=9``, as pip takes it.
        installed: The version that is installed; empty when it is not, or tells no version.
    """

    name: str
    requirement: str
    installed: str

    def __str__(self) -> str:
        there = f"{self.installed} is" if self.installed else "it is not"
        return f"{self.requirement}, and {there} installed"


def unmet(requirements: Iterable[str]) -> list[Unmet]:
    """Return those of ``requirements`` that do not hold here.

    One whose marker does not hold, such as that of an extra, is left out, and so is what is no requirement.
    """
    from packaging.specifiers import SpecifierSet

    found = []
    for name, specifier, url in _read(requirements):
        there = _installed_version(name)
        # A pre-release of what is asked for is installed because it is meant to be used.
        if not there or not SpecifierSet(specifier).contains(there, prereleases=True):
            found.append(Unmet(name, f"{name} @ {url}" if url else f"{name}{specifier}", there))
    return found


def specifier_of(distribution: str, requirements: Iterable[str]) -> str:
    """Return the versions of ``distribution`` that ``requirements`` ask for, such as ``<0.2,>=0.1``."""
    return next((specifier for name, specifier, _ in _read(requirements) if name == distribution), "")


def _read(requirements: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """Yield the normalized name, the specifier and the URL of each requirement that holds here."""
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import canonicalize_name

    for text in requirements:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield canonicalize_name(requirement.name), str(requirement.specifier), requirement.url or ""


def _installed_version(name: str) -> str:
    from packaging.version import InvalidVersion, Version

    try:
        return str(Version(version(name)))
    except (PackageNotFoundError, InvalidVersion, KeyError, TypeError, OSError, ValueError):
        return ""
