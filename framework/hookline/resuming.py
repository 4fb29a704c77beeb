"""Which run, and which of its checkpoints, a person means who wants to go on."""

from __future__ import annotations

import json
import logging
import os
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from hookline import capsules, checkpoint, runs
from hookline.config import Config
from hookline.errors import CheckpointError, Problem, RunError
from hookline.processes import seconds_since_launch
from hookline.rundir import RunDir

__all__ = ["AUTO", "Resumable", "to_resume"]

AUTO = "auto"

_log = logging.getLogger(__name__)


class Resumable(NamedTuple):
    """What there is to go on with.

    Attributes:
        run: The run's directory; None where a new run is to begin.
        checkpoint: That to go on from; None where the run begins with iteration 0.
        is_done: Whether the run has come to its end, and this start has nothing to do.
        generation: How often the run had been held before its checkpoint was chosen.
    """

    run: Path | None = None
    checkpoint: Path | None = None
    is_done: bool = False
    generation: int = 0


def to_resume(spec: str, config: Config) -> Resumable:
    """Return the run that ``spec`` means, and the checkpoint in it to go on from.

    Only ``auto`` may mean no run, one without a checkpoint or one that is done.

    Args:
        spec: A run, a checkpoint in one, ``latest`` or ``auto``.
        config: Of the run.

    Raises:
        RunError: If there is no such run, or another process trains in that of ``auto``, or its checkpoints
            are not where they were.
        CheckpointError: If it has no undamaged checkpoint, or what is named is a damaged one or a capsule.
    """
    parent, name = Path(config.run.dir), config.run.name
    if spec == AUTO:
        return _found_alone(parent, name)
    found = runs.resumable(spec, parent, name)
    if capsules.is_capsule(Path(spec)):
        fix = f"Name the run instead; 'hookline replay {spec}' looks into the capsule"
        problem = Problem(f"resume: {spec}", "a run or a checkpoint", "a capsule", fix=fix)
        raise CheckpointError(str(problem))
    return _chosen(found, found.path if spec == runs.LATEST else Path(spec))


def _chosen(run: RunDir, place: Path) -> Resumable:
    """Return ``run`` with the checkpoint at ``place``."""
    generation = run.generation  # first: whoever holds the run from here on may delete what is chosen
    return Resumable(run.path, checkpoint.resolve(place), generation=generation)


def _found_alone(parent: Path, name: str) -> Resumable:
    """Return what ``auto`` means."""
    last = runs.newest(parent, name)
    if last is not None and last.is_complete and _is_done_by_this_job(last):
        _log.info("%s, which this job trained, is %s: nothing is left to do.", last.path, _how_far(last))
        path = checkpoint.resolve(last.path) if last.has_checkpoints else None
        return Resumable(last.path, path, is_done=True, generation=last.generation)
    unfinished = runs.unfinished(parent, name)
    if unfinished is not None:
        generation = unfinished.generation
        if unfinished.has_checkpoints:
            return _chosen(unfinished, unfinished.path)
        _check_saved_nothing(unfinished)
        _log.info("%s has no checkpoint yet: it begins again.", unfinished.path)
        return Resumable(unfinished.path, generation=generation)
    if last is None:
        _log.info("No run of %r to resume in %s: this is a new one.", name, parent)
    else:
        more = "" if last.status.get("state") == "stopped" else " and a higher train.max_iter"
        said = "%s is %s: this is a new run. To train that one further: --resume latest%s."
        _log.info(said, last.path, _how_far(last), more)
    return Resumable()


def _how_far(run: RunDir) -> str:
    return f"{run.status.get('state')} at iteration {run.status.get('iteration')}"


def _is_done_by_this_job(run: RunDir) -> bool:
    """Return whether this is a restart, by SLURM or torchrun, of the job that brought ``run`` to its end."""
    if _is_restarted("SLURM") and run.status.get("job") == os.environ.get("SLURM_JOB_ID"):
        return True
    if not _is_restarted("TORCHELASTIC"):
        return False
    launched_s = time.time() - (seconds_since_launch() or time.time())  # unknown: long ago
    with suppress(KeyError, TypeError, ValueError):
        return datetime.fromisoformat(run.status["time"]).timestamp() + 1 > launched_s  # it has no fractions
    return False


def _is_restarted(by: str) -> bool:
    return os.environ.get(f"{by}_RESTART_COUNT", "0") not in ("", "0")


def _check_saved_nothing(run: RunDir) -> None:
    """Check that a run in which no checkpoint is found never had one: its files would be cut for nothing."""
    place, state, iteration = run.checkpoints, run.status.get("state"), run.status.get("iteration")
    # A run that is under way says where it began; another than 0 it had from a checkpoint.
    had_some = state == "running" or (_saves(run) and (state == "paused" or not place.exists()))
    if os.path.lexists(place) and not place.exists():
        got = f"a link to {os.path.realpath(place)}, where nothing is"
    elif had_some and isinstance(iteration, int) and iteration > 0:
        got = "an empty folder" if place.exists() else "nothing there"
    else:
        return
    fix = "Put them back, or start a run of its own with another run.name"
    raise RunError(str(Problem(str(place), "the checkpoints of an unfinished run", got, fix=fix)))


def _saves(run: RunDir) -> bool:
    """Return whether a run had the hook that saves."""
    with suppress(OSError, ValueError, LookupError, TypeError, RecursionError):
        hooks = json.loads((run.path / "plugins.json").read_text(encoding="utf-8"))["hooks"]
        return any(hook["use"] in ("checkpoint", "Checkpoint") for hook in hooks)
    return False
