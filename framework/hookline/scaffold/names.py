"""What a new plugin and its parts are called, and which names cannot be had."""

from __future__ import annotations

import builtins
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import PurePath

import yaml

from hookline.catalog import all_metadata, installed_plugins, normalized
from hookline.errors import PluginError, Problem

__all__ = ["Names", "plugin_name"]

MAX_LENGTH = 32
"""With a longer name lines of the template would be too long."""

_PREFIX = "hookline-"
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_IMPORTED = ("Annotated", "EventWriter", "Field", "HookBase", "Period", "SimpleTrainer")


@dataclass(frozen=True)
class Names:
    """The names of a new plugin's parts.

    Args:
        plugin: The name that a config uses.
        kinds: ``hook``, ``writer`` or both.
    """

    plugin: str
    kinds: Sequence[str]

    @property
    def distribution(self) -> str:
        """What pip installs."""
        return f"{_PREFIX}{self.plugin}"

    @property
    def package(self) -> str:
        """What Python imports."""
        return self.distribution.replace("-", "_")

    @property
    def hook_class(self) -> str:
        """The class of the hook: ``GradNorm`` of ``grad-norm``."""
        name = self._camel
        return f"{name}Hook" if _is_taken(name) or name.endswith("Writer") else name

    @property
    def writer_class(self) -> str:
        """The class of the writer: ``GradNormWriter`` of ``grad-norm``."""
        name = f"{self._camel.removesuffix('Writer')}Writer"
        return f"{self._camel}FileWriter" if _is_taken(name) else name

    @property
    def _camel(self) -> str:
        return "".join(word.capitalize() for word in self.plugin.split("-"))


def plugin_name(given: str, kinds: Sequence[str]) -> str:
    """Return the plugin's name that ``given`` means, with or without the prefix ``hookline-``.

    Raises:
        PluginError: If it cannot be the name of a new plugin with these kinds.
    """
    name = given.removeprefix(_PREFIX)
    problem = _malformed(given, name) or _taken(name, kinds)
    if problem is not None:
        raise PluginError(str(problem))
    return name


def _malformed(given: str, name: str) -> Problem | None:
    if not _is_well_formed(name):
        expected = f"lower-case words joined by '-', a letter first, {MAX_LENGTH} characters at most"
        return Problem("NAME", expected, given, fix=_hint(name))
    read = yaml.safe_load(name)
    if not isinstance(read, str):
        exists = f"In a config, YAML reads it as {read}"
        return Problem("NAME", "a name that is a word to YAML", given, exists, "Choose another")
    if name.startswith("test"):
        exists = "pytest would take its classes for tests"
        return Problem("NAME", "a name that does not begin with 'test'", given, exists, "Choose another")
    return None


def _is_well_formed(name: str) -> bool:
    return len(name) <= MAX_LENGTH and _NAME.fullmatch(name) is not None


def _hint(name: str) -> str:
    """Return what was probably meant by a name that is not well formed, or an empty string."""
    path = PurePath(name)
    if len(path.parts) > 1 and _is_well_formed(path.name):
        return f"Write 'plugins new {path.name} --dir {path.parent}'"
    words = re.sub(r"([a-z0-9])([A-Z])", r"\1-\2", name).lower()
    meant = re.sub(r"[^a-z0-9]+", "-", words).strip("-").removeprefix(_PREFIX)
    return f"Did you mean {meant!r}?" if name.isascii() and _is_well_formed(meant) else ""


def _taken(name: str, kinds: Sequence[str]) -> Problem | None:
    package = f"{_PREFIX}{name}"
    for plugin in installed_plugins():
        if plugin.name == name and plugin.kind in kinds:
            found = f"{plugin.distribution} {plugin.version}".strip()
            return _not_new(f"no installed {plugin.kind} has", name, f"{found} has one", plugin.distribution)
    if package in (normalized(metadata.folder_name) for metadata in all_metadata()):
        return _not_new("no installed distribution has", name, f"{package} is installed", package)
    if package in _published():
        exists = f"{package} is published: 'pip install {package}'"
        return Problem("NAME", "a name that no published plugin has", name, exists, "Choose another")
    return None


def _not_new(rule: str, name: str, exists: str, distribution: str) -> Problem:
    fix = "Choose another"
    if distribution != "hookline":
        fix += f", or run 'pip uninstall {distribution}' first"
    return Problem("NAME", f"a name that {rule}", name, exists, fix)


def _published() -> set[str]:
    known = json.loads((files("hookline") / "plugins" / "known.json").read_text("utf-8"))
    return {package for names in known.values() for package in names.values()}


def _is_taken(name: str) -> bool:
    """Return whether a class of that name would hide what its module imports, or Python's own."""
    return name in _IMPORTED or hasattr(builtins, name)
