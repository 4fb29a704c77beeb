"""One run's directory: its name, its small files, its log."""

from __future__ import annotations

import fcntl
import json
import math
import numbers
import os
import platform
import re
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

from hookline.durable import make_directory, replace_file, sync_directory
from hookline.errors import Problem, RunError, did_you_mean

__all__ = ["RunDir", "unwritable"]

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
        _check_name(name, "run.name")
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
        if not _is_run(resolved):
            raise RunError(str(Problem(str(path), "a run directory", _kind(resolved), _existing(resolved))))
        return cls(resolved)

    @classmethod
    def find(cls, spec: str, parent: Path, name: str | None = None) -> RunDir:
        """Return the run that ``spec`` means: ``latest``, or a path of a run or of anything inside one.

        Args:
            spec: ``latest`` is the newest run of ``name``, or of all names where that is None.
            parent: The directory of all runs, ``run.dir``.
            name: The run's name, ``run.name``.

        Raises:
            RunError: If there is no such run; says which there are.
        """
        if spec == "latest":
            return _latest(Path(parent), name)
        path = _followed(Path(spec))
        # A run, its checkpoints, one of them: no further up, where a stranger's status.json may be.
        run = next((place for place in [path, *path.parents][:3] if _is_run(place)), None)
        if run is None or not path.exists():
            exists = _existing(path if path.is_dir() else Path(parent))
            raise RunError(
                str(Problem(spec, "latest, a run directory or a path in one", _kind(path), exists))
            )
        return cls(run)

    @classmethod
    def resumable(cls, spec: str, parent: Path, name: str) -> RunDir:
        """Return the run that ``spec`` means, as `find` does; ``latest`` rather one that has checkpoints.

        A later start that failed before its first checkpoint does not hide the run before it.
        """
        found = cls.find(spec, parent, name)
        if spec != "latest" or found.has_checkpoints:
            return found
        others = (cls(path) for path in _runs(found.path.parent))
        return max((run for run in others if run.has_checkpoints), key=lambda run: run.id, default=found)

    @classmethod
    def unfinished(cls, parent: Path, name: str) -> RunDir | None:
        """Return the newest run of ``name`` that is neither finished nor stopped; None if there is none.

        Raises:
            RunError: If another process trains in it.
        """
        _check_name(name, "run.name")
        place = Path(parent).resolve() / name
        runs = [run for run in map(cls, _runs(place)) if not run.is_complete]
        # The link is right where names are not, see _latest_of.
        newest = next((run for run in runs if run.path == _latest_of(place)), None)
        found = newest or max(runs, key=lambda run: run.id, default=None)
        if found is not None:
            found.check_free()
        return found

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
        """Replace ``status.json`` by ``state``, ``info`` (reason, iteration, ...), process, host and time."""
        if state not in STATES:
            raise RunError(str(Problem("status", f"one of {', '.join(STATES)}", state)))
        where = {"pid": os.getpid(), "host": socket.gethostname()}
        self.write_json("status.json", {"state": state, **info, **where, "time": _now()})

    def write_environment(self) -> None:
        """Write ``environment.json``: versions, command line, commit, hardware; once the device is in use."""
        self.write_json("environment.json", _environment())

    @property
    def generation(self) -> int:
        """How often the directory was `held`; 0 before the first time."""
        with suppress(OSError, ValueError):
            return int((self.path / "generation").read_text(encoding="ascii"))
        return 0

    @contextmanager
    def held(self) -> Iterator[int]:
        """Keep every other process from training in this directory, as long as the context lasts.

        The lock is the kernel's: it goes with the process, however that ends. Where it fails, as on some
        network file systems, the generation tells: who holds the directory later has a higher one.

        Yields:
            The generation, see `check_generation`.

        Raises:
            RunError: If another process trains in it.
        """
        with open(self.path / "lock", "a") as file:
            self._lock(file, fcntl.LOCK_EX)
            generation = self.generation + 1
            try:
                # Not in the lock's own file: to close that anywhere in the process frees the lock.
                replace_file(self.path / "generation", f"{generation}\n".encode())
            except OSError as error:
                raise unwritable(str(self.path / "generation"), "a file", error) from error
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
            holder = f"process {self.status.get('pid')} on {self.status.get('host')}"
            fix = "Wait for it, stop it, or start a run of its own"
            raise RunError(
                str(Problem(f"run directory {self.path}", "one that nobody trains in", holder, fix=fix))
            ) from error

    def check_generation(self, generation: int) -> None:
        """Return if nobody has held the directory since ``generation``, which must not write any more then.

        Raises:
            RunError: If somebody has.
        """
        if self.generation != generation:
            holder = f"process {self.status.get('pid')} on {self.status.get('host')}"
            got = f"a later start by {holder}"
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
        _check_name(name, "file name")
        try:
            replace_file(self.path / name, text.encode())
        except OSError as error:
            raise unwritable(str(self.path / name), "a file", error) from error


def unwritable(where: str, what: str, error: OSError, fix: str = "") -> RunError:
    """Return the error for a place where ``what`` was to be written."""
    got = error.strerror or type(error).__name__
    return RunError(str(Problem(where, f"{what} that can be written", got, fix=fix)))


def _check_name(name: str, where: str) -> None:
    if not _NAME.fullmatch(name):
        expected = "at most 100 letters, digits, spaces or any of ._+=@-, the first a letter or digit"
        raise RunError(str(Problem(where, expected, name)))


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


def _followed(path: Path) -> Path:
    if path.name == "latest" and path.is_file():
        with suppress(OSError, UnicodeDecodeError), open(path, encoding="utf-8") as file:
            if _NAME.fullmatch(name := file.read(200).strip()):
                path = path.parent / name
    try:
        return path.resolve()
    except (OSError, RuntimeError):  # a link that leads to itself
        return path.absolute()


def _latest(parent: Path, name: str | None) -> RunDir:
    names = _directories(parent)
    runs = [run for place in names if name in (None, place.name) and (run := _latest_of(place))]
    if not runs:
        fix = did_you_mean(name, [place.name for place in names]) if name else ""
        where = parent / name if name else parent
        raise RunError(
            str(Problem(f"latest run in {where}", "a run", missing=True, exists=_existing(parent), fix=fix))
        )
    return RunDir(max(runs, key=lambda run: run.name))


def _latest_of(place: Path) -> Path | None:
    # The link is right where names are not: when the clock was set back.
    pointed = _followed(place / "latest")
    return pointed if _is_run(pointed) else max(_runs(place), default=None)


def _is_run(path: Path) -> bool:
    return path.is_dir() and (bool(_RUN_ID.fullmatch(path.name)) or (path / "status.json").is_file())


def _directories(path: Path) -> list[Path]:
    with suppress(OSError):
        return sorted(
            entry.resolve() for entry in path.iterdir() if entry.is_dir() and not entry.is_symlink()
        )
    return []


def _runs(path: Path) -> list[Path]:
    return [entry for entry in _directories(path) if _is_run(entry)]


def _existing(path: Path) -> str:
    runs = [run for place in [path, *_directories(path)] for run in _runs(place)]
    newest = sorted(runs, key=lambda run: run.name)[-5:]
    shown = ", ".join(f"{run.parent.name}/{run.name}" for run in newest)
    return f"Newest runs in {path}: {shown}" if shown else f"{path} has no runs"


def _kind(path: Path) -> str:
    return "a directory" if path.is_dir() else "a file" if path.exists() else "nothing there"


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


def _environment() -> dict[str, Any]:
    import numpy as np
    import torch

    return {
        "time": _now(),
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "hookline": _version("hookline"),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "cuda": torch.version.cuda,
        "gpus": _gpus(torch.cuda),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "argv": sys.argv,
        "directory": os.getcwd(),
        "git_commit": _git_commit(),
    }


def _gpus(cuda: Any) -> list[str] | int:
    # To ask for names initialises CUDA, which a run on the CPU must not pay for: it gets the number alone.
    count: int = cuda.device_count()
    return [cuda.get_device_name(index) for index in range(count)] if cuda.is_initialized() else count


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    command = ["git", "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=2, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
