"""A config is written so that it is read back as it was, and shown with the origin of every value."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from hookline.config import load_config, render, resolve_target, to_yaml
from hookline.config.render import to_text
from hookline.config.source import read_yaml
from hookline.config.tree import plain

RUN = """\
run: {name: tiny}
model: {target: ./net.py:Net, widths: [8, 16], note: "a # b\\nc: d"}
data:
  train: {target: ./net.py:Points, loader: {batch_size: 4}}
  eval: {target: pkg:Points, split: eval, metrics: {acc: {target: ./net.py:acc}}}
optimizer:
  target: torch.optim.SGD
  lr: 1e-3
  groups: [{match: "*.bias", weight_decay: 0}]
schedule: {target: ./net.py:schedule}
train: {max_iter: 3 epochs}
hooks:
  - evaluate: {period: 1 epoch}
  - slow: {use: evaluate, on_error: disable}
  - ./my_hooks.py:HelloHook
  - dist:ema: {decay: 0.9}
  - timer: false
writers: [json, tb: {use: tensorboard, period: 2 epochs}]
trainer: {target: ./net.py:Trainer}
"""


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(RUN)
    return load_config("run.yaml", ["train.threads=1", "hooks+=ema2", "model.widths.1=32"])


SHOWN = """\
run:
  name: tiny                  # run.yaml:1
  dir: runs                   # default
  seed: 0                     # default
model:
  target: ./net.py:Net        # run.yaml:2
  widths: [8, 32]             # override 'model.widths.1=32'
  note: "a # b\\nc: d"         # run.yaml:2
data:
  train:
    target: ./net.py:Points   # run.yaml:4
    loader:
      batch_size: 4           # run.yaml:4
      shuffle: true           # default
      drop_last: false        # default
      num_workers: 0          # default
      pin_memory: false       # default
  eval:
    target: pkg:Points        # run.yaml:5
    split: eval               # run.yaml:5
    metrics:
      acc:
        target: ./net.py:acc  # run.yaml:5
optimizer:
  target: torch.optim.SGD     # run.yaml:7
  lr: 0.001                   # run.yaml:8
  groups:
    - match:
        - '*.bias'            # run.yaml:9
      weight_decay: 0         # run.yaml:9
schedule:
  target: ./net.py:schedule   # run.yaml:10
train:
  max_iter: 3 epochs          # run.yaml:11
  device: auto                # default
  threads: 1                  # override 'train.threads=1'
  precision: fp32             # default
  accumulate: 1               # default
  clip_norm: 0.0              # default
  max_skips: 0                # default
  deterministic: false        # default
  compile: false              # default
  kernel: eager               # default
  prefetch: true              # default
  sync_check: 'off'           # default
  log_period: 20              # default
hooks:
  - timer: false              # run.yaml:17
  - schedule                  # default
  - writers                   # default
  - evaluate:
      period: 1 epoch         # run.yaml:13
  - slow:
      use: evaluate           # run.yaml:14
      on_error: disable       # run.yaml:14
  - ./my_hooks.py:HelloHook   # run.yaml:15
  - ema:
      use: dist:ema           # run.yaml:16
      decay: 0.9              # run.yaml:16
  - ema2                      # override 'hooks+=ema2'
  - progress                  # default
writers:
  - json                      # run.yaml:18
  - tb:
      use: tensorboard        # run.yaml:18
      period: 2 epochs        # run.yaml:18
trainer:
  target: ./net.py:Trainer    # run.yaml:19
"""


def test_every_value_is_shown_with_its_origin(config):
    assert render(config) == SHOWN


def test_what_is_shown_is_the_config(config):
    Path("shown.yaml").write_text(render(config))
    assert load_config("shown.yaml") == config


def test_a_long_line_does_not_push_the_comments_of_the_others():
    source = {
        "run": {"name": "x"},
        "optimizer": {"target": "a:B", "note": "x" * 100},
        "train": {"max_iter": 1},
    }
    lines = render(load_config(source)).splitlines()
    assert f"  note: {'x' * 100}  # dict" in lines
    assert "  name: x               # dict" in lines


def test_a_config_is_read_back_from_its_dict_and_its_yaml(config, tmp_path_factory):
    again = load_config(config.to_dict())
    assert again.to_dict() == config.to_dict()
    elsewhere = tmp_path_factory.mktemp("run") / "config.yaml"
    elsewhere.write_text(to_yaml(config))
    again = load_config(elsewhere)
    assert again.to_dict() == config.to_dict()
    assert [hook.name for hook in again.hooks] == [hook.name for hook in config.hooks]
    assert to_yaml(again) == to_yaml(config)


def test_files_of_a_written_config_are_found_from_anywhere(config, tmp_path, tmp_path_factory):
    (tmp_path / "net.py").write_text("class Net: pass")
    elsewhere = tmp_path_factory.mktemp("run") / "config.yaml"
    elsewhere.write_text(to_yaml(config))
    again = load_config(elsewhere)
    targets = [
        again.model.target,
        again.data["train"].target,
        again.data["eval"].metrics["acc"].target,
        again.schedule.target,
        again.trainer.target,
        next(hook.use for hook in again.hooks if hook.name == "HelloHook"),
    ]
    assert [target.rpartition(":")[0] for target in targets] == [
        *[str(tmp_path / "net.py")] * 5,
        str(tmp_path / "my_hooks.py"),
    ]
    assert again.data["eval"].target == "pkg:Points"
    net = resolve_target(again.model.target, again.base, "model.target")
    assert net is resolve_target("./net.py:Net", config.base, "model.target")


@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        "1e-3",
        "12",
        "0x1f",
        "1:30",
        "no",
        "null",
        "~",
        "2026-01-01",
        "a: b",
        "a #b",
        "- a",
        "*x",
        "&x",
        "!x",
        "<<",
        "a\n",
        "a\n\nb",
        "\n",
        "\ta",
        "é ✓ 😀",
        "\u2028",
        "\x85",
        "\x00",
        "'",
        '"',
        "x" * 1000,
        "word " * 100,
        1e-5,
        1e22,
        float("inf"),
        -0.0,
        10**20,
        True,
        None,
        [],
        {},
        [[]],
        [1, [2.5, {"a": None}]],
        {"no": 1, 3: 2, "3": 1, "a b": {"c": []}, "1e-3": 1, 0.5: 1},
        {"k" * 200: 1},
    ],
)
def test_any_value_is_written_as_it_is_read(value):
    text = to_text({"x": value})
    assert plain(read_yaml(text, str, "0")) == {"x": value}
    assert str(plain(read_yaml(text, str, "0"))) == str({"x": value})
    source = {"run": {"name": "x"}, "optimizer": {"target": "a:B", "x": value}, "train": {"max_iter": 1}}
    shown = render(load_config(source))
    assert plain(read_yaml(shown, str, "0"))["optimizer"]["x"] == value


def test_other_readers_of_yaml_read_the_same(config):
    assert yaml.safe_load(to_yaml(config)) == config.to_dict()


def test_importing_the_config_imports_neither_torch_nor_pydantic():
    code = "import sys, hookline.config; print({'torch', 'pydantic', 'docstring_parser'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "set()\n"
