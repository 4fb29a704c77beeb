"""A trainer with a journal, whose run is recorded, and what becomes of it after any loss of power."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from disk_model import Crash, Recorder, Stage, crashes
from power_loss import Survey

from hookline import HookBase, checkpoint
from hookline.errors import CheckpointError
from hookline.hooks import Checkpoint
from hookline.testing import tiny_trainer
from hookline_json import JSONWriter

__all__ = ["TrainedRun", "interrupted_runs", "resumed"]

MAX_ITER = 7
PERIOD = 2


class _Reports(HookBase):
    """Tells the recording which checkpoints were reported."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def after_save(self, path: Path) -> None:
        self.recorder.mark("reported", int(path.name.removeprefix("iter_")))


class Draws(HookBase):
    """Puts a random number, so that a metric shows whether random numbers came back."""

    def after_step(self) -> None:
        self.trainer.storage.put_scalar("draw", torch.rand(()).item())


def trainer_in(run: Path, *hooks: Any, keep: int = 2, background: bool = False) -> Any:
    """Return a trainer of the run in ``run`` that saves and keeps a journal."""
    options = {"background": True} if background else {}
    saving = Checkpoint(period=PERIOD, keep=keep, **options)
    return tiny_trainer(
        Draws(), saving, *hooks, run_dir=run, writers={"json": JSONWriter()}, max_iter=MAX_ITER, log_period=2
    )


class TrainedRun:
    """A run that nobody disturbed, its recording, and what it came to."""

    def __init__(self, path: Path, background: bool = False) -> None:
        path.mkdir()
        with Recorder(path) as recorder:
            trainer = trainer_in(path, _Reports(recorder), background=background)
            trainer.train()
        self.operations, self.num_given = recorder.operations, recorder.num_given
        self.weights = _copied(trainer.model.state_dict())
        self.optimizer = _copied(trainer.optimizer.state_dict()["state"])
        self.metrics = (path / "metrics.jsonl").read_bytes()

    def difference(self, trainer: Any) -> str:
        """Return in what a trainer that has gone on to the end differs from this run, or nothing."""
        if not _same(self.weights, trainer.model.state_dict()):
            return "other weights"
        if not _same(self.optimizer, trainer.optimizer.state_dict()["state"]):
            return "another optimizer"
        if (trainer.run_dir / "metrics.jsonl").read_bytes() != self.metrics:
            return "other metrics"
        return ""


def interrupted_runs(trained: TrainedRun, stage: Path, every: int) -> Survey:
    """Return what came of runs that go on from one in ``every`` of the trees that may be there."""
    found, seen = Survey(), set()
    for crash in crashes(trained.operations, limit=3, num_given=trained.num_given, every=every):
        key = hash(tuple(sorted(crash.tree.items())))
        if key in seen:
            continue
        seen.add(key)
        with Stage(stage).showing(crash.tree) as run:
            if wrong := _difference(trained, crash, run):
                found.failures.append(wrong)
        shutil.rmtree(stage)
    found.num_states = len(seen)
    return found


def resumed(run: Path) -> Any:
    """Return the trainer that went on in ``run`` from its newest checkpoint, or from nothing, to the end."""
    trainer = trainer_in(run)
    try:
        path, _ = checkpoint.newest_valid(run / "checkpoints")
    except CheckpointError:
        pass
    else:
        trainer.load_state_dict(checkpoint.load(path))
    trainer.train()
    return trainer


def _difference(trained: TrainedRun, crash: Crash, run: Path) -> str:
    reported = [mark.value for mark in crash.marks if mark.label == "reported"]
    try:
        if reported:
            path, _ = checkpoint.newest_valid(run / "checkpoints")
            if int(path.name.removeprefix("iter_")) < reported[-1]:
                return f"{path.name} is older than that of iteration {reported[-1]}, which was reported"
        return trained.difference(resumed(run))
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def _copied(state: Any) -> Any:
    if isinstance(state, torch.Tensor):
        return state.clone()
    return {key: _copied(value) for key, value in state.items()} if isinstance(state, dict) else state


def _same(one: Any, two: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(_same(one[key], two[key]) for key in one)
    return bool(one == two)
