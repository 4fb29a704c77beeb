"""Import targets: ``package.module:Name``, ``package.module.Name`` or ``./file.py:Name`` beside the config.

A config names code that is imported and called, so a config is code: run only what you would run as a script.
"""

from __future__ import annotations

import hashlib
import os
import pkgutil
import re
import sys
import traceback
from collections.abc import Iterator
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from hookline.config.tree import wrong
from hookline.errors import ConfigError, did_you_mean

__all__ = ["absolute_target", "is_file_target", "resolve_target"]

_FORMS = "package.module:Name, package.module.Name or ./file.py:Name"
_NAME = r"[^\W\d]\w*(\.[^\W\d]\w*)*"
_LOCAL = "hookline_local_"
_MAX_SHOWN = 20


def resolve_target(target: str, base: Path, where: str) -> Any:
    """Return the object that ``target`` names, importing its module.

    A file is imported once, under a module name made from its path, which `sys.modules` keeps: its
    dataclasses and pickles work. Files beside it are not put on the import path.

    Args:
        target: In one of the three forms.
        base: The folder that a relative file is looked up in.
        where: The key and its origin, for messages.

    Raises:
        ConfigError: If the module or the name is not found, or the import raised; the cause is chained.
    """
    is_file = is_file_target(target)
    path, _, name = target.rpartition(":" if is_file or ":" in target else ".")
    if not re.fullmatch(_NAME, name) or not (path if is_file else re.fullmatch(_NAME, path)):
        raise wrong("", where, _FORMS, target)
    import_it = _import_file if is_file else _import_named
    return _attribute(import_it(path, base, where, target), name, where, target)


def is_file_target(target: str) -> bool:
    """Return True when ``target`` names a file rather than a module."""
    path = target.rpartition(":")[0] or target
    return path.endswith(".py") or "/" in path or path.startswith(".")


def absolute_target(target: str, base: Path) -> str:
    """Return ``target`` with the path of a file made absolute, so that it means the same in any folder."""
    path, colon, name = target.rpartition(":")
    return f"{(base / path).resolve()}{colon}{name}" if colon and is_file_target(target) else target


def _import_file(file: str, base: Path, where: str, target: str) -> ModuleType:
    path = (base / file).resolve()
    if not path.is_file():
        found = sorted(other.name for other in path.parent.glob("*.py"))
        exists = f"Python files in {path.parent}: {_listed(found)}"
        fix = did_you_mean(path.name, found)
        if Path(file).is_file():  # a shell's idea of where it is
            written = Path(os.path.relpath(file, base)).as_posix()
            fix = f"Paths are relative to the config: write {'' if written[0] == '.' else './'}{written}"
        raise wrong("", where, "a file that exists", target, exists, fix)
    stem = re.sub(r"\W", "_", path.stem)
    name = f"{_LOCAL}{stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise wrong("", where, "a Python file (.py)", target)
    module = sys.modules[name] = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, Exception | SystemExit):
            raise _import_failed(where, target, error, str(path)) from error
        raise
    return module


def _import_named(name: str, base: Path, where: str, target: str) -> ModuleType:
    try:
        return import_module(name)
    except (Exception, SystemExit) as error:
        missing = error.name or "" if isinstance(error, ModuleNotFoundError) else ""
        if not missing or not f"{name}.".startswith(f"{missing}."):
            raise _import_failed(where, target, error) from error
        raise _not_found(missing, base, where, target) from error


def _not_found(missing: str, base: Path, where: str, target: str) -> ConfigError:
    parent, _, last = missing.rpartition(".")
    path = getattr(sys.modules.get(parent), "__path__", []) if parent else None
    found = sorted(module.name for module in pkgutil.iter_modules(path) if not module.name.startswith("_"))
    exists, fix = f"There is no module {missing!r}", f"Install the package that holds {missing!r}"
    if parent:
        exists, fix = f"{exists}; modules in {parent}: {_listed(found)}", did_you_mean(last, found)
    elif (base / f"{missing}.py").is_file():
        fix = f"For the file in the config's folder, write ./{missing}.py:Name"
    else:
        fix = did_you_mean(missing, found, cutoff=0.8) or fix
    return wrong("", where, "a module that can be found", target, exists, fix)


def _import_failed(where: str, target: str, error: BaseException, path: str = "") -> ConfigError:
    """Return an error that names the line that raised: in the file itself, or else the last one."""
    frames = traceback.extract_tb(error.__traceback__)
    at = next((frame for frame in reversed(frames) if frame.filename == path), frames[-1])
    place = f"{at.filename}:{at.lineno}"
    if isinstance(error, SyntaxError):
        place = f"{error.filename}:{error.lineno}"
    fix = ""
    if isinstance(error, ModuleNotFoundError):
        fix = f"Install what holds {error.name!r}; for a file of yours, put its folder on PYTHONPATH"
    got = f"{type(error).__name__}: {error}"
    return wrong("", where, f"{target} to import without an error", got, f"It was raised at {place}", fix)


def _attribute(module: ModuleType, name: str, where: str, target: str) -> Any:
    value: Any = module
    for part in name.split("."):
        if not hasattr(value, part):
            is_local = module.__name__.startswith(_LOCAL)
            owner = Path(module.__file__ or "").name if is_local else module.__name__
            found = sorted(_public_names(value, module.__name__ if is_local else None))
            exists = f"Names in {owner}: {_listed(found)}"
            raise wrong("", where, f"a name in {owner}", target, exists, did_you_mean(part, found))
        value = getattr(value, part)
    return value


def _public_names(value: Any, defined_in: str | None) -> Iterator[str]:
    """Yield the names of classes and functions in ``value``, or only of those ``defined_in`` a module."""
    listed = getattr(value, "__all__", None)
    for name, item in getattr(value, "__dict__", {}).items():
        is_own = defined_in in (None, getattr(item, "__module__", None))
        is_public = name in listed if listed is not None else not name.startswith("_")
        if is_own and callable(item) and is_public:
            yield name


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:_MAX_SHOWN]) or "none"
    return f"{shown}, … ({len(names)} in all)" if len(names) > _MAX_SHOWN else shown
