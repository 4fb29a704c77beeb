"""Every built-in hook keeps what hookline asks of everybody's."""

from __future__ import annotations

from importlib.metadata import entry_points

import pytest
import torch

from hookline.schedules import Cosine
from hookline.testing import MemoryWriter, assert_plugin_conforms, tiny_trainer


def put_weight(trainer):
    """Put something that depends on the run; what the hook ``callback`` is given."""
    trainer.storage.put_scalar("weight", trainer.model.layers[0].weight.mean())


def with_writers(**options):
    trainer = tiny_trainer(**options)
    trainer.writers = {"memory": MemoryWriter(), "other": MemoryWriter(position=False)}
    return trainer


def with_cosine(**options):
    trainer = tiny_trainer(**options)
    trainer.schedule = Cosine(warmup_iters=3)
    return trainer


def with_torch_scheduler(**options):
    trainer = tiny_trainer(**options)
    trainer.schedule = torch.optim.lr_scheduler.StepLR(trainer.optimizer, 2, 0.5)
    return trainer


CASES = {
    "best-checkpoint": ({"metric": "eval/total_loss"}, {}),
    "callback": ({"after_step": put_weight}, {}),
    "capsule": ({"spike": 1.05, "window": 9, "keep": 3}, {}),
    "checkpoint": ({"period": 3, "keep": 2}, {}),
    "early-stopping": ({"patience": 2, "min_delta": 0.01}, {}),
    "evaluate": ({"period": 2, "data": "eval"}, {}),
    "memory": ({"period": "1 epoch"}, {}),
    "profiler": ({"start": 2, "num_iters": 2}, {}),
    "progress": ({"period": 3}, {}),
    "schedule": ({}, {"trainer": with_cosine}),
    "schedule of torch": ({}, {"trainer": with_torch_scheduler}),
    "timer": ({"warmup_iters": 1}, {}),
    "writers": ({"timeout_s": 5.0}, {"trainer": with_writers}),
}
POINTS = {
    point.name: point for point in entry_points(group="hookline.hooks") if point.dist.name == "hookline"
}


def test_no_built_in_hook_is_left_out():
    assert {case.partition(" ")[0] for case in CASES} == set(POINTS)


@pytest.mark.parametrize("case", CASES)
def test_every_built_in_hook_conforms(case):
    options, arguments = CASES[case]
    assert_plugin_conforms(POINTS[case.partition(" ")[0]].load(), options, **arguments)
