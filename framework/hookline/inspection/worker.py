"""The process in which `probe` imports plugins: hookline and torch once, then each plugin in a fork of it."""

from __future__ import annotations

import ctypes
import faulthandler
import json
import os
import re
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from hookline.catalog import is_of_python
from hookline.inspection.wording import how_it_ended

__all__ = ["die_with_parent", "end_in_order", "serve"]

_GRACE_S = 2.0
_PR_SET_PDEATHSIG = 1  # Source: prctl(2).


def serve(folder: str, subjects: Sequence[Mapping[str, str]], timeout_s: float, forks: bool) -> None:
    """Write what each of ``subjects`` showed into ``folder``: ``0.json``, ``1.json``, …; first ``started``.

    Args:
        folder: Where; it is empty.
        subjects: What to import, with the keys ``value``, ``name`` and ``kind``.
        timeout_s: Longest time for one, seconds; without forks it is for the caller to keep.
        forks: Give each a process of its own.
    """
    end_in_order()
    # What a run imports anyway is not the plugin's time.
    import hookline.hooks
    import hookline.inspection.describe
    import hookline.plan  # noqa: F401

    (Path(folder) / "started").touch()
    for i, subject in enumerate(subjects):
        path = Path(folder) / f"{i}.json"
        if forks:
            _fork(path, subject, timeout_s)
        else:
            _report(path, subject)


def end_in_order() -> None:
    """Make a signal that asks this process to end an exit, so that its forks are ended and files deleted.

    When its parent dies, it dies at once.
    """
    die_with_parent()
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda number, frame: sys.exit(128 + number))


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent is gone, where it can."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _fork(path: Path, subject: Mapping[str, str], timeout_s: float) -> None:
    """Report from a process of its own, or on one that ends without a report."""
    log = path.with_suffix(".log")
    parent, pid = os.getpid(), os.fork()
    if pid == 0:
        try:
            _be_alone(log, parent)
            _report(path, subject)
        finally:
            os._exit(0)  # neither its threads nor its exit handlers are waited for
    in_time, code = True, 0
    try:
        in_time = _waited(pid, timeout_s)
        if not in_time:
            os.kill(pid, signal.SIGABRT)  # it then tells where it hangs
            _waited(pid, _GRACE_S)
    finally:
        _kill_all(pid)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if not path.exists():
        error = how_it_ended(code) if in_time else f"an import that did not end within {timeout_s:g} s"
        _write(path, {"error": error, **_place_in(log)})


def _be_alone(log: Path, parent: int) -> None:
    """Leave the terminal and its signals; what is printed, and where it crashes, goes to ``log``."""
    for name in ("SIGTERM", "SIGHUP"):
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    scratch = log.with_suffix(".tmp")  # it is deleted with all else, however this process ends
    scratch.mkdir()
    tempfile.tempdir = os.environ["TMPDIR"] = str(scratch)
    die_with_parent()
    if os.getppid() != parent:  # it was too late to tell
        os._exit(1)
    os.setsid()  # what it starts can be ended with it
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(output, stream)
    faulthandler.enable(output, all_threads=False)


def _waited(pid: int, timeout_s: float) -> bool:
    """Return whether the process ended in time; it stays a zombie, so that its id stays its own."""
    deadline, pause = monotonic() + timeout_s, 0.001
    while monotonic() < deadline:
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return True
        sleep(pause)
        pause = min(2 * pause, 0.02)
    return False


def _kill_all(pid: int) -> None:
    for kill in (os.kill, os.killpg):
        with suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)


def _place_in(log: Path) -> dict[str, Any]:
    """Return the innermost place that a crash told, if any."""
    text = log.read_text("utf-8", errors="replace") if log.exists() else ""
    for file, line in re.findall(r'^  File "([^"\n]+)", line (\d+) in ', text, re.MULTILINE):
        if not is_of_python(file):
            return {"file": file, "line": int(line)}
    return {}


def _report(path: Path, subject: Mapping[str, str]) -> None:
    from hookline.inspection.describe import described

    _write(path, described(subject["value"], subject["name"], subject["kind"]))


def _write(path: Path, report: Mapping[str, Any]) -> None:
    # Whole or not there: a process may be ended at any moment.
    part = path.with_suffix(".part")
    part.write_text(json.dumps(report), "utf-8")
    part.replace(path)
