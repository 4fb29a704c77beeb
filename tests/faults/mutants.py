"""hookline broken on purpose, one promise at a time: what a harness must notice, or it proves nothing.

Each mutant returns a context that has been entered: hookline is broken in this process until it is left. The
fork server calls it as a patch, and lets the process die of it.
"""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

from hookline.checkpoint import manifest, retention, writing
from hookline.checkpoint.manifest import checkpoints
from hookline.checkpoint.pointers import write_pointer
from hookline.checkpoint.retention import remove
from hookline.data import loader
from hookline.durable import sync_directory
from hookline.errors import CheckpointError
from hookline.hooks import Checkpoint
from hookline.rundir import RunDir
from hookline.trainer import SimpleTrainer, TrainerBase, base
from hookline.trainer.interrupts import Interrupts

__all__ = ["MUTANTS"]


def _broken(*changes: tuple[Any, str, Any]) -> ExitStack:
    """Return a context in which each attribute is what is given for it; one that is not there is an error."""
    broken = ExitStack()
    for owner, name, value in changes:
        broken.enter_context(mock.patch.object(owner, name, value))
    return broken


# ---- of a save


def no_fsync() -> ExitStack:
    """A file's data is not synced."""
    return _broken((os, "fsync", _syncing_only(stat.S_ISDIR)))


def no_directory_fsync() -> ExitStack:
    """A name is not synced."""
    return _broken((os, "fsync", _syncing_only(stat.S_ISREG)))


def delete_old_first() -> ExitStack:
    """What is replaced goes before its successor has its name."""
    put = writing._put_in_place

    def put_in_place(temporary: Path, final: Path) -> list[Path]:
        for path in checkpoints(final.parent):
            remove(path)
        return put(temporary, final)

    return _broken((writing, "_put_in_place", put_in_place))


def write_in_place() -> ExitStack:
    """A checkpoint is written where it will be found, over the one that is there."""
    write_files = writing._write_files

    def write(directory: Path, snapshot: Any, *rest: Any) -> None:
        final = directory.parent / f"iter_{snapshot.iteration:07d}"
        remove(final)
        write_files(final, snapshot, *rest)
        sync_directory(final.parent)

    return _broken(
        (writing, "_write_files", write),
        (writing, "verify", lambda path: None),
        (writing, "_put_in_place", lambda temporary, final: []),
    )


def pointer_before_rename() -> ExitStack:
    """``latest`` says the new checkpoint's name before there is one."""
    put = writing._put_in_place

    def put_in_place(temporary: Path, final: Path) -> list[Path]:
        write_pointer(final.parent, "latest", final)
        return put(temporary, final)

    return _broken((writing, "_put_in_place", put_in_place))


def fence_not_checked() -> ExitStack:
    """A process that was taken for dead writes on."""
    return _broken((RunDir, "check_generation", lambda self, generation: None))


def retention_counts_damaged() -> ExitStack:
    """A checkpoint counts as kept whatever is in it."""
    return _broken((retention.Ledger, "is_good", lambda self, path: True))


def save_error_swallowed() -> ExitStack:
    """A save that failed counts as done."""
    write = Checkpoint._write

    def write_or_not(self: Checkpoint, root: Path, *rest: Any) -> Path:
        try:
            return write(self, root, *rest)
        except CheckpointError:
            return root

    return _broken((Checkpoint, "_write", write_or_not))


# ---- of an end


def pause_exits_0() -> ExitStack:
    """Whoever started a run that a signal paused is told that it is done."""
    return _broken((Interrupts, "raise_again", lambda self: None))


# ---- of a load


class _Agrees(tuple[int, str]):
    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False


def hash_not_checked() -> ExitStack:
    """A file of the right size is taken."""
    return _broken((manifest, "_fingerprint", lambda path: _Agrees()))


def no_rng() -> ExitStack:
    """Random numbers are not put back."""
    load = TrainerBase.load_state_dict

    def load_state_dict(self: TrainerBase, state: Any) -> None:
        load(self, state)
        self._saved_rng = None

    return _broken((TrainerBase, "load_state_dict", load_state_dict))


def no_optimizer() -> ExitStack:
    """The optimizer begins anew."""
    return _broken((SimpleTrainer, "_load_optimizer", lambda self, state, saved: None))


def no_hook_state() -> ExitStack:
    """Plugins begin anew."""
    return _broken((base, "load_states", lambda hooks, states: None))


def no_data_position() -> ExitStack:
    """The data begin anew."""
    return _broken((loader.Loader, "load_state_dict", lambda self, state: None))


def no_truncation() -> ExitStack:
    """What the journal has beyond the checkpoint stays."""
    return _broken((os, "ftruncate", lambda descriptor, size: None))


def worker_seeds_lost() -> ExitStack:
    """Workers are seeded by how many batches this process has drawn."""
    jobs = loader.jobs
    return _broken((loader, "jobs", lambda indices, base, first: jobs(indices, base, 0)))


def _syncing_only(kind: Any) -> Any:
    fsync = os.fsync

    def sync(file: Any) -> None:
        if kind(os.fstat(file).st_mode):
            fsync(file)

    return sync


MUTANTS = (
    no_fsync,
    no_directory_fsync,
    delete_old_first,
    write_in_place,
    pointer_before_rename,
    fence_not_checked,
    retention_counts_damaged,
    save_error_swallowed,
    pause_exits_0,
    hash_not_checked,
    no_rng,
    no_optimizer,
    no_hook_state,
    no_data_position,
    no_truncation,
    worker_seeds_lost,
)
