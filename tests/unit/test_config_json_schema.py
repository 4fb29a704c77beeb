"""The JSON Schema of options accepts what the config accepts, and says what an editor shows."""

from __future__ import annotations

import enum
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

import jsonschema
import pytest
import torch
from pydantic import AfterValidator, BaseModel, Field
from pydantic_core import core_schema

from hookline.config import Epochs, MaxIter, Period, check_options
from hookline.config.json_schema import options_schema
from hookline.config.rules import WORD, rule
from hookline.config.schema import Group, Run, Target


class Color(enum.Enum):
    RED = "r"
    BLUE = "b"


@dataclass
class Size:
    """How large.

    Args:
        height: Of it.
    """

    height: int
    width: int = 1


class Inner(BaseModel):
    a: Annotated[int, Field(ge=3)]


class Tree(BaseModel):
    below: list[Tree] = []


VALUES = [
    *(
        None,
        True,
        False,
        0,
        1,
        3,
        10,
        -1,
        0.5,
        2.5,
        -0.5,
        "",
        "a",
        "b",
        "r",
        "fp32",
        "c",
        "a.b:C",
        "x/y",
        "ü",
    ),
    *("3 epochs", "0 epochs", "1 epoch", "3 epoch s", "epochs", "*.bias", "abc"),
    *([], [1], [0.5], [1, 2], [1, 2, 3], ["a"], ["a", "a"], [[1]], [None], [True]),
    *({}, {"a": 1}, {"a": 3}, {"a": "x"}, {"height": 1}, {"height": "x"}, {"below": []}, {"below": [{}]}),
    {"below": 3},
]
ANNOTATIONS = [
    *(int, float, bool, str, Path, Any, object, type(None), Color, Size, Inner),
    *(int | None, Optional[float], int | str, bool | dict[str, Any], float | torch.Tensor),  # noqa: UP045
    *(list, dict, list[int], tuple[int, int], tuple[int, ...], set[str], Sequence[str], Iterable[int]),
    *(Mapping[str, float], dict[str, int | None], list[list[int]], Literal["a", "b"], Literal["a", 3] | None),
    *(Annotated[int, Field(ge=1, lt=10)], Annotated[float, Field(gt=0)], Annotated[str, Field(min_length=2)]),
    *(Annotated[str, Field(pattern="^a")], Sequence[Annotated[float, Field(gt=0, lt=1)]]),
    *(Annotated[list[int], Field(min_length=2)], Annotated[int, Field(multiple_of=3)] | None),
    *(Period, MaxIter, Period | None, torch.Tensor | None, torch.Tensor, type[Size]),
    *(Run.__annotations__["name"], Target.__annotations__["target"], Group.__annotations__["match"]),
]


def taking(annotation: Any) -> Callable[..., None]:
    def take(it) -> None:
        pass

    take.__annotations__ = {"it": annotation}
    take.__module__ = "hookline.config.schema"  # where the annotations that are strings were written
    return take


@pytest.mark.parametrize("annotation", ANNOTATIONS, ids=rule)
def test_the_schema_accepts_what_the_config_accepts(annotation):
    take = taking(annotation)
    schema = options_schema(take)
    jsonschema.Draft7Validator.check_schema(schema)
    is_valid = jsonschema.Draft7Validator(schema).is_valid
    accepted = [value for value in VALUES if not check_options(take, {"it": value}, "w")[1]]
    assert [value for value in VALUES if is_valid({"it": value})] == accepted
    assert len(accepted) < len(VALUES) or annotation in (Any, object)


def test_a_class_that_holds_itself_is_described_one_level_deep():
    is_valid = jsonschema.Draft7Validator(options_schema(taking(Tree))).is_valid
    assert is_valid({"it": {"below": [{"below": [{}]}]}})
    assert not is_valid({"it": {"below": 3}})
    assert not is_valid({"it": {"below": [3]}})


def test_what_json_schema_cannot_say_is_anything():
    def even(value: int) -> int:
        raise ValueError

    assert options_schema(taking("NotImported"))["properties"] == {"it": {}}
    assert options_schema(taking(Annotated[int, AfterValidator(even)]))["properties"]["it"] == {
        "type": "integer"
    }


class Celsius(float):
    """A type that says how it is checked, but not what JSON Schema it has."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        return core_schema.no_info_plain_validator_function(cls)


class Broken(Celsius):
    @classmethod
    def __get_pydantic_json_schema__(cls, source: Any, handler: Any) -> Any:
        raise ZeroDivisionError


def test_a_type_without_a_schema_is_anything_and_leaves_what_is_around_it():
    assert options_schema(taking(Celsius | int))["properties"] == {"it": {}}
    assert options_schema(taking(list[Celsius]))["properties"] == {"it": {"type": "array", "items": {}}}


def test_a_type_that_fails_to_say_its_schema_is_anything():
    assert options_schema(taking(Broken))["properties"] == {"it": {}}


def test_a_function_is_given_by_its_target():
    schema = options_schema(taking(Callable[[int], int]))["properties"]["it"]
    is_valid = jsonschema.Draft7Validator(schema).is_valid
    assert [value for value in ("a.b:C", "./a.py:C", "a", "a:", 3, None) if is_valid(value)] == [
        "a.b:C",
        "./a.py:C",
    ]
    assert "expected a target" in schema["errorMessage"]


def test_an_option_has_its_description_default_and_limits():
    def plugin(
        path: str,
        rate: Annotated[float, Field(ge=0, le=1, description="How fast.")] = 0.5,
        period: Period = Epochs(2),  # noqa: B008
        color: Color = Color.RED,
        pair: tuple[int, int] = (1, 2),
        limit: float = float("inf"),
        thing: Any = torch.float32,
        none: int | None = None,
    ) -> None:
        """Does it.

        Args:
            path: Where ``it`` is.
        """

    schema = options_schema(plugin)
    assert schema["required"] == ["path"]
    assert schema["additionalProperties"] is False
    found = schema["properties"]
    assert found["path"] == {
        "description": "Where `it` is.",
        "markdownDescription": "Where ``it`` is.",
        "type": "string",
    }
    assert found["rate"] == {
        "description": "How fast.",
        "default": 0.5,
        "type": "number",
        "minimum": 0.0,
        "maximum": 1.0,
    }
    defaults = {name: option["default"] for name, option in found.items() if "default" in option}
    assert defaults == {"rate": 0.5, "period": "2 epochs", "color": "r", "pair": [1, 2]}
    json.dumps(schema, allow_nan=False)


def test_a_default_of_none_allows_null_though_the_annotation_does_not():
    def plugin(a: int = None, b: int = 3) -> None:  # type: ignore[assignment]  # noqa: RUF013
        pass

    is_valid = jsonschema.Draft7Validator(options_schema(plugin)).is_valid
    assert is_valid({"a": None})
    assert not is_valid({"b": None})


def test_a_class_of_an_option_is_described_without_its_name_and_docstring():
    schema = options_schema(taking(Size))["properties"]["it"]
    assert "How large" not in json.dumps(schema)
    assert "Size" not in json.dumps(schema)
    assert "How large" not in json.dumps(options_schema(taking(list[Size])))


def test_options_named_like_words_of_the_schema_are_kept():
    def plugin(title: str = "", default: int = 3, anyOf: int = 1, properties: Inner | None = None) -> None:
        pass

    schema = options_schema(plugin)
    assert list(schema["properties"]) == ["title", "default", "anyOf", "properties"]

    class Titled(BaseModel):
        title: str
        uniqueItems: bool

    assert list(options_schema(taking(Titled))["properties"]["it"]["properties"]) == ["title", "uniqueItems"]


def test_what_the_caller_gives_is_left_out():
    schema = options_schema(torch.optim.AdamW, given=("params",))
    assert "params" not in schema["properties"]
    assert "required" not in schema
    lr = schema["properties"]["lr"]
    assert (lr["type"], lr["default"]) == ("number", 0.001)


def test_other_options_are_allowed_where_there_are_kwargs_or_no_signature():
    def plugin(lr: float, **others: Any) -> None:
        pass

    assert options_schema(plugin)["additionalProperties"] is True
    assert options_schema(torch.relu) == {"type": "object", "properties": {}, "additionalProperties": True}
    assert options_schema(torch) == {"type": "object", "properties": {}, "additionalProperties": False}


def test_a_pattern_is_explained_in_words():
    schema = options_schema(taking(Period))["properties"]["it"]
    words = {part["errorMessage"] for part in schema["anyOf"]}
    assert words == {"expected a whole number >= 0 or epochs such as '3 epochs'"}


@pytest.mark.parametrize("character", [chr(code) for code in range(128)])
def test_a_word_is_made_of_what_python_calls_a_word(character):
    import re

    assert bool(re.fullmatch(WORD, character)) == bool(re.fullmatch(r"\w", character))


@dataclass
class Listing:
    """Has a list of its own.

    Args:
        sizes: Several.
    """

    sizes: list[Size] = field(default_factory=list)


def test_a_default_that_is_made_anew_is_shown_as_what_is_made():
    assert options_schema(Listing)["properties"]["sizes"]["default"] == []
