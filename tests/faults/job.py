"""The job of run.yaml: attempts at it, each in a fork, and whether it ended as if nothing had happened.

All of this runs in the server's process, see server.py. What F-tests call is `kill_trials`::

    server.call("job:kill_trials", 100)                                   # every one ends as it should
    server.call("job:kill_trials", 20, patches=["mutants:forget_rng"])    # a product broken on purpose

A patch is ``module:function`` of this folder, or that with arguments in a list. It is called in each attempt,
before training, and may replace what it likes: it is the fork that dies of it.
"""

from __future__ import annotations

import atexit
import ctypes
import hashlib
import json
import os
import random
import select
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from server import resolve

__all__ = [
    "Attempt", "Ending", "Outcome", "Trials", "difference", "finish", "is_finished", "kill_trials", "outcome", "place",
    "digests", "reference", "runs", "saved_states", "start", "warm_up",
]  # fmt: skip

Patch = str | Sequence[Any]

CONFIG = Path(__file__).parent / "run.yaml"
MUST_AGREE = ("model", "optimizer", "rng", "data")
"""Components of a checkpoint that must be the same to the byte."""
_HANG_S = 60.0
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Ending:
    """How an attempt ended: its exit code, negative where a signal ended it, and all that it said."""

    code: int
    output: str


@dataclass(frozen=True)
class Outcome:
    """What of a finished run must not depend on how often it was killed."""

    files: Mapping[str, str]
    metrics: bytes
    points: Mapping[str, list[tuple[int, float]]]
    """TensorBoard's points of each scalar that is in the metrics, too."""
    doubled: list[str]
    """Points that the TensorBoard file has more than once."""
    state: str


@dataclass
class Trials:
    """What came of a number of trials."""

    trials: int = 0
    kills: int = 0
    failures: list[str] = field(default_factory=list)

    @property
    def passed(self) -> int:
        """How many trials ended as they should."""
        return self.trials - len(self.failures)


class Attempt:
    """A process that trains the job in ``root`` from wherever the attempts before it got."""

    def __init__(self, pid: int, output: Path) -> None:
        self.pid, self._output = pid, output
        self._descriptor = os.pidfd_open(pid)
        self._status: int | None = None

    def ended(self, timeout_s: float) -> bool:
        """Wait for the end, at most so long; return whether it came."""
        if self._status is None and select.select([self._descriptor], [], [], timeout_s)[0]:
            self._status = os.waitpid(self.pid, 0)[1]
            os.close(self._descriptor)
        return self._status is not None

    def send(self, number: int) -> None:
        """Send a signal, if the process is still there."""
        if self._status is None:
            signal.pidfd_send_signal(self._descriptor, number)

    def kill(self) -> Ending:
        """End it at once."""
        self.send(signal.SIGKILL)
        return self.wait()

    def wait(self, timeout_s: float = _HANG_S) -> Ending:
        """Return how it ended; one that hangs is killed, and says so."""
        hangs = not self.ended(timeout_s)
        if hangs:
            self.send(signal.SIGKILL)
            self.ended(_HANG_S)
        said = self._output.read_text(errors="replace") + (f"\nhung for {timeout_s} s" if hangs else "")
        return Ending(os.waitstatus_to_exitcode(self._status), said)


def warm_up() -> None:
    """Do what a first run does only once: imports, caches, first calls of torch."""
    with place() as root:
        assert _train(root, [], [], []) == 0


def start(
    root: Path,
    *,
    overrides: Sequence[str] = (),
    patches: Sequence[Patch] = (),
    acts: Sequence[Sequence[Any]] = (),
    environment: Mapping[str, str] = {},
    output: Path | None = None,
    gate: int | None = None,
    is_built: bool = False,
) -> Attempt:
    """Fork a process that trains the job in ``root``, with the command line's own code.

    Args:
        root: The ``run.dir``.
        overrides: Of the config.
        patches: See this module.
        acts: See `task.Acts`.
        environment: What is different in its environment.
        output: Where it prints to; by default ``output.txt`` in ``root``.
        gate: A descriptor that it reads a byte from before it begins.
        is_built: Let it begin with a trainer that was built before, which saves half of its time.
    """
    if is_built:
        _built(tuple(overrides))
    root.mkdir(parents=True, exist_ok=True)
    output = output or root / "output.txt"
    output.write_text("")
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            end_with_parent()
            os.setpgid(0, 0)
            _redirect(output)
            os.environ.update(environment)
            if gate is not None:
                os.read(gate, 1)
            run = _train_built if is_built else _train
            code = run(root, overrides, patches, acts)
            atexit._run_exitfuncs()
        except BaseException:
            traceback.print_exc()
        finally:
            _flush()
            os._exit(code)
    return Attempt(pid, output)


def finish(root: Path, **options: Any) -> Ending:
    """Make one more attempt, to its end; none if the run is finished, as a restart loop sees to it."""
    return Ending(0, "") if is_finished(root) else start(root, **options).wait()


def is_finished(root: Path) -> bool:
    """Return whether the run in ``root`` says that it is finished."""
    for run in runs(root):
        with suppress(OSError, ValueError):
            return json.loads((run / "status.json").read_text())["state"] == "finished"
    return False


def outcome(root: Path) -> Outcome:
    """Return what the finished run in ``root`` came to."""
    (run,) = runs(root)
    files = digests(max((run / "checkpoints").glob("iter_*")))
    metrics = (run / "metrics.jsonl").read_bytes()
    names = {name for line in metrics.splitlines() for name in json.loads(line)}
    points = _points(run / "tensorboard" / "events.out.tfevents.hookline")
    doubled = [tag for tag, values in points.items() if len({step for step, _ in values}) != len(values)]
    state = json.loads((run / "status.json").read_text())["state"]
    return Outcome(files, metrics, {tag: points[tag] for tag in points if tag in names}, doubled, state)


def runs(root: Path) -> list[Path]:
    """Return the run directories in ``root``: one, if nothing went wrong."""
    return [path for path in (root / "job").glob("*") if path.is_dir() and not path.is_symlink()]


def digests(checkpoint: Path) -> dict[str, str]:
    """Return a hash of each file of ``checkpoint`` that must not depend on how often the job was killed."""
    files = [path for path in sorted(checkpoint.iterdir()) if path.stem in MUST_AGREE]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@cache
def saved_states(overrides: tuple[str, ...] = ()) -> dict[str, dict[str, str]]:
    """Return the `digests` of every checkpoint of a job that nobody disturbs, by its name."""
    with place() as root:
        ending = finish(root, overrides=[*overrides, "hooks.checkpoint.keep=0"])
        assert ending.code == 0, ending.output
        return {path.name: digests(path) for path in (runs(root)[0] / "checkpoints").glob("iter_*")}


@cache
def reference(overrides: tuple[str, ...] = (), *, is_built: bool = False) -> tuple[Outcome, float]:
    """Return what the job comes to when nobody disturbs it, and how long it takes, seconds."""
    with place() as root:
        start_s = time.monotonic()
        ending = finish(root, overrides=overrides, is_built=is_built)
        duration_s = time.monotonic() - start_s
        assert ending.code == 0, ending.output
        return outcome(root), duration_s


def difference(root: Path, wanted: Outcome) -> str:
    """Return what of the finished run in ``root`` is not as ``wanted``, or nothing."""
    try:
        got = outcome(root)
    except (OSError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    wrong = [name for name in {**wanted.files, **got.files} if wanted.files.get(name) != got.files.get(name)]
    if wanted.metrics != got.metrics:
        wrong.append(f"metrics.jsonl ({_rows(got.metrics)} instead of {_rows(wanted.metrics)})")
    wrong += [f"TensorBoard's {tag}" for tag in wanted.points if wanted.points[tag] != got.points.get(tag)]
    wrong += [f"TensorBoard's {tag} twice" for tag in got.doubled]
    wrong += [got.state] if got.state != wanted.state else []
    return ", ".join(wrong)


def kill_trials(
    num_kills: int,
    *,
    seed: int = 0,
    overrides: Sequence[str] = (),
    patches: Sequence[Patch] = (),
    max_kills: int = 6,
    max_failures: int = 10,
) -> Trials:
    """Kill the job at random instants, one to ``max_kills`` times a trial, and let it go on to its end.

    Args:
        num_kills: How many; each hit, and in each trial at least one did.
        seed: Of the instants.
        overrides: Of the config, also in the run that is not disturbed.
        patches: Only in the runs that are.
        max_kills: Most kills a trial.
        max_failures: End when so many trials have failed.
    """
    draw, done = random.Random(seed), Trials()
    wanted, duration_s = reference(tuple(overrides), is_built=True)
    while done.kills < num_kills and len(done.failures) < max_failures:
        with place() as root:
            instants = [draw.uniform(0, duration_s) for _ in range(draw.randint(1, max_kills))]
            how = {"overrides": overrides, "patches": patches, "is_built": True}
            kills = _killed_at(root, instants, **how)
            if not kills:
                continue  # it was done before
            done.trials, done.kills = done.trials + 1, done.kills + kills
            ending = finish(root, **how)
            wrong = difference(root, wanted) if ending.code == 0 else f"exit code {ending.code}"
            if wrong:
                said = "" if ending.code == 0 else f":\n{ending.output[-2000:]}"
                done.failures.append(f"killed after {[round(t, 4) for t in instants]} s: {wrong}{said}")
    return done


def end_with_parent() -> None:
    """Have this process killed when its parent ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


@contextmanager
def place():
    """Yield a folder that goes again; in memory where that can be, as no power fails here."""
    memory = Path("/dev/shm")
    parent = memory if os.access(memory, os.W_OK) else None
    root = Path(tempfile.mkdtemp(prefix="hookline-faults-", dir=parent))
    try:
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _killed_at(root: Path, instants: Iterable[float], **options: Any) -> int:
    """Attempt the job and kill it after so many seconds, again and again; return how many kills hit."""
    kills = 0
    for instant in instants:
        if is_finished(root):
            break
        attempt = start(root, **options)
        if attempt.ended(instant):
            break
        kills += attempt.kill().code == -signal.SIGKILL
    return kills


def _train(
    root: Path, overrides: Sequence[str], patches: Sequence[Patch], acts: Sequence[Sequence[Any]]
) -> int:
    """Train the job as ``hookline train`` does; return the exit code."""
    from hookline.cli import main

    os.environ["HOOKLINE_FAULTS_ACTS"] = json.dumps(acts)
    _apply(patches)
    return _exit_code(lambda: main(["train", str(CONFIG), f"run.dir={root}", *overrides, "--resume", "auto"]))


def _exit_code(act: Callable[[], object]) -> int:
    try:
        act()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


@cache
def _built(overrides: tuple[str, ...]) -> Any:
    """Return a trainer of the job, as it is when nothing was trained, and the state of all generators."""
    from hookline import DefaultTrainer
    from hookline.checkpoint import rng

    # The run directory is relative to where the fork goes.
    trainer = DefaultTrainer(CONFIG, ["run.dir=.", *overrides])
    return trainer, rng.capture()


def _train_built(
    root: Path, overrides: Sequence[str], patches: Sequence[Patch], acts: Sequence[Sequence[Any]]
) -> int:
    """Train the job with the trainer that is there already; what it does on a disk is the same."""
    from hookline.checkpoint import rng
    from hookline.cli.reporting import reporting

    os.environ["HOOKLINE_FAULTS_ACTS"] = json.dumps(acts)
    trainer, generators = _built(tuple(overrides))
    rng.restore(generators)
    os.chdir(root)
    _apply(patches)

    @reporting
    def train() -> None:
        trainer.resume("auto")
        trainer.train()

    return _exit_code(train)


def _apply(patches: Sequence[Patch]) -> None:
    for patch in patches:
        function, *arguments = [patch] if isinstance(patch, str) else patch
        resolve(function)(*arguments)


def _redirect(output: Path) -> None:
    """Let this process print to ``output``, and hear nothing."""
    _flush()
    for number, path, flags in ((0, os.devnull, os.O_RDONLY), (1, output, os.O_WRONLY | os.O_APPEND)):
        descriptor = os.open(path, flags)
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.dup2(1, 2)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()


def _rows(metrics: bytes) -> str:
    return f"{[json.loads(line)['iteration'] for line in metrics.splitlines()]}"


def _points(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the scalars in a TensorBoard file; one that is torn raises."""
    from tensorboard.compat.proto.event_pb2 import Event

    points: dict[str, list[tuple[int, float]]] = {}
    data = memoryview(path.read_bytes())
    while data:
        (size,) = struct.unpack("<Q", data[:8])
        if len(data) < 16 + size:
            raise ValueError(f"{path.name} ends within a record")
        event = Event.FromString(bytes(data[12 : 12 + size]))
        for value in event.summary.value:
            if value.HasField("simple_value"):
                points.setdefault(value.tag, []).append((event.step, value.simple_value))
        data = data[16 + size :]
    return points
