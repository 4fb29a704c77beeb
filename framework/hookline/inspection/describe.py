"""What an imported plugin is, in plain data; runs in the process that `probe` gives to each plugin."""

from __future__ import annotations

import dataclasses
import enum
import importlib
import inspect
import math
import os
import tempfile
import traceback
from collections.abc import Mapping
from functools import reduce
from pathlib import Path, PurePath
from time import perf_counter
from types import ModuleType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from hookline.catalog import is_of_python
from hookline.config import describe_options, resolve_target
from hookline.config.json_schema import options_schema
from hookline.config.options import Option, annotations_of
from hookline.config.rules import type_text
from hookline.errors import ConfigError, Fault, Problem
from hookline.events import EventWriter
from hookline.hookspecs import HookBase
from hookline.inspection.wording import one_line
from hookline.plugins import is_stateful
from hookline.plugins.lint import faults, implemented, option_faults

__all__ = ["TRAITS", "described"]

TRAITS = ("before", "after", "observer", "collective", "graph_safe", "state_version")


def described(value: str, name: str, kind: str) -> dict[str, Any]:
    """Import ``value`` and return the fields of its report that this shows, as JSON values.

    Whatever is built without options is built, in a folder that is deleted, so that it is checked as a
    registration would check it.
    """
    start = perf_counter()
    try:
        factory = _imported(value)
    except BaseException as error:  # an exit, too
        return {"kind": kind or "hook", **_raised(error)}
    import_s = perf_counter() - start
    kind = kind or ("writer" if _is_writer(factory) else "hook")
    report = {"import_s": import_s, "kind": kind, "factory": _form(factory)}
    try:
        return {**report, **_described(factory, name, kind)}
    except BaseException as error:
        raised = _raised(error)
        fault = Fault(name, "a plugin that can be described", raised["error"], "Look at its annotations")
        return {**report, "problems": [{**vars(fault), "file": raised["file"], "line": raised["line"]}]}


def _imported(value: str) -> Any:
    if ".py:" in value:
        return resolve_target(value, Path(), value.rpartition(":")[0])
    module, _, attribute = value.partition("[")[0].partition(":")
    parts = filter(None, attribute.strip().split("."))
    return reduce(getattr, parts, importlib.import_module(module.strip()))


def _described(factory: Any, name: str, kind: str) -> dict[str, Any]:
    takes = factory if callable(factory) else _nothing
    options = describe_options(takes)
    shown = _subject(factory)
    problems: list[Fault] = []
    if not any(option.required for option in options) and not inspect.isabstract(factory):
        built, problems = _built(factory, name) if callable(factory) else (factory, [])
        shown = shown if shown is not None else built
        problems += faults(built, name, kind) if built is not None else []
    if shown is not None:
        problems = [*faults(shown, name, kind), *problems]
    problems = _distinct([*problems, *option_faults(takes, name, kind)])
    file, line = _place(factory if callable(factory) or isinstance(factory, ModuleType) else type(factory))
    return {
        "problems": [vars(problem) for problem in problems],
        "doc": inspect.cleandoc(vars(factory).get("__doc__") or "") if hasattr(factory, "__dict__") else "",
        "hooks": implemented(shown) if kind == "hook" and shown is not None else [],
        "traits": _traits(shown, kind),
        "options": [{**_plain(vars(option)), "type": _type(takes, option)} for option in options],
        "options_schema": options_schema(takes),
        "stateful": _keeps_state(shown),
        "linted": shown is not None,
        "file": file,
        "line": line,
    }


def _type(takes: Any, option: Option) -> str:
    """Return the type of an option in words, the members of an Enum as a config writes them."""
    try:
        return type_text(_spelt(annotations_of(takes)[0][option.name]))
    except TypeError:  # values that are no literals
        return option.type


def _spelt(annotation: Any) -> Any:
    """Return ``annotation`` with every Enum in it as the Literal of its values."""
    kind, args = get_origin(annotation), get_args(annotation)
    if inspect.isclass(annotation) and issubclass(annotation, enum.Enum):
        return Literal[tuple(member.value for member in annotation)]
    if kind is Annotated:
        return _spelt(args[0])
    if kind in (Union, UnionType):
        return Union[tuple(map(_spelt, args))]  # noqa: UP007
    if not isinstance(kind, type) or not any(_spelt(arg) is not arg for arg in args):
        return annotation
    return kind[tuple(map(_spelt, args))]  # type: ignore[index]


def _form(factory: Any) -> str:
    if inspect.isclass(factory):
        return "class"
    if isinstance(factory, ModuleType):
        return "module"
    return "function" if callable(factory) else "object"


def _is_writer(value: Any) -> bool:
    return isinstance(value, EventWriter) or (inspect.isclass(value) and issubclass(value, EventWriter))


def _subject(factory: Any) -> Any:
    """Return what the hooks of ``factory`` are found on, or None while it is not known."""
    if not callable(factory) or inspect.isclass(factory):
        return factory
    try:
        promised = get_type_hints(factory).get("return")
    except Exception:  # a stranger's annotation
        return None
    is_plugin = inspect.isclass(promised) and promised not in (HookBase, EventWriter, object)
    return promised if is_plugin else None


def _built(factory: Any, name: str) -> tuple[Any, list[Fault]]:
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            return factory(), []
        except BaseException as error:
            raised = _raised(error)
            mend = "Ask for what it needs: an option without a default is required"
            got = raised["error"]
            place = raised["file"], raised["line"]
            return None, [Fault(name, "a plugin that can be built with its defaults", got, mend, *place)]
        finally:
            os.chdir(before)


def _distinct(found: list[Fault]) -> list[Fault]:
    """Return each fault once: on the class and on its instance it reads differently, its rule does not."""
    return list({(fault.where, fault.expected): fault for fault in reversed(found)}.values())[::-1]


def _traits(shown: Any, kind: str) -> dict[str, Any]:
    names = TRAITS if kind == "hook" else ("journal",)
    found = {name: getattr(shown, name, getattr(HookBase, name, None)) for name in names}
    return {name: _plain(value) for name, value in found.items() if value is not None}


def _keeps_state(shown: Any) -> bool:
    if _is_writer(shown):
        cls: Any = shown if inspect.isclass(shown) else type(shown)
        return cls.state_dict is not EventWriter.state_dict
    return is_stateful(shown)


def _raised(error: BaseException) -> dict[str, Any]:
    """Return what was raised in one line, and where."""
    if isinstance(error, ConfigError) and error.__cause__ is not None:
        error = error.__cause__
    text = _not_there(error) if isinstance(error, ConfigError) else one_line(error)
    if isinstance(error, SyntaxError):
        return {"error": text, "file": error.filename or "", "line": error.lineno or 0}
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not is_of_python(frame.filename) and not frame.filename.startswith(_OWN)
    ]
    return {
        "error": text,
        "file": frames[-1].filename if frames else "",
        "line": (frames[-1].lineno or 0) if frames else 0,
    }


def _not_there(error: ConfigError) -> str:
    """Return what `resolve_target` says of a name that is not in its file."""
    exists = "; ".join(problem.exists for problem in error.problems if isinstance(problem, Problem))
    return f"a file without that name. {exists}"


def _place(value: Any) -> tuple[str, int]:
    try:
        line = 1 if isinstance(value, ModuleType) else inspect.getsourcelines(inspect.unwrap(value))[1]
        return inspect.getsourcefile(inspect.unwrap(value)) or "", line
    except (OSError, TypeError, ValueError):
        return "", 0


def _plain(value: Any) -> Any:
    """Return ``value`` as JSON holds it; what has no such form in the words of Python."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, enum.Enum):
        return _plain(value.value)
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or type(value) in (bool, int, float, str):
        return value
    return str(value) if dataclasses.is_dataclass(value) else repr(value)


def _nothing() -> None:
    """Take nothing: what is registered as it is has no options."""


_OWN = str(Path(__file__).parent), resolve_target.__code__.co_filename
