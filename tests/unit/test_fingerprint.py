"""What is different since a checkpoint, in one line each, and whether it matters."""

from __future__ import annotations

import copy
import logging

import pytest
import torch

from hookline import CheckpointError, DefaultTrainer, load_config
from hookline.fingerprint import differences, record, tell

CONFIG = {
    "run": {"name": "line"},
    "model": {"target": "./line.py:Line", "width": 1},
    "data": {
        "train": {"target": "./line.py:points", "loader": {"batch_size": 8}},
        "eval": {"target": "./line.py:points", "loader": {"batch_size": 8}},
    },
    "optimizer": {"target": "torch.optim.AdamW", "lr": 0.05},
    "schedule": {"target": "hookline.schedules:Cosine"},
    "train": {"max_iter": 12},
    "hooks": ["checkpoint"],
    "writers": ["json"],
}


def config(*overrides):
    return load_config(copy.deepcopy(CONFIG), overrides)


def made(*overrides, **facts):
    found = record(config(*overrides), DefaultTrainer, torch.device("cpu"))
    found["facts"] |= facts
    return found


SAVED = made()

OF_CONFIG = {
    "optimizer.lr=0.5": ("info", "optimizer.lr: 0.05 → 0.5: from here on"),
    "optimizer.weight_decay=0.1": ("info", "optimizer.weight_decay: not set → 0.1: from here on"),
    "schedule.warmup_iters=3": ("info", "schedule.warmup_iters: not set → 3: from here on"),
    "train.max_iter=20": ("info", "train.max_iter: 12 → 20: a schedule of hookline follows"),
    "train.clip_norm=1": ("info", "train.clip_norm: 0.0 → 1.0: from here on"),
    "run.seed=3": ("warning", "run.seed: 0 → 3: no effect, as a resumed run keeps its random numbers"),
    "model.target=./line.py:Other": ("error", "model.target: line.py:Line → line.py:Other"),
    "model.width=2": ("warning", "model.width: 1 → 2: another model from here on"),
    "optimizer.target=torch.optim.SGD": (
        "warning",
        "optimizer.target: torch.optim.AdamW → torch.optim.SGD: another optimizer from here on",
    ),
    "train.accumulate=2": ("warning", "train.accumulate: 1 → 2: each iteration sees another number"),
    "train.precision=bf16": ("warning", "train.precision: fp32 → bf16: other numbers from here on"),
    "train.kernel=graph": ("warning", "train.kernel: eager → graph: the numbers may differ in the last"),
    "data.train.loader.batch_size=4": ("warning", "data.train.loader.batch_size: 8 → 4: other batches"),
    "data.train.target=./line.py:others": ("warning", "data.train.target: line.py:points → line.py:others"),
    "data.train.loader.num_workers=2": (
        "warning",
        "data.train.loader.num_workers: 0 → 2: datasets draw random numbers otherwise in workers",
    ),
    "data.eval.loader.batch_size=4": ("warning", "data.eval.loader.batch_size: 8 → 4: evaluations measure"),
}
OF_NO_CONCERN = [
    "run.dir=/elsewhere",
    "train.stop_at=5",
    "train.log_period=3",
    "train.prefetch=false",
    "train.sync_check=warn",
    "data.train.loader.pin_memory=true",
    "data.eval.loader.num_workers=2",
    "hooks+=evaluate",  # which the plugin lock tells
    "writers=[]",
]


@pytest.mark.parametrize("override", OF_CONFIG)
def test_a_changed_config_is_told_with_what_it_means(override):
    (found,) = differences(SAVED, made(override))
    level, text = OF_CONFIG[override]
    assert (found.level, found.key) == (level, override.partition("=")[0])
    assert found.text.startswith(text)


@pytest.mark.parametrize("override", OF_NO_CONCERN)
def test_what_changes_no_number_is_not_told(override):
    assert differences(SAVED, made(override)) == []


def test_more_workers_change_no_batch():
    saved, now = made("data.train.loader.num_workers=1"), made("data.train.loader.num_workers=4")
    assert differences(saved, now) == []


def test_a_file_that_was_moved_with_its_folder_is_the_same():
    assert differences(SAVED, made("model.target=/else/where/line.py:Line")) == []


def test_a_value_that_is_not_a_number_is_equal_to_itself():
    saved, now = made("model.fill=.nan"), made("model.fill=.nan")
    assert differences(saved, now) == []


@pytest.mark.parametrize(
    ("fact", "was", "text"),
    [
        ("torch", "2.6.0", f"torch: 2.6.0 → {torch.__version__}: the numbers may differ in the last digits"),
        ("threads", "64", "threads: 64 → 1: the numbers may"),
        ("device", "cuda (H200)", f"device: cuda (H200) → {SAVED['facts']['device']}: the numbers may"),
        ("trainer", "Mine", "trainer: Mine → DefaultTrainer: another trainer"),
        ("MKL_CBWR", "AVX2", "MKL_CBWR: AVX2 → not set: the numbers may"),
    ],
)
def test_another_environment_is_told(fact, was, text):
    (found,) = differences(made(**{fact: was}), SAVED)
    assert found.level == "warning"
    assert found.text.startswith(text)


def test_what_is_set_in_torch_is_part_of_it():
    try:
        torch.set_float32_matmul_precision("high")
        (found,) = differences(SAVED, made())
    finally:
        torch.set_float32_matmul_precision("highest")
    assert found.text.startswith("matmul precision: highest → high: the numbers may")


def test_an_object_of_a_config_in_python_is_told_by_its_type():
    spec = config()
    spec.model.options["activation"] = torch.nn.ReLU()
    found = record(spec, DefaultTrainer, torch.device("cpu"))
    assert found["config"]["model"]["activation"] == "ReLU"


def test_the_same_says_nothing(caplog):
    with caplog.at_level(logging.INFO, "hookline"):
        tell(SAVED, made(), config())
    assert caplog.records == []


def test_each_difference_is_one_line_of_its_level(caplog):
    with caplog.at_level(logging.INFO, "hookline"):
        tell(SAVED, made("optimizer.lr=0.5", "run.seed=3"), config())
    assert [(record.levelname, record.getMessage().partition(":")[0]) for record in caplog.records] == [
        ("WARNING", "run.seed"),
        ("INFO", "optimizer.lr"),
    ]


def test_another_model_is_refused_with_two_ways_out(caplog):
    now = made("model.target=./line.py:Other")
    with pytest.raises(CheckpointError) as refused:
        tell(SAVED, now, config("model.target=./line.py:Other"))
    assert str(refused.value) == (
        "model.target (override 'model.target=./line.py:Other'): expected what the run was saved with, got "
        "another: model.target: line.py:Line → line.py:Other. To start a run of its own from the weights, use "
        "--weights instead of --resume. If it is the same under another name, add plugins.on_change=warn."
    )
    assert caplog.records == []


@pytest.mark.parametrize("policy", ["warn", "ignore"])
def test_another_model_is_only_told_to_who_asks_for_that(policy, caplog):
    tell(SAVED, made("model.target=./line.py:Other"), config(f"plugins.on_change={policy}"))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
