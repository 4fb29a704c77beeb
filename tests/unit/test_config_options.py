"""The parameters of a class or function are its options: checked, converted and described."""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, Protocol

import pytest
import torch
from pydantic import AfterValidator, BaseModel, Field

from hookline.config import (
    Config,
    Epochs,
    Group,
    Loader,
    MaxIter,
    Optimizer,
    Period,
    Run,
    Target,
    Train,
    check_options,
    describe_options,
)


class Color(enum.Enum):
    RED = "r"
    BLUE = "b"


class Tempo(enum.Enum):
    SLOW = "slow"


@dataclass
class Size:
    height: int
    width: int = 1


class Model(BaseModel):
    a: int


class Quacks(Protocol):
    def quack(self) -> None: ...


def even(value: int) -> int:
    if value % 2:
        raise ValueError("it must be even")
    return value


def options(
    whole: int = 1,
    number: float = 1.0,
    flag: bool = False,
    text: str = "",
    path: Path = Path(),
    maybe: int | None = None,
    optional: Optional[float] = None,  # noqa: UP045
    implicit: int = None,  # type: ignore[assignment]  # noqa: RUF013
    limited: Annotated[int, Field(ge=1, lt=10)] = 1,
    worded: Literal["a", "b"] = "a",
    color: Color = Color.RED,
    checked: Annotated[int, AfterValidator(even)] = 2,
    pair: tuple[float, float] = (0.0, 0.0),
    many: tuple[int, ...] = (),
    words: Sequence[str] = (),
    lazy: Iterable[int] = (),
    bare: list = [],  # noqa: B006
    unique: set[str] = frozenset(),  # type: ignore[assignment]
    table: Mapping[str, float] = {},
    either: int | str = 0,
    size: Size | None = None,
    exact: Size = Size(1),  # noqa: B008
    model: Model | None = None,
    period: Period = 0,
    length: MaxIter | None = None,
    anything: Any = None,
    plain=None,
    function: Callable[[int], int] | None = None,
    tensor: torch.Tensor | None = None,
    quacks: Quacks | None = None,
    unknown: NotImported | None = None,  # type: ignore[name-defined]  # noqa: F821
) -> None:
    pass


def check(**given: Any) -> dict[str, Any]:
    valid, problems = check_options(options, given, "w")
    assert not problems, problems
    return valid


def misfit(**given: Any) -> str:
    valid, problems = check_options(options, given, "w")
    assert valid == {}
    assert len(problems) == 1
    return str(problems[0])


@pytest.mark.parametrize(
    ("name", "value", "converted"),
    [
        ("whole", 3, 3),
        ("number", 3, 3.0),
        ("number", "1e-3", 0.001),
        ("flag", True, True),
        ("text", "5", "5"),
        ("path", "a/b", Path("a/b")),
        ("maybe", None, None),
        ("optional", "1e-3", 0.001),
        ("implicit", None, None),
        ("limited", 9, 9),
        ("worded", "b", "b"),
        ("color", "b", Color.BLUE),
        ("checked", 4, 4),
        ("pair", [1, "2e0"], (1.0, 2.0)),
        ("many", [1, 2, 3], (1, 2, 3)),
        ("words", ["a"], ["a"]),
        ("lazy", [1, 2], [1, 2]),
        ("bare", [1, "a"], [1, "a"]),
        ("unique", ["a", "a"], {"a"}),
        ("table", {"a": "1e-3"}, {"a": 0.001}),
        ("either", "5", "5"),
        ("either", 5, 5),
        ("size", {"height": 2}, Size(2)),
        ("exact", {"height": 2}, Size(2)),
        ("model", {"a": 1}, Model(a=1)),
        ("period", "2 epochs", Epochs(2)),
        ("period", 0, 0),
        ("length", "1 epoch", Epochs(1)),
        ("anything", {"a": [1]}, {"a": [1]}),
        ("plain", "1e-3", "1e-3"),
        ("quacks", 3, 3),
        ("unknown", 3, 3),
    ],
)
def test_a_value_is_converted_to_its_annotation(name, value, converted):
    found = check(**{name: value})[name]
    assert found == converted
    assert type(found) is type(converted)


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("whole", True, "a whole number, got True"),
        ("whole", 1.0, "a whole number, got 1.0"),
        ("whole", "3", "a whole number, got '3'"),
        ("number", True, "a number, got True"),
        ("number", "fast", "a number, got 'fast'"),
        ("flag", 1, "true or false, got 1"),
        ("flag", "true", "true or false, got 'true'"),
        ("text", 3, "a string, got 3. Put it in quotes"),
        ("path", 3, "a path, got 3"),
        ("maybe", "x", "a whole number or null, got 'x'"),
        ("optional", "x", "a number or null, got 'x'"),
        ("implicit", "x", "a whole number, got 'x'"),
        ("limited", 10, "a whole number >= 1 and < 10, got 10"),
        ("worded", "c", "one of a, b, got 'c'"),
        ("color", "g", "one of r, b, got 'g'"),
        ("checked", 3, "a whole number, got 3. it must be even"),
        ("pair", [1], "a list of 2 (a number, a number), got [1]"),
        ("many", [1.0], "a list (each a whole number), got [1.0]"),
        ("words", "abc", "a list (each a string), got 'abc'"),
        ("lazy", "12", "a list (each a whole number), got '12'"),
        ("bare", {}, "a list, got {}"),
        ("table", {"a": "x"}, "a mapping (each value a number), got {'a': 'x'}"),
        ("either", 2.5, "a whole number or a string, got 2.5"),
        ("size", {"heigth": 1}, "a mapping with height, width or null, got {'heigth': 1}"),
        ("model", {}, "a mapping with a or null, got {}"),
        ("period", -1, "a whole number >= 0 or epochs such as '3 epochs', got -1"),
        ("period", True, "a whole number >= 0 or epochs such as '3 epochs', got True"),
        ("length", "0 epochs", "a whole number >= 1 or epochs such as '3 epochs' or null, got '0 epochs'"),
        ("function", "f", "a function or null, got 'f'"),
        ("tensor", [1.0], "an instance of Tensor or null, got [1.0]"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_the_rule(name, value, rule):
    assert misfit(**{name: value}) == f"w.{name}: expected {rule}."


def test_a_word_that_is_nearly_right_is_answered_with_the_right_one():
    def options(
        mode: Literal["eager", "graph"] = "eager",
        maybe: Annotated[Literal["eager", "graph"], Field()] | None = None,
        tempo: Tempo = Tempo.SLOW,
    ) -> None:
        pass

    given = {"mode": "grpah", "maybe": "Graph", "tempo": "slw"}
    _, problems = check_options(options, given, "w")
    assert [str(problem) for problem in problems] == [
        "w.mode: expected one of eager, graph, got 'grpah'. Did you mean 'graph'?",
        "w.maybe: expected one of eager, graph or null, got 'Graph'. Did you mean 'graph'?",
        "w.tempo: expected one of slow, got 'slw'. Did you mean 'slow'?",
    ]


def test_null_where_it_does_not_belong_is_refused():
    assert misfit(whole=None) == "w.whole: expected a whole number, got None."


def test_defaults_are_left_to_the_function():
    assert check() == {}


def test_every_problem_is_found_with_its_origin():
    def plugin(period: int, *, patience: int = 3, data: str) -> None:
        pass

    origins = {
        "hooks.x.period": "run.yaml:3",
        "hooks.x.patiense": "override 'p'",
        "hooks.x.data": "run.yaml:2",
    }
    given = {"period": "x", "patiense": 3}
    valid, problems = check_options(plugin, given, "hooks.x", origins.__getitem__)
    assert valid == {}
    assert [str(problem) for problem in problems] == [
        "hooks.x.period (run.yaml:3): expected a whole number, got 'x'.",
        "hooks.x.patiense (override 'p'): expected an option of hooks.x, got 'patiense'. "
        "Options: period, patience, data. Did you mean 'patience'?",
        "hooks.x.data (run.yaml:2): expected a string, got nothing.",
    ]
    assert problems[2].missing


def test_what_the_caller_gives_is_no_option():
    def plugin(params: list, lr: float, parameters: int = 0) -> None:
        pass

    valid, problems = check_options(plugin, {"lr": 1, "params": []}, "optimizer", given=("params",))
    assert valid == {"lr": 1.0}
    assert [str(problem) for problem in problems] == [
        "optimizer.params: expected an option of optimizer, got 'params'. hookline passes it itself."
    ]
    assert check_options(plugin, {"lr": 1}, "optimizer", given=("params",))[1] == []


def test_kwargs_take_any_option_but_check_the_known_ones():
    def plugin(lr: float, **others: Any) -> None:
        pass

    valid, problems = check_options(plugin, {"lr": "x", "other": [1], 3: 4}, "w")
    assert valid == {"other": [1]}
    assert [problem.got for problem in problems] == ["x", 3]


def test_positional_and_variadic_parameters_are_no_options():
    def plugin(first: int, /, second: int = 1, *rest: int) -> None:
        pass

    assert [option.name for option in describe_options(plugin)] == ["second"]
    assert check_options(plugin, {"rest": 1}, "w")[1][0].exists == "Options: second"


def test_what_takes_no_options_says_so():
    class Nothing:
        pass

    for target in (Nothing, torch, lambda: 0):
        assert check_options(target, {"a": 1}, "w")[1][0].exists == "It takes no options"


def test_a_function_without_a_signature_takes_any_option():
    assert check_options(torch.relu, {"a": 1}, "w") == ({"a": 1}, [])


def test_one_annotation_that_cannot_be_read_does_not_hide_the_others():
    _, problems = check_options(options, {"unknown": object(), "whole": "x"}, "w")
    assert [problem.where for problem in problems] == ["w.whole"]


def test_annotations_of_an_inherited_init_are_read_where_it_was_written():
    class Sub(torch.utils.data.DataLoader):
        pass

    _, problems = check_options(Sub, {"batch_size": "x"}, "w", given=("dataset",))
    assert [str(problem) for problem in problems] == [
        "w.batch_size: expected a whole number or null, got 'x'."
    ]


def test_the_options_of_a_partial_are_those_of_its_function():
    assert check_options(functools.partial(options, whole=2), {"limited": 0}, "w")[1][0].where == "w.limited"


def test_adamw_is_checked_without_calling_it():
    given = {
        "lr": "1e-3",
        "betas": [0.9, 0.95],
        "foreach": None,
        "fused": "yes",
        "weight_deca": 0,
        "eps": True,
    }
    valid, problems = check_options(torch.optim.AdamW, given, "optimizer", given=("params",))
    assert valid == {"lr": 0.001, "betas": (0.9, 0.95), "foreach": None}
    assert [str(problem) for problem in problems] == [
        "optimizer.fused: expected true or false or null, got 'yes'.",
        "optimizer.weight_deca: expected an option of optimizer, got 'weight_deca'. Options: lr, betas, eps, "
        "weight_decay, amsgrad, maximize, foreach, capturable, differentiable, fused. "
        "Did you mean 'weight_decay'?",
        "optimizer.eps: expected a number, got True.",
    ]


def test_dataloader_is_checked_though_its_type_hints_cannot_be_read_together():
    given = {"batch_size": 4, "generator": 3, "timeout": "1e1", "num_workers": 1.5, "collate_fn": "x"}
    valid, problems = check_options(torch.utils.data.DataLoader, given, "data", given=("dataset",))
    assert valid == {"batch_size": 4, "generator": 3, "timeout": 10.0}
    assert [problem.where for problem in problems] == ["data.num_workers", "data.collate_fn"]


# ---- descriptions


class Base:
    """Does something.

    Args:
        width: How wide; over
            two lines.
        depth (int): How deep.
    """

    def __init__(
        self, width: Annotated[int, Field(gt=0)], depth: int | None = 3, *, rate: float = 0.5
    ) -> None:
        """Make one.

        Args:
            rate: How fast.
        """


class Derived(Base):
    """Says nothing of its options."""


def test_an_option_is_described_from_signature_and_docstring():
    assert [tuple(vars(option).values()) for option in describe_options(Derived)] == [
        ("width", "int", None, True, "How wide; over two lines.", "> 0"),
        ("depth", "int | None", 3, False, "How deep.", ""),
        ("rate", "float", 0.5, False, "How fast.", ""),
    ]


class Louder(Base):
    """Has its own words.

    Args:
        width: Its own.
    """


class Silent(Base):
    """Has not written yet what its options are.

    Args:
    """


def test_a_docstring_that_cannot_be_read_hides_no_other():
    assert [option.description for option in describe_options(Silent)] == [
        option.description for option in describe_options(Base)
    ]
    assert any(option.description for option in describe_options(Silent))


def test_the_docstring_of_a_subclass_comes_first():
    assert [option.description for option in describe_options(Louder)] == [
        "Its own.",
        "How deep.",
        "How fast.",
    ]


def test_a_model_without_docstring_has_no_description_of_pydantics():
    class Mine(BaseModel):
        a: int = 1

    assert [option.description for option in describe_options(Mine)] == [""]


def test_a_field_describes_its_option():
    def plugin(rate: Annotated[float, Field(ge=0, le=1, description="How fast.")] = 1.0) -> None:
        pass

    (option,) = describe_options(plugin)
    assert (option.description, option.limits) == ("How fast.", ">= 0 and <= 1")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("optional", "float | None"),
        ("limited", "int"),
        ("worded", "Literal['a', 'b']"),
        ("pair", "tuple[float, float]"),
        ("words", "Sequence[str]"),
        ("period", "int | Epochs"),
        ("anything", "Any"),
        ("plain", "any"),
        ("tensor", "Tensor | None"),
        ("unknown", "NotImported | None"),
    ],
)
def test_a_type_is_written_as_a_reader_writes_it(name, text):
    assert {option.name: option.type for option in describe_options(options)}[name] == text


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (Sequence[Annotated[str, Field(min_length=1)]], "Sequence[str]"),
        (dict[str, Annotated[int, Field(ge=0)] | None], "dict[str, int | None]"),
        (Callable[[Annotated[int, Field(ge=0)]], str], "Callable[[int], str]"),
        (Callable[..., Any], "Callable[..., Any]"),
        (tuple[int, ...], "tuple[int, ...]"),
        (list[Literal["a.b", 3]], "list[Literal['a.b', 3]]"),
        (list[torch.Tensor], "list[Tensor]"),
        (list, "list"),
    ],
    ids=str,
)
def test_a_type_is_written_without_the_limits_within_it(annotation, text):
    def plugin(it) -> None:
        pass

    plugin.__annotations__["it"] = annotation
    assert describe_options(plugin)[0].type == text


@pytest.mark.parametrize("section", [Config, Group, Loader, Optimizer, Run, Target, Train])
def test_every_key_of_a_section_has_a_description(section):
    given = [field.name for field in fields(section) if not field.compare]
    assert [option.name for option in describe_options(section, given) if not option.description] == []


def test_adamw_is_described():
    found = {option.name: option for option in describe_options(torch.optim.AdamW, given=("params",))}
    assert "params" not in found
    assert found["lr"].type == "float | Tensor"
    assert found["betas"].default == (0.9, 0.999)
    assert found["weight_decay"].description.startswith("weight decay coefficient")


def test_dataloader_is_described():
    found = {option.name: option for option in describe_options(torch.utils.data.DataLoader)}
    assert found["dataset"].required
    assert found["dataset"].type == "Dataset[_T_co]"
    assert (found["batch_size"].type, found["batch_size"].default) == ("int | None", 1)
    assert found["drop_last"].description.startswith("set to ``True`` to drop the last incomplete batch")


def test_the_default_that_a_factory_makes_is_the_default():
    @dataclass
    class Freeze:
        names: list[str] = field(default_factory=lambda: ["head"])
        period: int = 2

    assert [option.default for option in describe_options(Freeze)] == [["head"], 2]
    assert not any(option.required for option in describe_options(Freeze))
    assert check_options(Freeze, {}, "hooks.freeze") == ({}, [])


def test_a_default_in_epochs_becomes_a_length_and_other_defaults_stay_as_they_are():
    def fn(period: Period = "1 epoch", name: str = "epoch", size: int = "an epoch"):
        """Take all."""

    assert check_options(fn, {}, "hooks.fn") == ({"period": Epochs(1)}, [])
    assert check_options(fn, {"period": 3}, "hooks.fn") == ({"period": 3}, [])


def test_a_value_that_is_missing_and_may_be_anything_is_called_a_value():
    _, (problem,) = check_options(lambda thing: None, {}, "hooks.fn")
    assert str(problem) == "hooks.fn.thing: expected a value, got nothing."
