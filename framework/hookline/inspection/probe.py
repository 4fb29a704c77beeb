"""Plugins imported in a process of their own and described: whatever one does, the others are described."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hookline.catalog import InstalledPlugin
from hookline.errors import PluginError
from hookline.inspection.wording import how_it_ended

__all__ = ["Report", "probe"]


@dataclass(frozen=True)
class Report:
    """What importing a plugin showed; JSON values only (`dataclasses.asdict`).

    Args:
        name: Its name in a config.
        kind: ``hook`` or ``writer``.
        distribution: Name of the distribution that brings it; ``""`` for a local file.
        version: Version of the distribution.
        value: What was imported.
        import_s: Time of the import beyond that of hookline and torch, seconds; None when it failed.
        error: Why it could not be imported, one line; ``""`` when it could.
        file: Where the error was raised, or else where the plugin is defined; may be empty.
        line: The line in ``file``; 0 when it is not known.
        problems: What registration would refuse, each with ``where``, ``expected``, ``got``, ``mend``,
            ``file`` and ``line``.
        factory: ``class``, ``function`` or ``module``; ``""`` when it was not imported.
        doc: Its docstring.
        hooks: The hooks that it implements, in the order of the contract.
        traits: Its class attributes that tell hookline something, by name.
        options: Each with the fields of `hookline.config.Option`.
        options_schema: The JSON Schema of its options.
        stateful: Whether it keeps state in checkpoints.
        linted: False when it was not imported, or is a function that needs options to show what it makes.
    """

    name: str
    kind: str
    distribution: str
    version: str
    value: str
    import_s: float | None = None
    error: str = ""
    file: str = ""
    line: int = 0
    problems: list[dict[str, Any]] = field(default_factory=list)
    factory: str = ""
    doc: str = ""
    hooks: list[str] = field(default_factory=list)
    traits: dict[str, Any] = field(default_factory=dict)
    options: list[dict[str, Any]] = field(default_factory=list)
    options_schema: dict[str, Any] = field(default_factory=dict)
    stateful: bool = False
    linted: bool = False


def probe(plugins: Sequence[InstalledPlugin], timeout_s: float = 60.0) -> list[Report]:
    """Return a report of each of ``plugins``, in their order.

    None of them is imported here. Exceptions, exits, crashes, hangs and prints of one end up in its report.

    Args:
        plugins: From `installed_plugins` or `local_plugin`.
        timeout_s: Longest time that the import of one may take, seconds.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # what one started may write on
        found: list[dict[str, Any]] = []
        while len(found) < len(plugins):  # a plugin can end the worker itself, and another one goes on
            batch = plugins[len(found) :] if _FORKS else [plugins[len(found)]]
            found += _shown(batch, timeout_s, Path(tempfile.mkdtemp(dir=folder)))
    return [_report(plugin, shown) for plugin, shown in zip(plugins, found, strict=True)]


def _report(plugin: InstalledPlugin, shown: dict[str, Any]) -> Report:
    about = {
        "name": plugin.name,
        "kind": plugin.kind,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "value": plugin.value,
    }
    return Report(**{**about, **shown, "kind": plugin.kind or shown.get("kind", "hook")})


def _shown(plugins: Sequence[InstalledPlugin], timeout_s: float, folder: Path) -> list[dict[str, Any]]:
    """Return what each of ``plugins`` showed, imported by one worker and its forks, or alone in it.

    When one of them ends the worker, it is the last.
    """
    subjects = [{"value": one.value, "name": one.name, "kind": one.kind} for one in plugins]
    about = {"folder": str(folder), "subjects": subjects, "timeout_s": timeout_s, "forks": _FORKS}
    request = json.dumps({"path": sys.path, "request": about})
    deadline_s = _START_S + len(plugins) * (timeout_s + 5)
    ended = _worked(request, folder, deadline_s, {})
    if not (folder / "started").exists():
        # Metadata that nobody can read stops torch itself, which looks for its own plugins as it is imported.
        ended = _worked(request, folder, deadline_s, {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"})
    if not (folder / "started").exists():
        text = (folder / "worker.log").read_text("utf-8", errors="replace").strip()
        raise PluginError(
            f"plugins: expected a process that imports hookline and torch, got {ended}. "
            f"It said: {text.splitlines()[-1] if text else 'nothing'}. "
            "Run 'python -c \"import hookline.plan\"' to see more."
        )
    found = [_read(folder / f"{i}.json") for i in range(len(plugins))]
    num_shown = next((i for i, shown in enumerate(found) if not shown), len(found))
    return [*found[:num_shown], {"error": ended}][: len(plugins)]


def _worked(request: str, folder: Path, deadline_s: float, environment: dict[str, str]) -> str:
    """Run a worker to its end, and return how it ended."""
    with (folder / "worker.log").open("wb") as log:
        worker = subprocess.Popen(
            [sys.executable, "-c", _WORKER],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env={**os.environ, **environment},
            text=True,
        )
        try:
            worker.communicate(request, timeout=deadline_s)
        except subprocess.TimeoutExpired:
            return f"an import that did not end within {deadline_s:g} s"
        finally:
            _end(worker)
    return how_it_ended(worker.returncode)


def _end(worker: subprocess.Popen[str]) -> None:
    """End ``worker``: it is asked first, so that it ends what it has started."""
    worker.terminate()
    try:
        worker.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        worker.kill()
        worker.wait()


def _read(path: Path) -> dict[str, Any]:
    shown: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return shown


# Forking after torch is loaded is safe on Linux, and what Python itself has given up on macOS.
_FORKS = sys.platform == "linux"
_START_S = 120.0
_GRACE_S = 2.0
# The search path first: what hookline imports in the worker must be what it imports here.
_WORKER = """
import json, sys
given = json.load(sys.stdin)
sys.path[:] = given["path"]
from hookline.inspection.worker import serve
serve(**given["request"])
"""
