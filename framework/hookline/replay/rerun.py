"""Run the iteration of a capsule once more."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hookline import capsules, checkpoint
from hookline.capsules import Capsule
from hookline.config import Config, load_config
from hookline.data import Loader
from hookline.default import DefaultTrainer, trainer_class
from hookline.errors import CheckpointError, ConfigError, HooklineError, Problem, RunError, add_note
from hookline.events import Events, EventStorage
from hookline.nesting import map_tensors
from hookline.replay.batch import are_same, parts_of
from hookline.replay.origin import Watch, is_bad
from hookline.replay.result import Replay, verdict_of
from hookline.trainer import SimpleTrainer, load_weights

__all__ = ["replay"]

Say = Callable[[str], None]


def replay(
    place: str | Path,
    overrides: Sequence[str] = (),
    *,
    anomaly: bool = True,
    say: Say = lambda text: None,
) -> Replay:
    """Run the iteration of the capsule at ``place`` again, and return what came of it.

    The trainer is built of the run's config, without its writers and without the hooks that are observers,
    which change nothing that training depends on. Nothing is written but into a temporary folder.
    Building it imports what the config names: replay only what you would train.

    Args:
        place: A capsule, or a run, whose newest one is taken.
        overrides: What to change in the config, such as ``train.device=cpu``.
        anomaly: Watch every operation, in anomaly mode, uncompiled; otherwise run it as the run did.
        say: Told what is being done, where that takes longer.

    Raises:
        CheckpointError: If there is no such capsule, it is damaged, or of another model.
        ConfigError: If the config cannot be built any more.
        RunError: If the capsule alone is not enough.
    """
    path = capsules.find(Path(place)).resolve()
    capsule = capsules.read(path)
    found = Replay(path, capsule)
    with tempfile.TemporaryDirectory(prefix="hookline-replay-") as folder:
        config = _config(capsule, path, Path(folder), overrides)
        if capsule.world_size > 1 and capsule.why == "spike":
            raise _not_enough(path, capsule, "of a spike")
        trainer = _trainer(config, Path(folder), anomaly)
        found.precision = trainer.precision
        _Rerun(trainer, found, anomaly, say).run()
    found.verdict = verdict_of(found)
    return found


class _Rerun:
    """Brings ``trainer`` to the iteration, and runs it."""

    def __init__(self, trainer: DefaultTrainer, found: Replay, anomaly: bool, say: Say) -> None:
        self.trainer, self.found, self.capsule = trainer, found, found.capsule
        self.anomaly, self.say = anomaly, say
        self._is_trained_on = False
        self._watching = ExitStack()

    def run(self) -> None:
        trainer, capsule = self.trainer, self.capsule
        start = self._start()
        trainer.storage.attach(self._note)
        trainer.on_drawn.append(self._on_drawn)
        self._wrap_run_step()
        # That an update is skipped is what we are here for.
        setattr(trainer, "accept", lambda events: None)  # noqa: B010
        trainer.stop_at, trainer.time_limit_s = capsule.iteration + 1, None
        # Not DefaultTrainer's, which writes into the run's directory.
        SimpleTrainer.train(trainer, start, max(capsule.max_iter, trainer.stop_at))

    def _start(self) -> int:
        """Bring the model to where it was, or as near as can be; return the iteration to begin with."""
        if self.capsule.weights is not None:
            return self._from_weights(self.capsule.weights, "the capsule")
        source = _checkpoint_before(self.found.path, self.capsule)
        if self.capsule.world_size == 1:
            return self._from_checkpoint(source)
        if source is None:
            raise _not_enough(self.found.path, self.capsule, "and no checkpoint")
        weights = checkpoint.load(source, ["model"])["model"]
        return self._from_weights(weights, f"{source.name}, the nearest that there are")

    def _from_weights(self, weights: Mapping[str, Tensor], name: str) -> int:
        trainer, capsule = self.trainer, self.capsule
        load_weights(trainer.model, weights, f"replay: {self.found.path}")
        if "loss_scale" in capsule.values and trainer.kernel.state_dict():
            scale = torch.tensor(capsule.values["loss_scale"])
            trainer.kernel.load_state_dict(
                {"scale": scale, "growth_tracker": torch.zeros((), dtype=torch.int32)}
            )
        trainer.storage = EventStorage(capsule.iteration, period=trainer.log_period)
        self.found.weights_from = name
        batches = self._stored_batches()
        trainer.reset_data_loader(lambda: batches)
        return capsule.iteration

    def _from_checkpoint(self, source: Path | None) -> int:
        trainer, start = self.trainer, 0
        if source is not None:
            state = checkpoint.load(source)
            state.pop("fingerprint", None)  # What was changed for this is known.
            trainer.load_state_dict(state)
            trainer.hooks.call("after_load", trainer=trainer, path=source)
            start = trainer.iter
        num, self._is_trained_on = self.capsule.iteration - start, True
        name = source.name if source is not None else "the run's beginning"
        length = f"{num} iteration{'' if num == 1 else 's'}"
        self.found.weights_from = f"{name}, trained {length} on"
        self.say(f"training {length} from {name}")
        return start

    def _wrap_run_step(self) -> None:
        run_step = self.trainer.run_step

        def watched() -> None:
            if self.trainer.iter != self.capsule.iteration:
                run_step()
                return
            try:
                with self._watching:
                    if not self.capsule.is_drawn:
                        self._begin()
                    run_step()
            except Exception as error:
                if self.found.watch is not None:
                    add_note(error, "It was raised while each operation was looked at: try --no-anomaly.")
                raise

        # Not by a hook of our own: it would take part in the order of the others.
        setattr(self.trainer, "run_step", watched)  # noqa: B010

    def _on_drawn(self) -> None:
        if self.trainer.iter == self.capsule.iteration and self.capsule.is_drawn:
            if self._is_trained_on:
                self._compare_batches()
            self._begin()

    def _begin(self) -> None:
        """Put the random generators where they were, and watch from here on."""
        found, trainer = self.found, self.trainer
        try:
            checkpoint.restore(self.capsule.rng)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"replay: {found.path}: expected the state of random generators, got: {error}."
            ) from error
        batches = self.capsule.batches if not self.capsule.unstored else trainer.microbatches
        found.parts = parts_of(batches or trainer.microbatches, self.capsule)
        found.bad_weights = [name for name, p in trainer.model.named_parameters() if is_bad(p.detach())]
        if self.anomaly:
            found.watch = self._watching.enter_context(Watch(trainer.model))

    def _compare_batches(self) -> None:
        found, kept, drawn = self.found, self.capsule.batches, self.trainer.microbatches
        if kept is None:
            found.batch = f"drawn again; a {self.capsule.unstored} could not be stored to compare with"
            return
        if self.capsule.unstored:
            drawn = [capsules.leaves(batch) for batch in drawn]
        found.is_same_batch = are_same(kept, drawn)
        if found.is_same_batch:
            found.batch = "drawn again, the same to the bit"
            return
        found.batch = "drawn again, and not the one that was kept, which was used"
        self.trainer.microbatches = self._filled(self.trainer.microbatches)

    def _stored_batches(self) -> Sequence[Any]:
        """Return the batches that were kept, or as much as can be had of them."""
        kept = self.capsule.batches
        if kept is not None and not self.capsule.unstored:
            return kept
        drawn = self._drawn_again()
        if kept is None:
            self.found.batch = f"drawn again: a {self.capsule.unstored} could not be stored"
            return drawn
        self.found.batch = f"as kept, each in a {self.capsule.unstored} that was drawn again"
        return self._filled(drawn)

    def _drawn_again(self) -> list[Any]:
        """Return the batches of the iteration as the loader gives them now, in their containers."""
        loader, samples = self.trainer.data_loader, self.capsule.samples
        if isinstance(loader, Loader) and samples is not None:
            first = samples[0]
            loader.load_state_dict(
                {"epoch": first["epoch"], "batch": first["batch"], "num_batches": len(loader)}
            )
        elif self.capsule.batches is None:
            raise RunError(
                f"replay: {self.found.path}: expected its batch, got none: a {self.capsule.unstored} cannot "
                f"be stored, and {type(loader).__name__} does not say where it was. Make batches of dicts, "
                "lists and tensors, or load data with hookline.Loader."
            )
        drawn: list[Any] = []
        while len(drawn) < self.trainer.accumulate:
            drawn += [batch for batch, _ in zip(loader, range(self.trainer.accumulate), strict=False)]
        return drawn[: self.trainer.accumulate]

    def _filled(self, drawn: Sequence[Any]) -> list[Any]:
        """Return ``drawn`` with the tensors that were kept in place of its own."""
        kept = self.capsule.batches or ()
        if not self.capsule.unstored:
            return list(kept)
        filled = []
        for tensors, batch in zip(kept, drawn, strict=True):
            if (num := len(capsules.leaves(batch))) != len(tensors):
                raise RunError(
                    f"replay: {self.found.path}: expected batches of {len(tensors)} tensors, got {num} in a "
                    f"{type(batch).__name__}. The data is not the run's any more."
                )
            filled.append(map_tensors(batch, partial(_next_of, iter(tensors))))
        return filled

    def _note(self, events: Sequence[Events]) -> None:
        for event in events:
            if event.iteration == self.capsule.iteration:
                self.found.values = dict(event.values)


def _next_of(tensors: Iterator[Tensor], drawn: Any) -> Tensor:
    return next(tensors)


def _config(capsule: Capsule, path: Path, folder: Path, overrides: Sequence[str]) -> Config:
    """Return the config that the run had, checked."""
    if capsule.config is None:
        raise RunError(
            f"replay: {path}: expected a capsule with a config, got one of a trainer without. "
            "hookline replay needs a run of 'hookline train' or of a DefaultTrainer."
        )
    file = _run_dir(path, capsule) / "config.yaml"
    if not file.is_file() or file.read_text("utf-8") != capsule.config:
        # The run has been resumed with another one since, or the capsule was moved.
        file = folder / "config.yaml"
        file.write_text(capsule.config, "utf-8")

    def also(found: Config) -> Sequence[Problem | HooklineError]:
        try:
            return trainer_class(found).planned(found).problems
        except ConfigError as error:
            return error.problems

    return load_config(file, overrides, also=also)


def _not_enough(path: Path, capsule: Capsule, why: str) -> RunError:
    return RunError(
        f"replay: {path}: expected a capsule with weights, got one without, {why}. The run had "
        f"{capsule.world_size} processes, and one alone cannot train on as they did."
    )


def _trainer(config: Config, folder: Path, anomaly: bool) -> DefaultTrainer:
    """Return the trainer of ``config`` with nothing that only looks on or writes."""
    cls = trainer_class(config)
    observers = {
        plan.name for plan in cls.planned(config).hooks if getattr(plan.loaded.factory, "observer", False)
    }
    train = replace(config.train, stop_at=None, sync_check="off", kernel="eager")
    trainer = cls(
        replace(
            config,
            run=replace(config.run, dir=str(folder)),
            train=replace(train, compile=False) if anomaly else train,
            hooks=[spec for spec in config.hooks if spec.name not in observers],
            writers=[],
            plugins=replace(config.plugins, on_change="ignore"),
        )
    )
    trainer.run_dir = folder
    for plugin in list(trainer.hooks.get_plugins()):
        if getattr(plugin, "observer", False):
            trainer.hooks.unregister(plugin)
    return trainer


def _run_dir(path: Path, capsule: Capsule) -> Path:
    """Return the directory of the run, where ``path`` is as `capsules.folder_of` has it."""
    return path.parents[2 if capsule.rank else 1]


def _checkpoint_before(path: Path, capsule: Capsule) -> Path | None:
    """Return the checkpoint that the capsule names, or an earlier one; None where the run has none."""
    if capsule.checkpoint is None:
        return None
    named = _run_dir(path, capsule) / capsule.checkpoint
    earlier = sorted((one for one in named.parent.glob("iter_*") if one.name <= named.name), reverse=True)
    damaged = []
    for candidate in earlier:
        try:
            checkpoint.verify(candidate)
        except CheckpointError as error:
            damaged.append(str(error))
        else:
            return candidate
    exists = " ".join(damaged) or f"{named.parent} has none so early"
    raise RunError(
        f"replay: {path}: expected the checkpoint {named.name} or one before it, got none. {exists} "
        "Keep more with hooks.checkpoint.keep, or save after what is to be looked into."
    )
