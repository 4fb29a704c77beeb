"""Import targets: ``package.module:Name``, ``package.module.Name`` or ``./file.py:Name`` beside the config.

A config names code that is imported and called, so a config is code: run none that you would not run as a script.
"""

from __future__ import annotations

import hashlib
import pkgutil
import re
import sys
import traceback
from collections.abc import Iterable
from importlib import import_module, util
from pathlib import Path
from types import ModuleType
from typing import Any

from hookline.errors import ConfigError, Problem, did_you_mean

__all__ = ["absolute_target", "is_file_target", "resolve_target"]

_FORMS = "package.module:Name, package.module.Name or ./file.py:Name"
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
    module_name, colon, name = target.rpartition(":")
    if not colon and not is_file_target(target):
        module_name, _, name = target.rpartition(".")
    if not module_name or not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", name):
        raise _error(where, _FORMS, target)
    if is_file_target(target):
        module = _import_file((base / module_name).resolve(), where, target)
    else:
        module = _import_named(module_name, where, target, nested=not colon)
        if not colon:
            name = f"{module_name}.{name}"[len(module.__name__) + 1 :]
    return _attribute(module, name, where, target)


def is_file_target(target: str) -> bool:
    """Return True when ``target`` names a file rather than a module."""
    path = target.rpartition(":")[0] or target
    return path.endswith(".py") or "/" in path or path.startswith(".")


def absolute_target(target: str, base: Path) -> str:
    """Return ``target`` with the path of a file made absolute, so that it means the same in any folder."""
    path, colon, name = target.rpartition(":")
    return f"{(base / path).resolve()}{colon}{name}" if colon and is_file_target(target) else target


def _import_file(path: Path, where: str, target: str) -> ModuleType:
    if not path.is_file():
        found = sorted(file.name for file in path.parent.glob("*.py"))
        exists = f"Python files in {path.parent}: {_listed(found)}"
        raise _error(where, "a file that exists", target, exists, did_you_mean(path.name, found))
    stem = re.sub(r"\W", "_", path.stem)
    name = f"hookline_local_{stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise _error(where, "a Python file (.py)", target)
    module = sys.modules[name] = util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise _import_failed(where, target, error, str(path)) from error
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _import_named(name: str, where: str, target: str, nested: bool) -> ModuleType:
    """Return the module ``name``; with ``nested`` its end may be a class in a module, so try that too."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name != missing and not name.startswith(f"{missing}."):
            raise _import_failed(where, target, error) from error  # it exists, and imports what does not
        parent = missing.rpartition(".")[0]
        if (
            nested
            and parent
            and isinstance(getattr(sys.modules.get(parent), missing[len(parent) + 1 :], None), type)
        ):
            return sys.modules[parent]
        raise _not_found(missing, parent, where, target) from error
    except (Exception, SystemExit) as error:
        raise _import_failed(where, target, error) from error


def _not_found(missing: str, parent: str, where: str, target: str) -> ConfigError:
    path = getattr(sys.modules.get(parent), "__path__", None) if parent else None
    found = sorted(module.name for module in pkgutil.iter_modules(path) if not module.name.startswith("_"))
    exists = f"There is no module {missing!r}"
    if parent:
        exists += f"; modules in {parent}: {_listed(found)}"
    hint = did_you_mean(missing.rpartition(".")[2], found)
    fix = hint or ("" if parent else f"Install the package that holds {missing!r}")
    return _error(where, "a module that can be found", target, exists, fix)


def _attribute(module: ModuleType, name: str, where: str, target: str) -> Any:
    value: Any = module
    for part in name.split("."):
        if not hasattr(value, part):
            found = sorted(_public_names(value))
            owner = Path(value.__file__ or "").name if _is_local(value) else getattr(value, "__name__", name)
            exists = f"Names in {owner}: {_listed(found)}"
            raise _error(where, f"a name in {owner}", target, exists, did_you_mean(part, found))
        value = getattr(value, part)
    return value


def _is_local(value: Any) -> bool:
    return isinstance(value, ModuleType) and value.__name__.startswith("hookline_local_")


def _public_names(value: Any) -> Iterable[str]:
    """Yield the names a reader would look for: of a local file, only those that are defined in it."""
    for name, item in vars(value).items():
        is_own = not _is_local(value) or getattr(item, "__module__", None) == value.__name__
        if is_own and callable(item) and not name.startswith("_"):
            yield name


def _import_failed(where: str, target: str, error: BaseException, path: str = "") -> ConfigError:
    """Return an error that names the line: of the file itself where the traceback passes it, else the last."""
    frames = traceback.extract_tb(error.__traceback__)
    at = next((frame for frame in reversed(frames) if frame.filename == path), frames[-1])
    place = f"{at.filename}:{at.lineno}"
    if isinstance(error, SyntaxError) and error.filename:
        place = f"{error.filename}:{error.lineno}"
    got = f"{type(error).__name__}: {error}"
    fix = ""
    if isinstance(error, ModuleNotFoundError):
        fix = f"Install what holds {error.name!r}; if it is a file of yours, put its folder on PYTHONPATH"
    return _error(where, f"{target} to import without an error", got, f"It was raised at {place}", fix)


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:_MAX_SHOWN]) or "none"
    return f"{shown}, … ({len(names)} in all)" if len(names) > _MAX_SHOWN else shown


def _error(where: str, expected: str, got: str, exists: str = "", fix: str = "") -> ConfigError:
    return ConfigError([Problem(where, expected, got, exists, fix)])
