"""One run's directory: its name, its small files, and who may write in it."""

from __future__ import annotations

import fcntl
import json
import math
import numbers
import os
import re
import secrets
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from hookline.durable import make_directory, remove_leftovers, replace_file, sync_directory
from hookline.errors import Problem, RunError

__all__ = ["RunDir", "check_name", "is_run", "kind_at", "unwritable"]

STATES = ("running", "finished", "stopped", "paused", "failed")
_COMPLETE = ("finished", "stopped")

_NAME = re.compile(r"[^\W_][\w.+=@ -]{0,99}")
_RUN_ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{6}")


@dataclass(frozen=True)
class RunDir:
    """The directory that holds everything one run writes.

    Args:
        path: Absolute path of an existing directory.
    """

    path: Path

    @classmethod
    def create(cls, parent: Path, name: str) -> RunDir:
        """Make ``<parent>/<name>/<YYYYmmdd-HHMMSS>-<hex>/``, and point ``latest`` beside it at it.

        Raises:
            RunError: If ``name`` is not one plain path segment, or the directory cannot be made.
        """
        check_name(name, "run.name")
        directory = Path(parent).absolute() / name
        # Not from the global generators: runs of one seed must not meet, nor a name change what they draw.
        run_id = f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
        try:
            make_directory(directory)
            os.mkdir(directory / run_id)
            _point_latest(directory, run_id)
            sync_directory(directory)
        except OSError as error:
            fix = "Set run.dir to another, such as run.dir=/tmp/runs"
            raise unwritable(f"run directory {directory}", "a directory", error, fix) from error
        return cls(directory / run_id)

    @classmethod
    def open(cls, path: Path) -> RunDir:
        """Return the run directory at ``path``, links followed.

        Raises:
            RunError: If there is no run directory.
        """
        resolved = Path(path).resolve()
        if not is_run(resolved):
            raise RunError(str(Problem(str(path), "a run directory", kind_at(resolved))))
        return cls(resolved)

    @property
    def id(self) -> str:
        """The directory's own name, unique among the runs of one name."""
        return self.path.name

    @property
    def name(self) -> str:
        """The run's name: that of the directory around it."""
        return self.path.parent.name

    @property
    def checkpoints(self) -> Path:
        """The directory of checkpoints; there after the first one was saved."""
        return self.path / "checkpoints"

    @property
    def has_checkpoints(self) -> bool:
        """Whether a checkpoint was saved, damaged or not."""
        return any(self.checkpoints.glob("iter_*"))

    @property
    def log(self) -> Path:
        """The log file."""
        return self.path / "log.txt"

    @property
    def summary(self) -> Path:
        """The file that says how the run ended."""
        return self.path / "summary.json"

    @property
    def status(self) -> dict[str, Any]:
        """What `write_status` wrote last; empty before the first time."""
        with suppress(OSError, ValueError, RecursionError):
            status = json.loads((self.path / "status.json").read_text(encoding="utf-8"))
            return status if isinstance(status, dict) else {}
        return {}

    @property
    def is_complete(self) -> bool:
        """Whether it came to an end of its own: finished, or stopped by a plugin."""
        return self.status.get("state") in _COMPLETE

    def write_status(self, state: str, **info: Any) -> None:
        """Replace ``status.json``: ``state``, ``info`` (reason, iteration, ...), process, SLURM job, time."""
        if state not in STATES:
            raise RunError(str(Problem("status", f"one of {', '.join(STATES)}", state)))
        where: dict[str, Any] = {"pid": os.getpid(), "host": socket.gethostname()}
        if job := os.environ.get("SLURM_JOB_ID"):
            where["job"] = job
        self.write_json("status.json", {"state": state, **info, **where, "time": _now()})

    @property
    def begun_with(self) -> tuple[str, str | None] | None:
        """The weights that the run began with, and whose they are; None where they were the model's own.

        Raises:
            RunError: If the file that says so is damaged.
        """
        place = self.path / "weights.json"
        try:
            saved = json.loads(place.read_text(encoding="utf-8"))
            return saved["source"], saved["of"]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
            fix = "Name them with --weights"
            rule, got = "the name of the weights that the run began with", type(error).__name__
            raise RunError(str(Problem(str(place), rule, got, fix=fix))) from error

    @property
    def generation(self) -> int:
        """How often the directory was `held`; 0 before the first time."""
        with suppress(OSError, ValueError):
            return int((self.path / "generation").read_text(encoding="ascii"))
        return 0

    @contextmanager
    def held(self, after: int | None = None) -> Iterator[int]:
        """Keep every other process from training in this directory, as long as the context lasts.

        The lock is the kernel's: it goes with the process, however that ends. Where it fails, as on some
        network file systems, the generation tells: who holds the directory later has a higher one.

        Args:
            after: The generation when somebody looked what is in the directory; None where nobody has.

        Yields:
            The generation, see `check_generation`.

        Raises:
            RunError: If another process trains in it, or has since ``after``.
        """
        with open(self.path / "lock", "a") as file:
            self._lock(file, fcntl.LOCK_EX)
            if after is not None and self.generation != after:
                rule, got = "what this process has found in it", f"what {self._holder} has made of it since"
                problem = Problem(f"run directory {self.path}", rule, got, fix="Start this again")
                raise RunError(str(problem))
            generation = self.generation + 1
            try:
                # Not in the lock's own file: to close that anywhere in the process frees the lock.
                replace_file(self.path / "generation", f"{generation}\n".encode())
            except OSError as error:
                raise unwritable(str(self.path / "generation"), "a file", error) from error
            with suppress(OSError):  # They are in nobody's way.
                remove_leftovers(self.path)
            yield generation

    def check_free(self) -> None:
        """Return if nobody trains in the directory; changes nothing in it.

        Raises:
            RunError: If another process does.
        """
        with suppress(FileNotFoundError), open(self.path / "lock") as file:
            self._lock(file, fcntl.LOCK_SH)

    def _lock(self, file: IO[str], kind: int) -> None:
        try:
            fcntl.lockf(file, kind | fcntl.LOCK_NB)
        except OSError as error:
            fix = "Wait for it, stop it, or start a run of its own"
            raise RunError(
                str(Problem(f"run directory {self.path}", "one that nobody trains in", self._holder, fix=fix))
            ) from error

    @property
    def _holder(self) -> str:
        return f"process {self.status.get('pid')} on {self.status.get('host')}"

    def check_generation(self, generation: int) -> None:
        """Return if nobody has held the directory since ``generation``, which must not write any more then.

        Raises:
            RunError: If somebody has.
        """
        if self.generation != generation:
            got = f"a later start by {self._holder}"
            fix = "This process was taken for dead; it writes nothing more"
            raise RunError(str(Problem(f"run directory {self.path}", "to be its only trainer", got, fix=fix)))

    def write_json(self, name: str, data: Mapping[str, Any]) -> None:
        """Write ``data`` as the file ``name``, whole or not at all; NaN and infinities become strings.

        Raises:
            RunError: If ``name`` is not one plain path segment, or the file cannot be written.
        """
        self.write_text(name, f"{json.dumps(_jsonable(data), indent=2, allow_nan=False)}\n")

    def write_text(self, name: str, text: str) -> None:
        """Write ``text`` as the file ``name``, whole or not at all.

        Raises:
            RunError: If ``name`` is not one plain path segment, or the file cannot be written.
        """
        check_name(name, "file name")
        try:
            replace_file(self.path / name, text.encode())
        except OSError as error:
            raise unwritable(str(self.path / name), "a file", error) from error


def unwritable(where: str, what: str, error: OSError, fix: str = "") -> RunError:
    """Return the error for a place where ``what`` was to be written."""
    got = error.strerror or type(error).__name__
    return RunError(str(Problem(where, f"{what} that can be written", got, fix=fix)))


def is_run(path: Path) -> bool:
    """Return whether a run's directory is at ``path``: by its name or, where that was changed, its status."""
    return path.is_dir() and (bool(_RUN_ID.fullmatch(path.name)) or (path / "status.json").is_file())


def check_name(name: str, where: str) -> None:
    """Return if ``name`` is one plain path segment.

    Raises:
        RunError: If it is not; ``where`` says what it was to be the name of.
    """
    if not _NAME.fullmatch(name):
        expected = "at most 100 letters, digits, spaces or any of ._+=@-, the first a letter or digit"
        raise RunError(str(Problem(where, expected, name)))


def kind_at(path: Path) -> str:
    """Return what is at ``path``, in words for an error."""
    return "a directory" if path.is_dir() else "a file" if path.exists() else "nothing there"


def _point_latest(directory: Path, run_id: str) -> None:
    temporary = directory / f".tmp-latest-{run_id}"
    try:
        os.symlink(run_id, temporary, target_is_directory=True)
    except (OSError, NotImplementedError):
        # Windows without the right to make links, and some network file systems: a file that holds the name.
        replace_file(directory / "latest", f"{run_id}\n".encode())
        return
    try:
        os.replace(temporary, directory / "latest")
    except OSError:
        temporary.unlink()
        raise


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


def _jsonable(value: Any) -> Any:
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_jsonable(item) for item in value]
    return str(value)
