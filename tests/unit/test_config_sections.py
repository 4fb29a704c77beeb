"""The JSON Schema of a whole config says of each section what loading it says."""

from __future__ import annotations

import copy
from typing import Annotated, Any

import jsonschema
import pytest
from pydantic import Field

from hookline import load_config
from hookline.config import Period, check_options
from hookline.config.json_schema import options_schema
from hookline.config.sections import Offer, config_schema
from hookline.errors import ConfigError

CONFIG: dict[str, Any] = {
    "run": {"name": "a"},
    "optimizer": {"target": "my.optim:Fast", "lr": 0.1},
    "train": {"max_iter": 10},
}


def evaluate(period: Period = 0, data: str = "eval") -> None:
    pass


def notify(url: str, timeout_s: Annotated[float, Field(gt=0)] = 1.0) -> None:
    pass


def anything(**options: Any) -> None:
    pass


def fast(params: list[Any], lr: float, decay: Annotated[float, Field(ge=0)] = 0.0) -> None:
    pass


PLUGINS = {
    "hooks": [
        Offer("evaluate", options_schema(evaluate), "Measures ``data``.", "(?:hookline:)?evaluate"),
        Offer("notify", options_schema(notify)),
        Offer("my-dist:timer", options_schema(anything), pattern="my[-_.]dist:timer"),
        Offer("./a.py:Hello", options_schema(evaluate)),
    ],
    "writers": [Offer("json", options_schema(evaluate))],
}
TARGETS = {
    "optimizer": [Offer("my.optim:Fast", options_schema(fast, ["params"]), "Is fast.", r"my\.optim[.:]Fast")]
}
SCHEMA = config_schema(PLUGINS, TARGETS)


def is_valid(**sections: Any) -> bool:
    return jsonschema.Draft7Validator(SCHEMA).is_valid({**CONFIG, **sections})


def loads(**sections: Any) -> bool:
    try:
        load_config({**CONFIG, **sections})
    except ConfigError:
        return False
    return True


def test_it_is_a_schema_of_draft_7_whose_references_all_lead_somewhere():
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == "http://json-schema.org/draft-07/schema#"

    def references(part: Any) -> Any:
        if isinstance(part, dict):
            yield from [part["$ref"]] if isinstance(part.get("$ref"), str) else []
            for child in part.values():
                yield from references(child)
        for child in part if isinstance(part, list) else []:
            yield from references(child)

    found = {text.removeprefix("#/definitions/") for text in references(SCHEMA)}
    assert found == set(SCHEMA["definitions"])


def test_every_section_and_key_has_a_description():
    for name, section in SCHEMA["properties"].items():
        assert section.get("description"), name
        for key, value in section.get("properties", {}).items():
            assert value.get("description") or name == "data", f"{name}.{key}"


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"run": {"name": "a b"}},
        {"run": {"name": "ü.3-x"}},
        {"run": {"name": "-a"}},
        {"run": {}},
        {"run": {"name": "a", "seed": -1}},
        {"run": {"name": "a", "sed": 1}},
        {"run": None},
        {"trian": {}},
        {"train": {"max_iter": "3 epochs"}},
        {"train": {"max_iter": "3 epoch s"}},
        {"train": {"max_iter": 0}},
        {"train": {"max_iter": 5, "stop_at": None}},
        {"train": {"max_iter": 5, "precision": "fp8"}},
        {"train": {"max_iter": 5, "compile": {"mode": "x"}}},
        {"train": {"max_iter": 5, "compile": "x"}},
        {"train": {"max_iter": 5, "sync_check": "warn"}},
        {"train": {"max_iter": 5, "sync_check": False}},
        {"train": {"max_iter": 5, "sync_check": "on"}},
        {"train": {"max_iter": 5, "sync_check": True}},
        {"model": {"target": "./a.py:B", "width": 3}},
        {"model": {"target": "nothing"}},
        {"model": {"width": 3}},
        {"model": None},
        {"data": {"train": {"target": "a.b", "num": 3, "loader": {"batch_size": 3}}}},
        {"data": {"train": {"target": "a.b", "loader": {"batch_size": 0}}}},
        {"data": {"train": {"target": "a.b", "loader": {"batch": 3}}}},
        {"data": {"train": {"target": "a.b", "loader": None}}},
        {"data": {"my data": {"target": "a.b"}}},
        {"data": {"test_2": {"target": "a.b", "metrics": {"accuracy": {"target": "a.b", "top": 5}}}}},
        {"data": {"test": {"target": "a.b", "metrics": {"accuracy": {"top": 5}}}}},
        {"data": {"test": None}},
        {"data": None},
        {"optimizer": {"lr": 1}},
        {"optimizer": {"target": "torch.optim.SGD", "groups": [{"match": "*.bias", "lr": 3}]}},
        {"optimizer": {"target": "torch.optim.SGD", "groups": [{"match": [], "lr": 3}]}},
        {"optimizer": {"target": "torch.optim.SGD", "groups": [{"lr": 3}]}},
        {"optimizer": {"target": "torch.optim.SGD", "groups": {"match": "*"}}},
        {"schedule": {"target": "a.b", "warmup_iters": 3}},
        {"trainer": {"target": "./a.py:MyTrainer"}},
        {"plugins": {"on_change": "warn"}},
        {"plugins": {"on_change": "wran"}},
        {"hooks": None},
        {"hooks": []},
        {"hooks": "evaluate"},
        {"hooks": {"evaluate": {}}},
        {"hooks": ["evaluate"]},
        {"hooks": [3]},
        {"hooks": [{"evaluate": {"period": 3, "on_error": "disable"}}]},
        {"hooks": [{"evaluate": {"on_error": "ignore"}}]},
        {"hooks": [{"evaluate": None}]},
        {"hooks": [{"evaluate": False}]},
        {"hooks": [{"evaluate": True}]},
        {"hooks": [{"evaluate": 3}]},
        {"hooks": [{"evaluate": {}, "notify": {"url": "x"}}]},
        {"hooks": [{}]},
        {"hooks": [{"slow": {"use": "evaluate", "period": 3}}]},
        {"hooks": [{"slow": False}]},
        {"hooks": [{"my slow": {"use": "evaluate"}}]},
        {"hooks": [{"notify": {"use": "evaluate", "period": 3}}]},
        {"hooks": ["./a.py:Hello", {"./b.py:Other": {"x": 1}}]},
        {"hooks": [{"./b.py:Other": 3}]},
        {"hooks": ["hookline:evaluate"]},
        {"hooks": [{"my-dist:timer": {"x": 1}}]},
        {"hooks": ["./a.py"]},
        {"writers": ["json", {"second": {"use": "json", "period": "1 epoch"}}]},
        {"writers": [{"json": {"period": -1}}]},
    ],
    ids=str,
)
def test_a_section_is_right_in_the_schema_when_it_loads(sections):
    assert is_valid(**sections) == loads(**sections)


@pytest.mark.parametrize(
    "item",
    [
        "evalute",
        "timer",
        "json",
        "other:evaluate",
        {"evaluate": {"perid": 3}},
        {"evaluate": {"period": "fast"}},
        {"hookline:evaluate": {"perid": 3}},
        {"evalute": {"period": 3}},
        {"slow": {"use": "evalute"}},
        {"slow": {"use": "evaluate", "perid": 3}},
        {"slow": {"use": "hookline:evaluate", "perid": 3}},
        {"slow": {"period": 3}},
        {"slow": {}},
        {"notify": None},
        {"notify": {}},
        {"notify": {"url": "x", "timeout_s": 0}},
        {"notify": {"use": "evaluate", "url": "x"}},
        {"./a.py:Hello": {"perid": 3}},
        {"my": {"use": "./a.py:Hello", "perid": 3}},
        {"my_dist:timer": 3},
    ],
    ids=str,
)
def test_what_the_plugins_do_not_take_is_wrong(item):
    assert not is_valid(hooks=[item])


@pytest.mark.parametrize(
    "item",
    [
        {"notify": {"url": "x", "on_error": None}},
        {"my_dist:timer": {"period": 3}},
        "my-dist:timer",
        {"slow": {"use": "hookline:evaluate", "period": "1 epoch"}},
        {"slow": {"use": "./b.py:Other", "any": 3}},
        {"my": {"use": "./a.py:Hello", "period": 3}},
    ],
    ids=str,
)
def test_what_the_plugins_take_is_right(item):
    assert is_valid(hooks=[item])


def test_the_period_of_a_writer_is_hooklines_and_that_of_a_hook_its_own():
    assert is_valid(writers=[{"json": {"period": 3}}])
    assert not is_valid(hooks=[{"notify": {"url": "x", "period": 3}}])


@pytest.mark.parametrize("target", ["my.optim:Fast", "my.optim.Fast"])
def test_a_known_target_takes_its_options_alone_and_so_do_its_groups(target):
    groups = [{"match": "*", "decay": 0}]
    assert is_valid(optimizer={"target": target, "lr": 1, "decay": 1, "groups": groups})
    assert not is_valid(optimizer={"target": target, "lr": 1, "dacay": 1})
    assert not is_valid(optimizer={"target": target, "lr": 1, "decay": -1})
    assert not is_valid(optimizer={"target": target})
    assert not is_valid(optimizer={"target": target, "lr": 1, "groups": [{"match": "*", "dacay": 0}]})
    assert not is_valid(optimizer={"target": target, "lr": 1, "groups": [{"decay": 0}]})


def test_a_known_model_takes_its_options_alone():
    schema = config_schema({}, {"model": [Offer("my.net:Net", options_schema(fast, ["params"]))]})
    valid = jsonschema.Draft7Validator(schema).is_valid
    assert valid({**CONFIG, "model": {"target": "my.net:Net", "lr": 1}})
    assert not valid({**CONFIG, "model": {"target": "my.net:Net", "lr": 1, "groups": []}})


def test_an_unknown_target_takes_any_option():
    assert is_valid(optimizer={"target": "myXoptim:Fast", "anything": 3})


def test_names_and_options_are_on_offer_with_their_descriptions():
    name, mapping = SCHEMA["definitions"]["hooks[]"]["anyOf"]
    suggested = dict(zip(name["anyOf"][0]["enum"], name["anyOf"][0]["enumDescriptions"], strict=True))
    assert suggested["evaluate"] == "Measures ``data``."
    assert list(mapping["properties"]) == ["evaluate", "notify", "my-dist:timer", "./a.py:Hello"]
    options = SCHEMA["definitions"]["hooks.0.evaluate"]
    assert (options["title"], options["description"]) == ("evaluate", "Measures `data`.")
    assert options["properties"]["period"]["default"] == 0
    assert SCHEMA["properties"]["optimizer"]["properties"]["target"]["anyOf"][0]["enum"] == ["my.optim:Fast"]


def test_without_any_plugin_only_local_files_are_right():
    schema = config_schema({})
    valid = jsonschema.Draft7Validator(schema).is_valid
    assert valid({**CONFIG, "hooks": ["./a.py:B", {"./a.py:B": {"x": 1}}]})
    assert not valid({**CONFIG, "hooks": ["evaluate"]})


def test_no_default_is_shown_where_it_depends_on_the_data():
    loader = SCHEMA["definitions"]["data[]"]["properties"]["loader"]["properties"]
    assert "default" not in loader["shuffle"]
    assert loader["num_workers"]["default"] == 0


def test_making_a_schema_changes_nothing_that_it_is_given():
    before = copy.deepcopy((PLUGINS, TARGETS))
    config_schema(PLUGINS, TARGETS)
    assert before == (PLUGINS, TARGETS)


def test_options_that_the_schema_accepts_are_those_that_a_plugin_accepts():
    for options in (
        {"url": "x"},
        {"url": 3},
        {"url": "x", "timeout_s": "x"},
        {"timeout_s": 2},
        {"url": "x", "u": 1},
    ):
        accepted = not check_options(notify, options, "w")[1]
        assert is_valid(hooks=[{"notify": options}]) == accepted, options
