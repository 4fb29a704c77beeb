"""The parameters of a class or function are its options: checked and described without running it."""

from __future__ import annotations

import inspect
import sys
from collections import ChainMap
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass
from types import SimpleNamespace
from typing import Any, get_type_hints

from hookline.config.lengths import Epochs
from hookline.config.rules import ANY, check_value, choices, description, limits, rule, type_text
from hookline.config.tree import located
from hookline.errors import Problem, did_you_mean

__all__ = ["Option", "annotations_of", "check_options", "describe_options", "unknown_option"]

Origin = Callable[[str], str]
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@dataclass(frozen=True)
class Option:
    """One option of a plugin or target, as ``hookline plugins info`` prints it.

    Args:
        name: The key in the config.
        type: Its type in words; ``any`` when it has no annotation.
        default: What it is when it is not given; None too when it is required.
        required: True when it must be given.
        description: From the docstring's ``Args:``, or from its ``Field``.
        limits: Such as ``>= 0 and < 1``; may be empty.
    """

    name: str
    type: str
    default: Any
    required: bool
    description: str
    limits: str


def check_options(
    fn: Any, options: Mapping[str, Any], where: str, origin: Origin | None = None, given: Collection[str] = ()
) -> tuple[dict[str, Any], list[Problem]]:
    """Return those of ``options`` that ``fn`` takes, converted to its annotations, and every problem found.

    Parameters that are not in ``options`` are left out, so their defaults stay as they are; but for a length
    in epochs, which is of no use before somebody makes iterations of it. Nothing is called. A parameter
    without an annotation, or with one that cannot be read, takes any value.

    Args:
        fn: A class or a function; a module takes no options.
        options: Plain data by parameter name.
        where: The path of the options in the config, such as ``hooks.evaluate``.
        origin: Maps the path of a value to its origin, as `Config.origin` does.
        given: Names of parameters that the caller fills in itself, such as an optimizer's ``params``.
    """
    parameters, takes_any = _parameters(fn)
    allowed = {name: parameter for name, parameter in parameters.items() if name not in given}
    valid: dict[str, Any] = {}
    problems: list[Problem] = []

    def at(name: Any) -> str:
        path = f"{where}.{name}".lstrip(".")
        return located(path, origin(path)) if origin else path

    for name, value in options.items():
        if name in allowed:
            try:
                valid[name] = _checked(allowed[name], value)
            except ValueError as error:
                problems.append(_misfit(at(name), allowed[name].annotation, value, str(error)))
        elif name in given:
            exists = "hookline passes it itself"
            problems.append(Problem(at(name), f"an option of {where}", name, exists))
        elif takes_any and isinstance(name, str):
            valid[name] = value
        else:
            problems.append(unknown_option(at(name), where, name, list(allowed)))
    for name in [name for name in allowed if name not in options]:
        if allowed[name].default is ANY:
            problems.append(_absent(at(name), allowed[name].annotation))
        elif isinstance(length := _length(allowed[name]), Epochs):
            valid[name] = length
    return valid, problems


def _length(parameter: inspect.Parameter) -> Any:
    """Return a default such as ``"1 epoch"`` as the length that it would be in a config."""
    default = parameter.default
    try:
        return _checked(parameter, default) if isinstance(default, str) and "epoch" in default else None
    except ValueError:
        return None


def unknown_option(where: str, owner: str, name: Any, known: Sequence[str], fix: str = "") -> Problem:
    """Return the problem of an option that ``owner`` does not have; ``fix`` instead of what may be meant."""
    exists = f"Options: {', '.join(known)}" if known else "It takes no options"
    return Problem(where, f"an option of {owner}", name, exists, fix or did_you_mean(str(name), known))


def _absent(where: str, annotation: Any) -> Problem:
    expected = rule(annotation)
    return Problem(where, "a value" if expected == rule(ANY) else expected, missing=True)


def describe_options(fn: Any, given: Collection[str] = ()) -> list[Option]:
    """Return the options of ``fn``, a class or a function, in the order of its parameters."""
    documented = _documented(fn)
    return [
        Option(
            name=name,
            type=type_text(parameter.annotation),
            default=None if parameter.default is ANY else parameter.default,
            required=parameter.default is ANY,
            description=description(parameter.annotation) or documented.get(name, ""),
            limits=limits(parameter.annotation),
        )
        for name, parameter in _parameters(fn)[0].items()
        if name not in given
    ]


def annotations_of(fn: Any) -> tuple[dict[str, Any], bool]:
    """Return the annotation of each option of ``fn``, and whether it takes others too.

    One that is missing is `ANY`; one that cannot be evaluated is the string it was written as.
    """
    parameters, takes_any = _parameters(fn)
    return {name: parameter.annotation for name, parameter in parameters.items()}, takes_any


def _checked(parameter: inspect.Parameter, value: Any) -> Any:
    if value is None and parameter.default is None:
        return None  # `x: int = None` says more than its annotation
    return value if isinstance(parameter.annotation, str) else check_value(parameter.annotation, value)


def _misfit(where: str, annotation: Any, value: Any, said: str) -> Problem:
    expected = rule(annotation)
    needs_quotes = type_text(annotation).startswith("str") and isinstance(value, int | float)
    exists = said if said not in expected else ""
    meant = did_you_mean(value, choices(annotation)) if isinstance(value, str) else ""
    return Problem(where, expected, value, exists, "Put it in quotes" if needs_quotes else meant)


def _parameters(fn: Any) -> tuple[dict[str, inspect.Parameter], bool]:
    """Return the parameters that have a name, annotations resolved, and whether others are taken too."""
    try:
        signature = inspect.signature(fn) if callable(fn) else inspect.Signature()
    except (TypeError, ValueError):  # written in C, without a signature
        return {}, True
    parameters = signature.parameters.values()
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    named = {
        parameter.name: parameter.replace(
            annotation=_resolved(parameter.annotation, fn), default=_default(parameter, fn)
        )
        for parameter in parameters
        if parameter.kind in _NAMED
    }
    return named, takes_any


def _default(parameter: inspect.Parameter, fn: Any) -> Any:
    """Return the default of ``parameter``; where a factory makes it, for a dataclass, what it makes."""
    field = getattr(fn, "__dataclass_fields__", {}).get(parameter.name)
    if field is None or field.default_factory is MISSING or parameter.default is ANY:
        return parameter.default
    return field.default_factory()


def _resolved(annotation: Any, fn: Any) -> Any:
    """Return ``annotation`` evaluated, or as the string it is when a name in it cannot be found.

    One at a time: `get_type_hints` of the whole function fails for all when it fails for one.
    """
    holder = SimpleNamespace(__annotations__={"it": annotation})
    modules = [getattr(sys.modules.get(owner.__module__), "__dict__", {}) for owner in _owners(fn)]
    try:
        return get_type_hints(holder, globalns={}, localns=ChainMap(*modules), include_extras=True)["it"]
    except Exception:  # evaluating a stranger's annotation may raise anything
        return annotation if isinstance(annotation, str) else ANY


def _owners(fn: Any) -> Iterator[Any]:
    if isinstance(fn, type):
        yield from fn.__mro__
    else:
        yield inspect.unwrap(getattr(fn, "func", fn))


def _documented(fn: Any) -> dict[str, str]:
    """Return the descriptions in the docstrings of ``fn`` by parameter, those of a subclass first."""
    from docstring_parser import DocstringStyle, ParseError, parse

    documented: dict[str, str] = {}
    for owner in _owners(fn):
        own = vars(owner) if hasattr(owner, "__dict__") else {}
        docs = [own.get("__doc__"), getattr(own.get("__init__"), "__doc__", None)]
        for doc in docs if isinstance(owner, type) else [getattr(owner, "__doc__", None)]:
            try:
                found = parse(doc or "", style=DocstringStyle.GOOGLE).params
            except ParseError:
                continue
            for item in found:
                documented.setdefault(item.arg_name, " ".join((item.description or "").split()))
    return documented
