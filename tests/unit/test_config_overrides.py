"""Overrides are applied left to right, and a wrong one is named."""

from __future__ import annotations

from typing import Any

import pytest

from hookline.config import Config, load_config
from hookline.errors import ConfigError

RUN: dict[str, Any] = {
    "run": {"name": "tiny"},
    "model": {"target": "a:B", "layers": [8, 8], "names": {0: "zero"}},
    "optimizer": {"target": "torch.optim.SGD", "lr": 0.1},
    "train": {"max_iter": 100},
    "hooks": [{"evaluate": {"period": 5, "data": "eval"}}, "checkpoint"],
    "writers": [{"wandb": {"mode": "online"}}, "json", {"tb": {"use": "tensorboard", "bins": 3}}],
}


def load(*overrides: str) -> Config:
    return load_config(RUN, overrides)


def refused(*overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(*overrides)
    return [str(problem) for problem in caught.value.problems]


def hooks(config: Config) -> dict[str, dict[str, Any]]:
    return {hook.name: hook.options for hook in config.hooks}


def writers(config: Config) -> dict[str, dict[str, Any]]:
    return {writer.name: writer.options for writer in config.writers}


def test_a_later_override_wins():
    assert load("train.max_iter=1", "train.max_iter=2").train.max_iter == 2
    assert load("train={max_iter: 1, threads: 3}", "train.max_iter=2").train.threads == 3
    assert load("train.threads=3", "train={max_iter: 1}").train.threads == 0


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4", 4),
        ("1e-3", 0.001),
        ("true", True),
        ("", None),
        ("[1, {a: b}]", [1, {"a": "b"}]),
        ("a=b", "a=b"),
        ("x+=1", "x+=1"),
        ("'5'", "5"),
    ],
)
def test_a_value_is_yaml(text, value):
    assert load(f"model.depth={text}").model.options["depth"] == value


def test_a_key_that_is_not_there_is_made():
    config = load("schedule.target=a:B", "schedule.warmup.iters=3", "model.names.0=nil", "model.names.1=one")
    assert config.schedule is not None
    assert config.schedule.options == {"warmup": {"iters": 3}}
    assert config.model.options["names"] == {0: "nil", "1": "one"}


def test_null_is_a_place_to_set_a_key_in():
    assert load("model.x=", "model.x.y=1").model.options["x"] == {"y": 1}


def test_null_removes_an_optional_section():
    assert load("schedule.target=a:B", "schedule=").schedule is None


def test_an_item_of_a_list_has_an_index():
    assert load("model.layers.1=16").model.options["layers"] == [8, 16]


def test_a_key_is_set_within_an_item_of_a_list():
    config = load("optimizer.groups=[{match: a, lr: 1}, {match: b, lr: 1}]", "optimizer.groups.1.lr=2")
    assert [group.options for group in config.optimizer.groups] == [{"lr": 1}, {"lr": 2}]
    assert config.origin("optimizer.groups.1.lr") == "override 'optimizer.groups.1.lr=2'"


def test_an_instance_is_found_by_its_name():
    config = load("hooks.evaluate.period=100", "writers.tb.bins=5", "hooks.progress.period=7")
    assert hooks(config)["evaluate"] == {"period": 100, "data": "eval"}
    assert writers(config)["tb"] == {"bins": 5}
    assert hooks(config)["progress"] == {"period": 7}
    assert config.hooks[-1].name == "progress"


def test_plus_appends_in_call_order():
    config = load("hooks+=early-stopping", "hooks+={ema: {decay: 0.9}}", "hooks+=[a, d:b]")
    assert list(hooks(config)) == [
        "schedule",
        "timer",
        "writers",
        "evaluate",
        "checkpoint",
        "early-stopping",
        "ema",
        "a",
        "b",
        "progress",
    ]
    assert hooks(config)["ema"] == {"decay": 0.9}


def test_plus_places_a_default_hook_or_one_that_was_removed():
    assert list(hooks(load("hooks+=timer"))) == [
        "schedule",
        "writers",
        "evaluate",
        "checkpoint",
        "timer",
        "progress",
    ]
    assert hooks(load("hooks-=evaluate", "hooks+=evaluate"))["evaluate"] == {}


def test_minus_removes():
    assert list(hooks(load("hooks-=timer", "hooks-=[evaluate, progress]"))) == [
        "schedule",
        "writers",
        "checkpoint",
    ]
    assert list(writers(load("writers-=json"))) == ["wandb", "tb"]


def test_false_removes_too():
    assert "timer" not in hooks(load("hooks.timer=false"))


def test_a_new_list_keeps_the_options_of_those_that_stay():
    config = load("writers.wandb.mode=offline", "writers=[json, tb, wandb, {csv: {sep: ;}}]")
    assert writers(config) == {
        "json": {},
        "tb": {"bins": 3},
        "wandb": {"mode": "offline"},
        "csv": {"sep": ";"},
    }
    assert config.writers[1].use == "tensorboard"
    assert writers(load("writers=[{wandb: {name: x}}]")) == {"wandb": {"name": "x"}}


def test_a_new_list_of_hooks_keeps_the_default_ones():
    config = load("hooks.progress.period=3", "hooks=[checkpoint, progress, ema]")
    assert list(hooks(config)) == ["schedule", "timer", "writers", "checkpoint", "progress", "ema"]
    assert hooks(config)["progress"] == {"period": 3}
    assert list(hooks(load("hooks-=timer", "hooks=[]"))) == ["schedule", "timer", "writers", "progress"]


def test_options_that_are_nonsense_do_not_stop_the_other_overrides():
    assert refused("hooks.evaluate=5", "hooks=[evaluate, ema]", "hooks.ema=3") == [
        "hooks.ema (override 'hooks.ema=3'): expected a mapping of options, or false to switch it off, got 3."
    ]


def test_no_options_is_an_empty_mapping():
    assert hooks(load("hooks.evaluate="))["evaluate"] == {}


def test_each_override_is_the_origin_of_what_it_set():
    config = load("model.x={y: 1}", "writers=[json]", "hooks+={ema: {decay: 0.9}}")
    assert config.origin("model.x.y") == "override 'model.x={y: 1}'"
    assert config.origin("writers.json") == "override 'writers=[json]'"
    assert config.origin("hooks.ema.decay") == "override 'hooks+={ema: {decay: 0.9}}'"
    assert config.overrides == ("model.x={y: 1}", "writers=[json]", "hooks+={ema: {decay: 0.9}}")


FORM = "expected KEY=VALUE, hooks+=ITEM or hooks-=NAME, got"
ENABLED = "Enabled: schedule, timer, writers, progress, evaluate, checkpoint"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("max_iter", f"override 'max_iter': {FORM} 'max_iter'. An example is train.max_iter=500."),
        ("--epochs 3", f"override '--epochs 3': {FORM} '--epochs 3'. An example is train.max_iter=500."),
        ("train..x=3", f"override 'train..x=3': {FORM} 'train..x=3'. An example is train.max_iter=500."),
        ("a = 3", f"override 'a = 3': {FORM} 'a = 3'. An example is train.max_iter=500."),
        ("=3", f"override '=3': {FORM} '=3'. An example is train.max_iter=500."),
        (
            "run.name=[1",
            "override 'run.name=[1': expected valid YAML, got '[1'. "
            "YAML says: expected ',' or ']', but got '<stream end>'.",
        ),
        (
            "model.x=!!python/name:os.system ''",
            "override \"model.x=!!python/name:os.system ''\": expected plain YAML, "
            "got '!!python/name:os.system'. "
            "Remove the tag: a config holds plain data, and names code with `target`.",
        ),
        (
            "model.layers+=3",
            "override 'model.layers+=3': expected hooks or writers before +=, got 'model.layers'. "
            "Write model.layers=VALUE.",
        ),
        (
            "train-=max_iter",
            "override 'train-=max_iter': expected hooks or writers before -=, got 'train'. "
            "Write train=VALUE.",
        ),
        (
            "hooks.evalute.period=3",
            "hooks.evalute (override 'hooks.evalute.period=3'): expected an enabled instance of hooks, "
            f"got 'evalute'. {ENABLED}. Did you mean 'evaluate'?",
        ),
        (
            "hooks.ema.period=3",
            "hooks.ema (override 'hooks.ema.period=3'): expected an enabled instance of hooks, "
            f"got 'ema'. {ENABLED}. Enable it first with hooks+=ema.",
        ),
        (
            "hooks-=ema",
            "hooks.ema (override 'hooks-=ema'): expected an enabled instance of hooks, "
            f"got 'ema'. {ENABLED}. There is nothing to remove.",
        ),
        ("hooks-=", "hooks (override 'hooks-='): expected a name, or a list of names, to remove, got None."),
        (
            "writers-=[json, {tb: {}}]",
            "writers (override 'writers-=[json, {tb: {}}]'): expected a name, or a list of names, to remove, "
            "got {'tb': {}}.",
        ),
        (
            "hooks+=checkpoint",
            "hooks.checkpoint (override 'hooks+=checkpoint'): expected a name that is not in use, "
            "got 'checkpoint'. The first is at dict. "
            "Give one of them a name of its own: {my-checkpoint: {use: checkpoint}}.",
        ),
        (
            "writers=json",
            "writers (override 'writers=json'): expected a list, got 'json'. Write [json].",
        ),
        (
            "writers=[json, 3]",
            "writers (override 'writers=[json, 3]'): expected a name, or one name with its options such as "
            "{checkpoint: {period: 500}}, got 3.",
        ),
        (
            "train.max_iter.x=1",
            "train.max_iter (override 'train.max_iter.x=1'): expected a mapping to set 'x' in, got 100. "
            "It is from dict.",
        ),
        (
            "model.layers.2=1",
            "model.layers (override 'model.layers.2=1'): expected an index below 2, the length of the list, "
            "got '2'.",
        ),
        (
            "model.layers.-1=1",
            "model.layers (override 'model.layers.-1=1'): expected an index below 2, the length of the list, "
            "got '-1'.",
        ),
        (
            "run.seeed=1",
            "run.seeed (override 'run.seeed=1'): expected an option of run, got 'seeed'. "
            "Options: name, dir, seed. Did you mean 'seed'?",
        ),
        (
            "trains.max_iter=1",
            "trains (override 'trains.max_iter=1'): expected an option of the config, got 'trains'. "
            "Options: run, model, data, optimizer, schedule, train, hooks, writers, plugins, trainer. "
            "Did you mean 'train'?",
        ),
        (
            "train.max_iter=soon",
            "train.max_iter (override 'train.max_iter=soon'): expected a whole number >= 1 or epochs such as "
            "'3 epochs', got 'soon'.",
        ),
    ],
)
def test_a_wrong_override_is_named(override, message):
    assert refused(override) == [message]


def test_an_instance_that_was_removed_cannot_be_set():
    assert "got 'evaluate'" in refused("hooks-=evaluate", "hooks.evaluate.period=3")[0]


def test_all_wrong_overrides_come_at_once():
    assert len(refused("a", "hooks-=ema", "train.max_iter=x", "b")) == 4
