"""A config is read whole, or refused with everything that is wrong with it."""

from __future__ import annotations

import copy
import textwrap
from pathlib import Path

import numpy as np
import pytest

from hookline.config import DEFAULT_HOOKS, Epochs, Group, Loader, Target, load_config
from hookline.config.instances import own
from hookline.errors import ConfigError, Problem

RUN = """\
run: {name: tiny}
model: {target: ./net.py:Net, width: 8}
data:
  train: {target: pkg:Points, loader: {batch_size: 4}}
optimizer: {target: torch.optim.SGD, lr: 0.1}
train: {max_iter: 100}
"""


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def load(text: str, *overrides: str):
    Path("run.yaml").write_text(textwrap.dedent(text), "utf-8")
    return load_config("run.yaml", overrides)


def refused(text: str, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(text, *overrides)
    return [str(problem) for problem in caught.value.problems]


# ---- what a config holds


def test_defaults_are_filled_in():
    config = load(RUN)
    assert (config.run.name, config.run.dir, config.run.seed) == ("tiny", "runs", 0)
    assert config.model == Target("./net.py:Net", {"width": 8})
    train = config.train
    assert (train.max_iter, train.stop_at, train.device, train.threads) == (100, None, "auto", 0)
    assert (train.precision, train.accumulate, train.clip_norm, train.max_skips) == ("fp32", 1, 0.0, 0)
    assert (train.deterministic, train.compile, train.log_period) == (False, False, 20)
    assert config.schedule is None
    assert config.trainer is None
    assert config.writers == []
    assert config.optimizer.groups == []


def test_everything_that_can_be_said_is_kept():
    config = load(
        """
        run: {name: big, dir: /runs, seed: 7}
        model: {target: a:B, options: {x: 1}}
        data:
          train: {target: a:B, split: train, loader: {batch_size: 4, drop_last: true, num_workers: 2}}
          eval:
            target: a:B
            loader: {batch_size: 8, pin_memory: true}
            metrics: {acc: {target: m:Acc, top: 5}}
          stream: {target: a:Stream}
        optimizer: {target: torch.optim.AdamW, lr: 1e-3, groups: [{match: "*.bias", weight_decay: 0}]}
        schedule: {target: hookline.schedules:Cosine, warmup_iters: 10}
        train: {max_iter: 3 epochs, stop_at: 50, precision: bf16, clip_norm: 1, compile: {mode: max-autotune}}
        trainer: {target: ./my.py:MyTrainer}
        """
    )
    assert config.model.options == {"options": {"x": 1}}
    assert config.data["train"].options == {"split": "train"}
    assert config.data["train"].loader == Loader(4, shuffle=True, drop_last=True, num_workers=2)
    assert config.data["eval"].loader == Loader(8, shuffle=False, pin_memory=True)
    assert config.data["eval"].metrics == {"acc": Target("m:Acc", {"top": 5})}
    assert config.data["stream"].loader is None
    assert config.optimizer.options == {"lr": 0.001}
    assert config.optimizer.groups == [Group(["*.bias"], {"weight_decay": 0})]
    assert config.schedule == Target("hookline.schedules:Cosine", {"warmup_iters": 10})
    assert config.train.max_iter == Epochs(3)
    assert config.train.clip_norm == 1.0
    assert isinstance(config.train.clip_norm, float)
    assert config.train.compile == {"mode": "max-autotune"}
    assert config.trainer == Target("./my.py:MyTrainer")


def test_no_weight_decay_on_norms_and_biases_is_one_line():
    groups = 'groups: [{match: ["*.bias", "*norm*"], weight_decay: 0}]'
    config = load(RUN.replace("lr: 0.1", f"lr: 0.1, {groups}"))
    assert config.optimizer.groups == [Group(["*.bias", "*norm*"], {"weight_decay": 0})]


def test_off_without_quotes_is_a_word():
    assert load(RUN.replace("100", "100, sync_check: off")).train.sync_check == "off"


def test_only_the_training_loader_shuffles_unless_told():
    loaders = "{target: a:B, loader: {batch_size: 1}}"
    told = "{target: a:B, loader: {batch_size: 1, shuffle: true}}"
    config = load(RUN.replace("data:\n", f"data:\n  eval: {loaders}\n  test: {told}\n"))
    assert {name: data.loader.shuffle for name, data in config.data.items()} == {
        "eval": False,
        "test": True,
        "train": True,
    }


def test_a_mapping_is_read_like_a_file():
    config = load_config(
        {
            "run": {"name": "tiny", "dir": Path("out")},
            "optimizer": {"target": "torch.optim.SGD", "lr": np.float64(0.5), "betas": (0.9, 0.99)},
            "train": {"max_iter": Epochs(2), "clip_norm": "1e-3"},
        }
    )
    assert config.run.dir == "out"
    assert config.optimizer.options == {"lr": 0.5, "betas": [0.9, 0.99]}
    assert type(config.optimizer.options["lr"]) is float
    assert config.train.max_iter == Epochs(2)
    assert config.train.clip_norm == 0.001
    assert config.base == Path.cwd()
    assert config.source is None
    assert config.origin("run.name") == "dict"
    assert load_config(config.to_dict()) == config
    assert list(config.to_dict()) == ["run", "optimizer", "train", "hooks", "writers"]


def test_a_mapping_is_not_changed_and_not_shared():
    source = {"run": {"name": "x"}, "optimizer": {"target": "a:B", "o": {}}, "train": {"max_iter": 1}}
    before = copy.deepcopy(source)
    config = load_config(source, ["optimizer.o.p=1", "hooks+=evaluate"])
    config.optimizer.options["o"]["p"] = 2
    assert source == before


def test_source_text_and_overrides_are_kept():
    config = load(RUN, "train.max_iter=5")
    assert config.source_text == RUN
    assert config.source == Path("run.yaml")
    assert config.overrides == ("train.max_iter=5",)
    assert config.base == Path.cwd()


# ---- hooks and writers


def names(config) -> list[str]:
    return [hook.name for hook in config.hooks]


def test_default_hooks_surround_those_of_the_config():
    assert names(load(RUN)) == list(DEFAULT_HOOKS)
    assert names(load(RUN + "hooks: [evaluate, checkpoint]")) == [
        "schedule",
        "timer",
        "writers",
        "evaluate",
        "checkpoint",
        "progress",
    ]


def test_a_default_hook_that_is_listed_keeps_its_place_and_options():
    config = load(RUN + "hooks: [progress: {period: 5}, evaluate, timer]")
    assert names(config) == ["schedule", "writers", "progress", "evaluate", "timer"]
    assert config.hooks[2].options == {"period": 5}


def test_a_default_hook_is_hooklines_own_whatever_is_installed_under_its_name():
    assert {name: own(name, "hooks") for name in DEFAULT_HOOKS} == {
        name: f"hookline:{name}" for name in DEFAULT_HOOKS
    }
    assert (own("evaluate", "hooks"), own("timer", "writers")) == ("evaluate", "timer")


def test_false_switches_a_hook_off():
    assert names(load(RUN + "hooks: [timer: false, writers: false, evaluate: false]")) == [
        "schedule",
        "progress",
    ]


def test_an_item_may_be_a_name_a_file_or_one_of_a_distribution():
    config = load(
        RUN
        + """\
hooks:
  - evaluate
  - hookline-extra:ema
  - ./my_hooks.py:HelloHook
  - other-dist:swa: {period: 3}
  - ./odd:folder/my.py:Odd
  - slow-eval: {use: evaluate, period: 1 epoch, data: test, on_error: disable}
  - checkpoint:
"""
    )
    found = {hook.name: hook for hook in config.hooks if hook.name not in DEFAULT_HOOKS}
    assert {name: hook.use for name, hook in found.items()} == {
        "evaluate": "evaluate",
        "ema": "hookline-extra:ema",
        "HelloHook": "./my_hooks.py:HelloHook",
        "swa": "other-dist:swa",
        "Odd": "./odd:folder/my.py:Odd",
        "slow-eval": "evaluate",
        "checkpoint": "checkpoint",
    }
    assert found["slow-eval"].options == {"period": "1 epoch", "data": "test"}
    assert found["slow-eval"].on_error == "disable"
    assert found["evaluate"].on_error is None
    assert found["swa"].options == {"period": 3}


def test_period_belongs_to_a_hook_but_is_reserved_for_a_writer():
    config = load(RUN + "hooks: [evaluate: {period: 5}]\nwriters: [json: {period: 5, indent: 2}]")
    hook, writer = config.hooks[3], config.writers[0]
    assert (hook.period, hook.options) == (None, {"period": 5})
    assert (writer.period, writer.options) == (5, {"indent": 2})


def test_an_option_may_be_called_name_or_options():
    config = load(RUN + "writers: [wandb: {name: first, options: 3}]")
    assert config.writers[0].name == "wandb"
    assert config.writers[0].options == {"name": "first", "options": 3}
    assert load_config(config.to_dict()).writers == config.writers


# ---- what is refused, word for word

KEYS = (
    "Options: max_iter, stop_at, time_limit, device, threads, precision, accumulate, clip_norm, max_skips, "
    "deterministic, compile, kernel, prefetch, sync_check, log_period"
)
SECTIONS = "Options: run, model, data, optimizer, schedule, train, hooks, writers, plugins, trainer"


@pytest.mark.parametrize(
    ("change", "to", "message"),
    [
        (
            "max_iter: 100",
            "max_iter: 100, log_perod: 5",
            f"train.log_perod (run.yaml:6): expected an option of train, got 'log_perod'. {KEYS}. "
            "Did you mean 'log_period'?",
        ),
        (
            "run: {name",
            "runn: 1\nrun: {name",
            f"runn (run.yaml:1): expected an option of the config, got 'runn'. {SECTIONS}. "
            "Did you mean 'run'?",
        ),
        (
            "100",
            "0",
            "train.max_iter (run.yaml:6): expected a whole number >= 1 or epochs such as '3 epochs', got 0.",
        ),
        (
            "100",
            "3 epoch of data",
            "train.max_iter (run.yaml:6): expected a whole number >= 1 or epochs such as '3 epochs', "
            "got '3 epoch of data'.",
        ),
        (
            "100",
            "100, precision: fp8",
            "train.precision (run.yaml:6): expected one of fp32, bf16, fp16, got 'fp8'.",
        ),
        (
            "100",
            "100, clip_norm: -1",
            "train.clip_norm (run.yaml:6): expected a number >= 0, got -1.",
        ),
        (
            "100",
            "100, threads: 1.0",
            "train.threads (run.yaml:6): expected a whole number >= 0, got 1.0.",
        ),
        (
            "100",
            "100, accumulate: true",
            "train.accumulate (run.yaml:6): expected a whole number >= 1, got True.",
        ),
        (
            "100",
            "100, deterministic: 'yes'",
            "train.deterministic (run.yaml:6): expected true or false, got 'yes'.",
        ),
        (
            "100",
            "100, stop_at: soon",
            "train.stop_at (run.yaml:6): expected a whole number >= 1 or null, got 'soon'.",
        ),
        (
            "100",
            "100, compile: fast",
            "train.compile (run.yaml:6): expected true or false or a mapping, got 'fast'.",
        ),
        (
            "100",
            "100, sync_check: always",
            "train.sync_check (run.yaml:6): expected one of off, warn, error, got 'always'.",
        ),
        (
            "100",
            "100, device: 0",
            "train.device (run.yaml:6): expected a string, got 0. Put it in quotes.",
        ),
        (
            "{name: tiny}",
            "{name: tiny, seed: -1}",
            "run.seed (run.yaml:1): expected a whole number >= 0 and < 4294967296, got -1.",
        ),
        (
            "{name: tiny}",
            "{name: a/b}",
            "run.name (run.yaml:1): expected a name of letters, digits, '.', '_' and '-', got 'a/b'.",
        ),
        (
            "{name: tiny}",
            "{name: 2026}",
            "run.name (run.yaml:1): expected a name of letters, digits, '.', '_' and '-', got 2026. "
            "Put it in quotes.",
        ),
        (
            "{name: tiny}",
            "",
            "run (run.yaml:1): expected a mapping such as {name: …}, got nothing.",
        ),
        (
            "train: {max_iter: 100}\n",
            "",
            "train (run.yaml): expected a mapping such as {max_iter: …}, got nothing.",
        ),
        (
            "{target: torch.optim.SGD, lr: 0.1}",
            "torch.optim.SGD",
            "optimizer (run.yaml:5): expected a mapping such as {target: …}, got 'torch.optim.SGD'.",
        ),
        (
            "target: torch.optim.SGD",
            "_target_: torch.optim.SGD",
            "optimizer.target (run.yaml:5): expected a target such as package.module:Name or "
            "./file.py:Name, got nothing.",
        ),
        (
            "torch.optim.SGD",
            "SGD",
            "optimizer.target (run.yaml:5): expected a target such as package.module:Name or "
            "./file.py:Name, got 'SGD'.",
        ),
        (
            "lr: 0.1",
            "groups: {match: x}",
            "optimizer.groups (run.yaml:5): expected a list, got {'match': 'x'}.",
        ),
        (
            "lr: 0.1",
            "groups: [{match: []}]",
            "optimizer.groups.0.match (run.yaml:5): expected a pattern of parameter names such as "
            "'*.bias', or a list of them, got [].",
        ),
        (
            "lr: 0.1",
            "groups: [x]",
            "optimizer.groups.0 (run.yaml:5): expected a mapping such as {match: …}, got 'x'.",
        ),
        (
            "batch_size: 4",
            "shuffle: true",
            "data.train.loader.batch_size (run.yaml:4): expected a whole number >= 1, got nothing.",
        ),
        (
            "batch_size: 4",
            "batch_size: 4, persistent_workers: true",
            "data.train.loader.persistent_workers (run.yaml:4): expected an option of data.train.loader, "
            "got 'persistent_workers'. Options: batch_size, shuffle, drop_last, num_workers, pin_memory. "
            "Remove it: worker processes stay from epoch to epoch.",
        ),
        (
            "batch_size: 4",
            "batch_size: 4, num_worker: 2",
            "data.train.loader.num_worker (run.yaml:4): expected an option of data.train.loader, "
            "got 'num_worker'. Options: batch_size, shuffle, drop_last, num_workers, pin_memory. "
            "Did you mean 'num_workers'?",
        ),
        (
            "  train: {target",
            "  a b: {target",
            "data.a b (run.yaml:4): expected a name of letters, digits, '_' and '-', got 'a b'.",
        ),
    ],
)
def test_a_wrong_value_is_named_with_its_rule_and_place(change, to, message):
    assert change in RUN
    assert refused(RUN.replace(change, to)) == [message]


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (
            "- checkpoint:\n    period: 500",
            "hooks (run.yaml:8): expected a name, or one name with its options such as "
            "{checkpoint: {period: 500}}, got {'checkpoint': None, 'period': 500}. "
            "Indent period further: these are options of checkpoint.",
        ),
        (
            "- {a: {}, b: {}}",
            "hooks (run.yaml:8): expected a name, or one name with its options such as "
            "{checkpoint: {period: 500}}, got {'a': {}, 'b': {}}. Write one item for each name.",
        ),
        (
            "- checkpoint: 500",
            "hooks.checkpoint (run.yaml:8): expected a mapping of options, or false to switch it off, "
            "got 500.",
        ),
        (
            "- evaluate\n  - ema\n  - evaluate: {period: 1}",
            "hooks.evaluate (run.yaml:10): expected a name that is not in use, got 'evaluate'. "
            "The first is at run.yaml:8. Give one of them a name of its own: {my-evaluate: {use: evaluate}}.",
        ),
        (
            "- ./my.py",
            "hooks (run.yaml:8): expected an instance name of letters, digits, '_' and '-', got './my.py'. "
            "Give it a name: ./my.py:Name.",
        ),
        (
            "- a.b",
            "hooks (run.yaml:8): expected an instance name of letters, digits, '_' and '-', got 'a.b'. "
            "Give it a name: {my-name: {use: a.b}}.",
        ),
        (
            "- a:b: {use: c}",
            "hooks.b (run.yaml:8): expected one thing to use, got 'c'. a:b is another. Write {b: {use: …}}.",
        ),
        (
            "- ema: {on_error: ignore}",
            "hooks.ema.on_error (run.yaml:8): expected one of raise, disable, retry or null, got 'ignore'.",
        ),
        (
            "- ema: {use: 5}",
            "hooks.ema.use (run.yaml:8): expected a plugin: its name, distribution:name or ./file.py:Name, "
            "got 5. Put it in quotes.",
        ),
    ],
)
def test_a_wrong_item_of_a_list_is_named_with_its_place(item, message):
    assert refused(f"{RUN}hooks:\n  {item}\n") == [message]


def test_hooks_that_are_no_list_are_refused_with_the_form():
    assert refused(RUN + "hooks: {ema: {}}") == [
        "hooks (run.yaml:7): expected a list, got {'ema': {}}. Write one item a line, each after '- '."
    ]
    assert refused(RUN + "writers: json") == [
        "writers (run.yaml:7): expected a list, got 'json'. Write [json]."
    ]


def test_all_problems_come_at_once():
    text = """\
    run: {nam: x}
    data: {train: {target: pkg:Points, loader: {batch_size: 0}}, eval: 5}
    optimizer: {target: 3}
    train: {precision: fp8}
    hooks: [ema, ema, 7]
    writers: [json: {period: -1}]
    extra: 1
    """
    problems = refused(text, "train.threads=-1", "nonsense")
    assert [problem.partition(" ")[0] for problem in problems] == [
        "hooks.ema",
        "hooks",
        "override",
        "run.nam",
        "run.name",
        "data.train.loader.batch_size",
        "data.eval",
        "optimizer.target",
        "train.precision",
        "train.threads",
        "train.max_iter",
        "writers.json.period",
        "extra",
    ]


def test_further_checks_add_their_problems():
    Path("run.yaml").write_text(RUN.replace("100", "0"))
    with pytest.raises(ConfigError) as caught:
        load_config("run.yaml", also=lambda config: [Problem(config.model.target, "a rule")])
    assert [problem.where for problem in caught.value.problems] == [
        "train.max_iter (run.yaml:6)",
        "./net.py:Net",
    ]
    assert load_config("run.yaml", ["train.max_iter=1"], also=lambda config: []).train.max_iter == 1


def test_one_message_holds_every_problem():
    with pytest.raises(ConfigError, match=r"^2 problems:\n  run .*\n  train "):
        load_config({"optimizer": {"target": "a:B"}})


def test_no_word_of_pydantic_reaches_the_user():
    text = " ".join(refused(RUN.replace("100", "[1]"), "train.threads=x", "train.clip_norm={}"))
    assert "pydantic" not in text
    assert "Input should" not in text


def test_an_object_in_a_mapping_is_refused():
    with pytest.raises(ConfigError, match=r"model.x.0 \(dict\): expected plain data .*, got <object"):
        load_config({"model": {"target": "a:B", "x": [object()]}})


def test_a_mapping_that_holds_itself_is_refused():
    source: dict = {"model": {"target": "a:B"}}
    source["model"]["x"] = source
    with pytest.raises(ConfigError, match="at most 100 levels"):
        load_config(source)


# ---- where a value came from


def test_the_origin_of_a_value_is_its_last_writer():
    config = load(
        RUN + "hooks:\n  - evaluate: {period: 5}\n", "train.max_iter=7", "hooks+=ema", "hooks-=timer"
    )
    assert config.origin("model.width") == "run.yaml:2"
    assert config.origin("data.train.loader.batch_size") == "run.yaml:4"
    assert config.origin("data.train.loader.shuffle") == "default"
    assert config.origin("train.max_iter") == "override 'train.max_iter=7'"
    assert config.origin("train.threads") == "default"
    assert config.origin("hooks.evaluate.period") == "run.yaml:8"
    assert config.origin("hooks.schedule") == "default"
    assert config.origin("hooks.ema") == "override 'hooks+=ema'"
    assert config.origin("hooks.timer") == "override 'hooks-=timer'"


def test_what_is_not_there_has_the_origin_of_what_it_would_be_in():
    config = load(RUN)
    assert config.origin("model.depth") == "run.yaml:2"
    assert config.origin("schedule.target") == "run.yaml"
    assert config.where("model.depth") == "model.depth (run.yaml:2)"


def test_a_file_elsewhere_is_named_as_it_was_given(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.yaml").write_text(RUN)
    assert load_config("sub/a.yaml").origin("run.name") == "sub/a.yaml:1"
    assert load_config("sub/a.yaml").base == tmp_path / "sub"
    assert load_config(tmp_path / "sub/a.yaml").origin("run.name") == f"{tmp_path}/sub/a.yaml:1"
