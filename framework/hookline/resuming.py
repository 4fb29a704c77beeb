"""Which run, and which of its checkpoints, a person means who wants to go on."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hookline import capsules, checkpoint, runs
from hookline.config import Config
from hookline.errors import CheckpointError, Problem, RunError
from hookline.hooks import Checkpoint

__all__ = ["AUTO", "to_resume"]

AUTO = "auto"

_log = logging.getLogger(__name__)


def to_resume(spec: str, config: Config, hooks: Iterable[Any]) -> tuple[Path | None, Path | None]:
    """Return the run directory that ``spec`` means, and the checkpoint in it to go on from.

    Only ``auto`` may mean nothing: no directory where a new run is to begin, no checkpoint where there is
    none yet.

    Args:
        spec: A run, a checkpoint in one, ``latest`` or ``auto``.
        config: Of the run.
        hooks: Its plugins.

    Raises:
        RunError: If there is no such run, or another process trains in that of ``auto``.
        CheckpointError: If it has no undamaged checkpoint, or what is named is a damaged one or a capsule.
    """
    parent, name = Path(config.run.dir), config.run.name
    if spec != AUTO:
        found = runs.resumable(spec, parent, name)
        if capsules.is_capsule(Path(spec)):
            fix = f"Name the run instead; 'hookline replay {spec}' looks into the capsule"
            problem = Problem(f"resume: {spec}", "a run or a checkpoint", "a capsule", fix=fix)
            raise CheckpointError(str(problem))
        return found.path, checkpoint.resolve(found.path if spec == runs.LATEST else Path(spec))
    for hook in hooks:
        _require_inside(hook, config)
    unfinished = runs.unfinished(parent, name)
    if unfinished is None:
        _log.info("No run of %r to resume in %s: this is a new one.", name, parent)
        return None, None
    if not unfinished.has_checkpoints:
        _log.info("%s has no checkpoint yet: it begins again.", unfinished.path)
        return unfinished.path, None
    return unfinished.path, checkpoint.resolve(unfinished.path)


def _require_inside(hook: Any, config: Config) -> None:
    """Check that a hook that saves does it where the run will be looked for."""
    if isinstance(hook, Checkpoint) and hook.dir is not None:
        where = config.where(f"hooks.{hook.name}.dir")
        fix = "Leave it out, or name the checkpoint to resume"
        raise RunError(
            str(Problem(where, "no other folder than the run's with --resume auto", hook.dir, fix=fix))
        )
