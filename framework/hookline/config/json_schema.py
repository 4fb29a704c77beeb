"""Options as JSON Schema, draft 7: what an editor needs to complete and check them."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import to_jsonable_python

from hookline.config.lengths import Epochs
from hookline.config.options import Option, annotations_of, describe_options
from hookline.config.rules import ANY, WORD, adapter, rule

__all__ = ["NOTHING", "TARGET", "about", "options_schema", "value_schema"]

TARGET = {
    "type": "string",
    "pattern": rf"^.+[.:]{WORD}+$",
    "errorMessage": "expected a target such as package.module:Name or ./file.py:Name",
}
"""The schema of what `resolve_target` imports."""

NOTHING: dict[str, Any] = {"not": {}}
"""The schema that no value meets: of an option that a config cannot give."""

_DATA = ("const", "default", "enum", "examples", "required")  # hold values, no schemas


def options_schema(fn: Any, given: Collection[str] = ()) -> dict[str, Any]:
    """Return the JSON Schema of a mapping with the options of ``fn``: what a config may give it.

    Each option has its type, limits, default and description. An annotation that JSON Schema cannot
    express allows every value; a function is given by its target.

    Args:
        fn: A class or a function, as for `check_options`; a module takes no options.
        given: Names of parameters that the caller fills in itself.
    """
    found, takes_any = annotations_of(fn)
    options = describe_options(fn, given)
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {option.name: _option_schema(option, found[option.name]) for option in options},
        "additionalProperties": takes_any,
    }
    required = [option.name for option in options if option.required]
    return {**schema, "required": required} if required else schema


def value_schema(annotation: Any) -> dict[str, Any]:
    """Return the JSON Schema of the values that `check_value` accepts for ``annotation``."""
    is_known = annotation is not ANY and not isinstance(annotation, str)
    validator = adapter(annotation, strict=False) if is_known else None
    if validator is None:
        return {}
    try:
        schema = validator.json_schema(schema_generator=_Generator)
    except Exception:  # a stranger's type may raise anything
        return {}
    schema.pop("description", None)  # the docstring of a class
    made: dict[str, Any] = _draft_7(schema, schema.pop("$defs", {}))
    parts = (made, *made.get("anyOf", ()))
    if any("pattern" in part for part in parts):  # which an editor would show
        for part in parts:
            part.setdefault("errorMessage", f"expected {rule(annotation)}")
    return made


def _option_schema(option: Option, annotation: Any) -> dict[str, Any]:
    schema = value_schema(annotation)
    if option.default is None and not option.required:
        schema = _union([schema, {"type": "null"}])
    return {**about(option.description), **schema, **about(option.description), **_default(option)}


def about(text: str) -> dict[str, Any]:
    """Return a description as plain text, and for an editor that shows it as Markdown; none if empty."""
    if not text:
        return {}
    plain = {"description": text.replace("``", "`")}
    return {**plain, "markdownDescription": text} if "`" in text else plain


def _default(option: Option) -> dict[str, Any]:
    """Return the default of an option, or nothing when a config cannot write it, or would not: null."""
    if isinstance(option.default, Epochs):
        return {"default": str(option.default)}
    try:
        plain = to_jsonable_python(option.default)
        json.dumps(plain, allow_nan=False)
    except Exception:  # a stranger's default may be anything
        return {}
    return {} if plain is None else {"default": plain}


class _Generator(GenerateJsonSchema):
    """Writes the schema of what a config may hold, where pydantic would write that of any Python value."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}

    def callable_schema(self, schema: Any) -> dict[str, Any]:
        return dict(TARGET)

    def is_instance_schema(self, schema: Any) -> dict[str, Any]:
        return dict(NOTHING)

    def is_subclass_schema(self, schema: Any) -> dict[str, Any]:
        return dict(NOTHING)

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> dict[str, Any]:
        return {}


def _draft_7(schema: Any, defs: Mapping[str, Any], within: tuple[str, ...] = ()) -> Any:
    """Return ``schema`` in the words of draft 7, references replaced and names of classes left out."""
    if isinstance(schema, list):
        return [_draft_7(part, defs, within) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        rest = {key: part for key, part in schema.items() if key != "$ref"}
        if name in within:  # a class that holds itself: no deeper
            return {"type": "object", **rest}
        own = {key: part for key, part in defs[name].items() if key != "description"}
        return _draft_7({**own, **rest}, defs, (*within, name))
    made = dict(_parts(schema, defs, within))
    if "prefixItems" in made:
        made["items"] = made.pop("prefixItems")
    if "anyOf" not in made:
        return made
    return {**_union(made.pop("anyOf")), **made}


def _parts(schema: Mapping[str, Any], defs: Mapping[str, Any], within: tuple[str, ...]) -> Iterator[Any]:
    for key, value in schema.items():
        if key in ("properties", "patternProperties"):
            yield key, {name: _draft_7(part, defs, within) for name, part in value.items()}
        elif key in _DATA:
            yield key, value
        elif key not in ("title", "uniqueItems"):  # a list for a set may repeat an item
            yield key, _draft_7(value, defs, within)


def _union(alternatives: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the schema of what meets one of ``alternatives``, in its shortest form."""
    flat: list[dict[str, Any]] = []
    for schema in alternatives:
        flat += schema["anyOf"] if schema.keys() == {"anyOf"} else [schema]
    if {} in flat:
        return {}
    possible = [schema for i, schema in enumerate(flat) if schema != NOTHING and schema not in flat[:i]]
    return possible[0] if len(possible) == 1 else {"anyOf": possible} if possible else dict(NOTHING)
