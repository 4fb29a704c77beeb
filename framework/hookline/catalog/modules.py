"""Modules found and read, never imported."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from importlib.machinery import ModuleSpec
from pathlib import Path

__all__ = ["defined_summary", "is_of_python", "module_spec"]


def module_spec(module: str) -> ModuleSpec | None:
    """Return where ``module`` would be imported from, or None; its parents are not imported either."""
    path, spec = None, None
    parts = module.split(".")
    for i in range(len(parts)):
        spec = _found(".".join(parts[: i + 1]), path)
        if spec is None or (spec.submodule_search_locations is None and i < len(parts) - 1):
            return None
        path = spec.submodule_search_locations
    return spec


def defined_summary(value: str) -> str:
    """Return the first line of the docstring of ``module:Name``, read from its source; may be empty."""
    module, _, name = value.partition(":")
    try:
        spec = module_spec(module)
        if spec is None or not spec.origin or not spec.origin.endswith(".py"):
            return ""
        text = Path(spec.origin).read_text("utf-8")
    except Exception:  # a finder or a file of a stranger: it may be anything
        return ""
    # Parsing it would take ten times as long, and there may be hundreds.
    found = re.search(
        _HEADER.format(re.escape(name)) + _DOCSTRING if name else r"\A" + _DOCSTRING, text, re.MULTILINE
    )
    return found["line"].rstrip("\"'").strip() if found else ""


def is_of_python(file: str) -> bool:
    """Return whether ``file`` belongs to Python's own library: what a plugin calls, not what it is."""
    is_installed = "site-packages" in file or "dist-packages" in file
    return file.startswith("<") or (file.startswith(os.path.dirname(os.__file__)) and not is_installed)


def _found(name: str, path: list[str] | None) -> ModuleSpec | None:
    for finder in sys.meta_path:
        try:
            spec = finder.find_spec(name, path) if hasattr(finder, "find_spec") else None
        except KeyError as error:
            # The path of a namespace package in another asks for its parent, which is not imported.
            if error.args != (name.rpartition(".")[0],):
                raise
            spec = _namespace(name, path or [])
        if spec is not None:
            return spec
    return None


def _namespace(name: str, path: Iterable[str]) -> ModuleSpec:
    """Return where the modules in a namespace package are looked for."""
    spec = ModuleSpec(name, None, is_package=True)
    folders = [os.path.join(folder, name.rpartition(".")[2]) for folder in path]
    spec.submodule_search_locations = [folder for folder in folders if os.path.isdir(folder)]
    return spec


_HEADER = r"^(?:class|def) {}[ ]*(?:\((?:[^()]|\([^()]*\))*\))?(?: *->[^:\n]+)?:[^\n]*\n"
_DOCSTRING = r"\s*[rR]?(?P<quotes>\"\"\"|\'\'\'|\"|\')\s*(?P<line>[^\n]+)"
