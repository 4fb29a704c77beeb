"""The whole config as JSON Schema: its sections, and the plugins and targets that are on offer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, get_type_hints

from hookline.config.build import shape_of
from hookline.config.instances import LISTS
from hookline.config.json_schema import TARGET, about, options_schema
from hookline.config.rules import WORD
from hookline.config.schema import Config, Loader, PluginSpec, Target

__all__ = ["Offer", "config_schema"]

_NAME = {
    "pattern": f"^{WORD}({WORD}|-)*$",
    "errorMessage": "expected a name of letters, digits, '_' and '-'",
}
_LOCAL = rf"^.*\.py:{WORD}+$"
_INSTANCE = {**_NAME, "pattern": f"^(?:.*:)?{WORD}({WORD}|-)*$"}
_ABOUT = ("description", "markdownDescription")
_DRAFT = "http://json-schema.org/draft-07/schema#"
_SUGGESTED = {"data": ("train", "eval")}


@dataclass(frozen=True)
class Offer:
    """A plugin, or a target, that a config may name.

    Args:
        name: How an editor writes it.
        options: Its options, from `options_schema`.
        description: What it is, for a reader.
        pattern: A regular expression of all that means the same; by default ``name`` alone.
    """

    name: str
    options: Mapping[str, Any]
    description: str = ""
    pattern: str = ""

    @property
    def regex(self) -> str:
        """The pattern, from start to end."""
        literal = re.sub(r"([\\^$.|?*+()\[\]{}])", r"\\\1", self.name)
        return f"^(?:{self.pattern or literal})$"


def config_schema(
    plugins: Mapping[str, Sequence[Offer]], targets: Mapping[str, Sequence[Offer]] | None = None
) -> dict[str, Any]:
    """Return the JSON Schema of a config.

    What a schema cannot tell is left to hookline: whether a name is given twice, or a local file exists.

    Args:
        plugins: What can be listed in ``hooks`` and in ``writers``; another name is an error there.
        targets: What is known to be a target, by section: ``model``, ``data``, ``metrics``, ``optimizer``,
            ``schedule`` or ``trainer``. Any other target is right too, with options of every kind.
    """
    sections = _Sections(targets or {})
    schema = sections.section(Config, "")
    definitions = dict(sections.definitions)
    for kind in LISTS:
        said = {word: text for word, text in schema["properties"][kind].items() if word in _ABOUT}
        items = {"items": {"$ref": f"#/definitions/{kind}[]"}}
        schema["properties"][kind] = {**said, "type": ["array", "null"], **items}
        definitions |= _Listed(kind, plugins.get(kind, ())).definitions()
    return {"$schema": _DRAFT, **schema, "definitions": definitions}


class _Sections:
    """Turns the dataclasses of the schema into JSON Schema, as `build` reads them."""

    def __init__(self, targets: Mapping[str, Sequence[Offer]]) -> None:
        self.targets = targets
        self.definitions: dict[str, Any] = {}

    def section(self, cls: Any, key: str) -> dict[str, Any]:
        """Return the schema of the mapping that makes a ``cls``; ``key`` is the section it belongs to."""
        hints = get_type_hints(cls, include_extras=True)
        schema = options_schema(cls, [item.name for item in fields(cls) if not item.compare] + ["options"])
        properties = schema["properties"]
        for name, value in properties.items():
            shape = shape_of(hints[name])
            if shape and name not in LISTS:
                said = {word: value[word] for word in _ABOUT if word in value}
                is_optional = name not in schema.get("required", ())
                properties[name] = {**self.part(*shape, name, is_optional), **said}
        if cls is Loader:
            del properties["shuffle"]["default"]  # it depends on what is loaded
        schema["required"] = [name for name in schema.get("required", ()) if name not in LISTS]
        schema["additionalProperties"] = "options" in hints
        return self.target(schema, key) if issubclass(cls, Target) else schema

    def part(self, container: Any, cls: Any, key: str, is_optional: bool) -> dict[str, Any]:
        """Return the schema of a section within a section, or of a list or mapping of them."""
        section = self.section(cls, key)
        if container is None:
            return {**section, "type": ["object", "null"]} if is_optional else section
        self.definitions[f"{key}[]"] = section
        item = {"$ref": f"#/definitions/{key}[]"}
        if container is list:
            return {"type": ["array", "null"], "items": item}
        suggested = dict.fromkeys(_SUGGESTED.get(key, ()), item)
        mapping = {"properties": suggested, "additionalProperties": item, "propertyNames": _NAME}
        return {"type": ["object", "null"], **mapping}

    def target(self, schema: dict[str, Any], key: str) -> dict[str, Any]:
        """Return ``schema`` of a section with ``target``, completed by what is known of some targets."""
        offers = self.targets.get(key, ())
        if not offers:
            return schema
        own = schema["properties"]
        own["target"] = {
            **{word: text for word, text in own["target"].items() if word in _ABOUT},
            "anyOf": [_names(offers), TARGET],
        }
        known = []
        for offer in offers:
            options = dict(offer.options["properties"])
            others: dict[str, Any] = {name: {} for name in own}
            if "groups" in own:  # the optimizer's options for some of the parameters
                one = {"properties": {"match": {}, **options}, "additionalProperties": False}
                others["groups"] = {"items": one}
            then = {**offer.options, "properties": {**options, **others}}
            known.append({"if": _has("target", offer), "then": then})
        return {**schema, "allOf": known}


class _Listed:
    """Describes the items of one of the lists."""

    def __init__(self, kind: str, offers: Sequence[Offer]) -> None:
        self.kind, self.offers = kind, offers
        # To a hook, its period is an option.
        skipped = ["name", "options", *(["period"] if kind == "hooks" else [])]
        self.reserved = options_schema(PluginSpec, skipped)["properties"]
        self.reserved["use"] = {
            **{word: text for word, text in self.reserved["use"].items() if word in _ABOUT},
            "anyOf": [_names(offers), {"type": "string", "pattern": self._unlisted()}],
        }

    def definitions(self) -> dict[str, Any]:
        """Return what ``{"$ref": "#/definitions/<kind>[]"}`` refers to, and all that it uses."""
        named = {self._key(offer): self._options(offer) for offer in self.offers}
        return {f"{self.kind}[]": self._item(), f"{self.kind}.use": self._instance(), **named}

    def _item(self) -> dict[str, Any]:
        """An item is the name of a plugin, or a mapping from one name to options."""
        name = {"type": "string", "anyOf": [_names(self.offers), {"pattern": self._unlisted()}]}
        mapping = {
            "type": "object",
            "minProperties": 1,
            "maxProperties": 1,
            "propertyNames": _INSTANCE,
            "properties": {offer.name: self._named(offer) for offer in self.offers},
            "patternProperties": {
                _LOCAL: {"type": ["object", "boolean", "null"]},
                **{offer.regex: self._named(offer) for offer in self.offers if offer.pattern},
            },
            "additionalProperties": {"$ref": f"#/definitions/{self.kind}.use"},
        }
        return {"anyOf": [name, mapping]}

    def _named(self, offer: Offer) -> dict[str, Any]:
        """What stands under a plugin's name: its options, unless they say that it uses another."""
        off = [False] if offer.options.get("required") else [False, None]
        options = {"anyOf": [{"$ref": f"#/definitions/{self._key(offer)}"}, {"enum": off}]}
        other = {"$ref": f"#/definitions/{self.kind}.use"}
        return {"if": {"type": "object", "required": ["use"]}, "then": other, "else": options}

    def _instance(self) -> dict[str, Any]:
        """What stands under a name of the user's own: what it uses, and the options of that."""
        known = [
            {"if": _has("use", offer), "then": {"$ref": f"#/definitions/{self._key(offer)}"}}
            for offer in self.offers
        ]
        mapping = {
            "type": "object",
            "required": ["use"],
            "properties": self.reserved,
            "allOf": known,
            "errorMessage": f"expected the name of an installed plugin, or options that say `use: …`. "
            f"Installed {self.kind}: {', '.join(offer.name for offer in self.offers) or 'none'}",
        }
        return {"anyOf": [mapping, {"enum": [False]}]}

    def _options(self, offer: Offer) -> dict[str, Any]:
        hidden = {"use": {**self.reserved["use"], "doNotSuggest": True}}
        properties = {**offer.options["properties"], **self.reserved, **hidden}
        return {"title": offer.name, **about(offer.description), **offer.options, "properties": properties}

    def _key(self, offer: Offer) -> str:
        word = re.sub(r"[^\w-]+", "_", offer.name)
        return f"{self.kind}.{self.offers.index(offer)}.{word}"

    def _unlisted(self) -> str:
        """The pattern of names that are right without being suggested: local files, and longer forms."""
        forms = [_LOCAL, *(offer.regex for offer in self.offers if offer.pattern)]
        return "|".join(forms)


def _names(offers: Sequence[Offer]) -> dict[str, Any]:
    names = [offer.name for offer in offers]
    return {"enum": names, "enumDescriptions": [offer.description for offer in offers]}


def _has(key: str, offer: Offer) -> dict[str, Any]:
    return {
        "type": "object",
        "required": [key],
        "properties": {key: {"type": "string", "pattern": offer.regex}},
    }
