"""Every mutant is noticed by the harness that is there for it; and none of them cries where nothing is broken."""

from __future__ import annotations

import contextlib
import random
import signal

import job
import mutants
import numpy as np
import pytest
import results
import torch
from corruption import Run, flipped, flips
from disk_model import Stage
from power_loss import STORIES, recorded, survey
from whole_run import trainer_in

from hookline import CheckpointError, Loader, RunError, checkpoint
from hookline.durable import replace_file
from hookline.rundir import RunDir


class Noise(torch.utils.data.Dataset):
    """Samples drawn from NumPy's generator."""

    def __len__(self):
        return 12

    def __getitem__(self, index):
        return np.random.standard_normal()


def power_loss(name, broken, folder, server):
    """Tell a story before the model of a disk."""
    recorder = recorded(STORIES[name], folder / "run", broken)
    return survey(STORIES[name], recorder, Stage(folder / "stage"), limit=3, max_failures=1).failures


def patches_of(broken):
    """Return what a fork of the server is to break."""
    return [] if broken is contextlib.nullcontext else [f"mutants:{broken.__name__}"]


def killed(name, broken, folder, server):
    """Kill runs that then go on, until one ends otherwise than it should."""
    return server.call("job:kill_trials", 12, patches=patches_of(broken), max_failures=1).failures


def paused(name, broken, folder, server):
    """Send SIGTERM while iterations run."""
    return server.call("stops:signal_trials", signal.SIGTERM, 3, patches=patches_of(broken)).failures


def filled(name, broken, folder, server):
    """Train on a disk that has room for half of what a run takes."""
    if reason := server.call("disk:unusable"):
        pytest.skip(reason.strip().splitlines()[-1])
    sizes = [server.call("disk:used_bytes") // 2]
    return server.call("disk:full_disk", sizes, patches=patches_of(broken)).failures


def corrupted(name, broken, folder, server):
    """Flip bits of a checkpoint."""
    run, failures = Run.trained(folder / "run"), []
    with broken():
        for _, flip in flips(run, 40):
            with run.damaged():
                flip()
                failures += filter(None, [run.wrong()])
    return failures


def retained(name, broken, folder, server):
    """Let two checkpoints of four be damaged before the next is saved; two good ones must be left."""
    run = folder / "run"
    trainer_in(run, keep=4).train()
    root = run / "checkpoints"
    for path in sorted(root.glob("iter_*"))[-2:]:
        file = path / "model.safetensors"
        file.write_bytes(flipped(file.read_bytes(), random.Random(0)))
    with broken():
        checkpoint.save(root, 1000, {"number": 1})
        checkpoint.retain(root, 2)
    good = [path for path in root.glob("iter_*") if _is_good(path)]
    return [] if len(good) >= 2 else [f"{len(good)} good checkpoints are left"]


def _is_good(path):
    try:
        checkpoint.verify(path)
    except CheckpointError:
        return False
    return True


def overtaken(name, broken, folder, server):
    """Let a later process take over while a run trains; it must save nothing more."""
    run = RunDir(folder / "run")
    run.path.mkdir()
    with broken(), run.held() as generation:
        trainer = trainer_in(run.path, keep=0)
        trainer.generation = generation
        trainer.train(0, 3)
        before = sorted(run.checkpoints.iterdir())
        replace_file(run.path / "generation", f"{generation + 1}\n".encode())
        with contextlib.suppress(RunError):
            trainer.train(3, 9)
    return [path.name for path in run.checkpoints.iterdir() if path not in before]


def seeded_workers(name, broken, folder, server):
    """Go on within an epoch with a worker process that draws random numbers."""
    with broken():
        one, two = (Loader(Noise(), batch_size=2, num_workers=1) for _ in range(2))
        batches = iter(one)
        drawn = [next(batches) for _ in range(4)]
        two.load_state_dict({"epoch": 0, "batch": 3, "num_batches": 6})
        again = next(iter(two))
    return [] if torch.equal(drawn[3], again) else [f"{again} instead of {drawn[3]}"]


HARNESSES = {
    "saves in a row": power_loss,
    "an iteration again": power_loss,
    "the pointer latest": power_loss,
    "a file replaced": power_loss,
    "the journal": power_loss,
    "kill -9": killed,
    "SIGTERM": paused,
    "a full disk": filled,
    "flipped bits": corrupted,
    "retention": retained,
    "a second start": overtaken,
    "worker processes": seeded_workers,
}
NOTICED_BY = {
    mutants.no_fsync: ("saves in a row", "a file replaced", "the journal"),
    mutants.no_directory_fsync: ("saves in a row", "a file replaced", "the journal"),
    mutants.delete_old_first: ("saves in a row",),
    mutants.write_in_place: ("an iteration again",),
    mutants.pointer_before_rename: ("the pointer latest",),
    mutants.no_truncation: ("the journal", "kill -9"),
    mutants.no_rng: ("kill -9",),
    mutants.no_optimizer: ("kill -9",),
    mutants.no_hook_state: ("kill -9",),
    mutants.no_data_position: ("kill -9",),
    mutants.worker_seeds_lost: ("worker processes",),
    mutants.hash_not_checked: ("flipped bits",),
    mutants.retention_counts_damaged: ("retention",),
    mutants.fence_not_checked: ("a second start",),
    mutants.save_error_swallowed: ("a full disk",),
    mutants.pause_exits_0: ("SIGTERM",),
}


@pytest.fixture
def failures(server):
    """Return a function that returns what a harness finds wrong with hookline, broken or as it is."""

    def run(name, broken):
        with job.place() as folder:
            return HARNESSES[name](name, broken, folder, server)

    return run


def test_every_mutant_has_a_harness():
    assert set(NOTICED_BY) == set(mutants.MUTANTS)


LONG_ONLY = (mutants.no_hook_state, mutants.no_data_position)  # noticed as the other two of a resume are
PLANTED = [mutant for mutant in mutants.MUTANTS if results.is_long() or mutant not in LONG_ONLY]


@pytest.mark.parametrize("mutant", PLANTED, ids=lambda mutant: mutant.__name__)
def test_a_mutant_is_noticed(mutant, failures, size, record):
    found = {name: failures(name, mutant) for name in NOTICED_BY[mutant][: size(1, None)]}
    record(
        f"planted mutant: {mutant.__name__.replace('_', ' ')}",
        trials=len(found),
        passed=sum(map(bool, found.values())),
        outcome=f"noticed by: {', '.join(found)}",
    )
    assert all(found.values()), found


# The others are tests of their own: those of power loss, of kills and of corruption.
@pytest.mark.parametrize("name", ["retention", "a second start", "worker processes"])
def test_no_harness_cries_where_nothing_is_broken(name, failures):
    assert failures(name, contextlib.nullcontext) == []
