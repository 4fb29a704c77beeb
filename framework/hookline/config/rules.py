"""Annotations in words and at work: the rule that a value must meet, its limits, and its validation."""

from __future__ import annotations

import collections.abc
import dataclasses
import enum
import functools
import inspect
import operator
import re
import types
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

if TYPE_CHECKING:
    from pydantic import TypeAdapter

__all__ = [
    "ANY",
    "WORD",
    "Rule",
    "adapter",
    "check_value",
    "choices",
    "description",
    "limits",
    "rule",
    "type_text",
]

ANY: Any = inspect.Parameter.empty
"""The annotation of a parameter that has none: every value is right."""

WORD = r"[^\x00-/:-@\[-^`{-\x7f]"
r"""``\w`` for JSON Schema, whose own knows ASCII only: no ASCII character but letters, digits and _."""


@dataclasses.dataclass(frozen=True)
class Rule:
    """A rule in words and the function that keeps it, for ``Annotated`` where a type says too little.

    Args:
        text: What a value must be, as it follows "expected".
        parse: Returns a value as it is to be used, or raises ValueError.
        schema: The JSON Schema of the values that ``parse`` takes; the empty one lets every value be.
    """

    text: str
    parse: Callable[[Any], Any]
    schema: Mapping[str, Any] = dataclasses.field(default_factory=dict, compare=False, repr=False)

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(self.parse)

    def __get_pydantic_json_schema__(self, source: Any, handler: Any) -> dict[str, Any]:
        return dict(self.schema)


_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a string",
    Path: "a path",
    type(None): "null",
    object: "anything",
    Any: "anything",
    ANY: "anything",
}
_LIMITS = {
    "ge": ">= {}",
    "gt": "> {}",
    "le": "<= {}",
    "lt": "< {}",
    "multiple_of": "a multiple of {}",
    "min_length": "of length >= {}",
    "max_length": "of length <= {}",
    "pattern": "matching {}",
}
_LISTS = (list, tuple, set, frozenset, collections.abc.Sequence, collections.abc.Set)
_LAZY = (collections.abc.Iterable, collections.abc.Collection)
_MAPPINGS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)


def rule(annotation: Any) -> str:
    """Return what a value of ``annotation`` must be: ``a whole number >= 1``, ``one of fp32, bf16``."""
    kind, args = get_origin(annotation), get_args(annotation)
    if kind is Annotated:
        said = [item.text for item in args[1:] if isinstance(item, Rule)]
        return said[0] if said else f"{rule(args[0])} {limits(annotation)}".rstrip()
    if kind is Literal:
        return f"one of {', '.join(map(str, args))}"
    if kind in (Union, types.UnionType):
        return " or ".join(rule(arg) for arg in args)
    if kind is tuple and args and args[-1] is not ...:
        return f"a list of {len(args)} ({', '.join(rule(arg) for arg in args)})"
    if (kind or annotation) in (*_LISTS, *_LAZY):
        return f"a list (each {rule(args[0])})" if args else "a list"
    if (kind or annotation) in _MAPPINGS:
        is_any = not args or rule(args[1]) == _WORDS[ANY]
        return "a mapping" if is_any else f"a mapping (each value {rule(args[1])})"
    if (kind or annotation) is collections.abc.Callable:
        return "a function"
    if not isinstance(annotation, type):
        return "anything" if annotation is Any else f"a value of type {type_text(annotation)}"
    if issubclass(annotation, enum.Enum):
        return f"one of {', '.join(str(member.value) for member in annotation)}"
    if dataclasses.is_dataclass(annotation) or hasattr(annotation, "model_fields"):
        return f"a mapping with {', '.join(inspect.signature(annotation).parameters)}"
    return _WORDS.get(annotation) or f"an instance of {annotation.__name__}"


def choices(annotation: Any) -> list[str]:
    """Return the words that `rule` lists for a value of ``annotation``; none where any will do."""
    kind, args = get_origin(annotation), get_args(annotation)
    if kind is Literal:
        return [str(arg) for arg in args]
    if kind is Annotated:
        return choices(args[0])
    if kind in (Union, types.UnionType):
        return [word for arg in args for word in choices(arg)]
    is_enum = isinstance(annotation, type) and issubclass(annotation, enum.Enum)
    return [str(member.value) for member in annotation] if is_enum else []


def type_text(annotation: Any) -> str:
    """Return ``annotation`` as Python writes it, without limits and module names; ``any`` for none."""
    kind, args = get_origin(annotation), get_args(annotation)
    if annotation is ANY or isinstance(annotation, str):
        return "any" if annotation is ANY else str(annotation)
    if isinstance(annotation, list):  # the parameters of a Callable
        return f"[{', '.join(map(type_text, annotation))}]"
    if kind is Annotated:
        return type_text(args[0])
    if kind in (Union, types.UnionType):
        return " | ".join(map(type_text, args))
    if args:
        texts = map(repr if kind is Literal else type_text, args)
        return f"{type_text(kind)}[{', '.join(texts)}]"
    if annotation is ...:
        return "..."
    return re.sub(r"\b[\w.]+\.|[~+]", "", inspect.formatannotation(annotation)).replace("NoneType", "None")


def limits(annotation: Any) -> str:
    """Return the limits in ``annotation``, such as ``>= 0 and < 1``, or an empty string."""
    items = _metadata(annotation)
    found = ((text, getattr(item, key, None)) for item in items for key, text in _LIMITS.items())
    return " and ".join(text.format(limit) for text, limit in found if limit is not None)


def description(annotation: Any) -> str:
    """Return the description that a ``Field`` in ``annotation`` gives, or an empty string."""
    texts = (getattr(item, "description", None) for item in _metadata(annotation))
    return next((text for text in texts if isinstance(text, str)), "")


def _metadata(annotation: Any) -> list[Any]:
    items = get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()
    held = [part for item in items for part in getattr(item, "metadata", None) or ()]  # by a Field
    return [*items, *held]


def check_value(annotation: Any, value: Any) -> Any:
    """Return ``value`` converted to ``annotation``: a list to a tuple, ``"1e-3"`` to a float.

    Nothing is converted that would surprise: no bool or float to an int, no number to a string.

    Raises:
        ValueError: If it does not fit; the message is what a validator of the annotation said, if any.
    """
    validator = adapter(annotation) if annotation is not ANY else None
    if validator is None:
        return value
    from pydantic import ValidationError

    try:
        return validator.validate_python(value)
    except ValidationError as error:
        said = [str(item["ctx"]["error"]) for item in error.errors() if "error" in item.get("ctx", {})]
        raise ValueError(said[0] if said else "") from error


def adapter(annotation: Any, strict: bool = True) -> TypeAdapter[Any] | None:
    """Return a validator, or None for an annotation that pydantic cannot read: it is a hint, no more.

    Args:
        annotation: Of an option.
        strict: As strict with scalars as `check_value` is; pydantic's JSON Schema says that anyway.
    """
    from pydantic import ConfigDict, TypeAdapter

    for config in (ConfigDict(arbitrary_types_allowed=True), None):  # a model brings its own config
        with suppress(Exception):
            return TypeAdapter(_strict(annotation) if strict else annotation, config=config)
    return None


def _strict(annotation: Any) -> Any:
    """Return ``annotation`` with the scalars in it made as strict as `check_value` promises."""
    from pydantic import BeforeValidator, Strict

    kind, args = get_origin(annotation), get_args(annotation)
    if annotation in (int, bool):  # pydantic turns no number into a string
        return Annotated[annotation, Strict()]
    if annotation is float:
        return Annotated[float, BeforeValidator(_no_bool)]
    if kind is Annotated:
        return operator.getitem(Annotated, (_strict(args[0]), *args[1:]))
    if kind in (Union, types.UnionType):
        return functools.reduce(operator.or_, map(_strict, args))
    if args and kind in (*_LISTS, *_LAZY, *_MAPPINGS):
        # pydantic would hand on an iterator for an Iterable; the list that was given is wanted.
        container: Any = list if kind in _LAZY else kind
        return container[tuple(map(_strict, args))]
    return annotation


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError
    return value
