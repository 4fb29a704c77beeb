"""Results as files: raw JSON, a table in Markdown, a plot."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.contenders import CONTENDERS
from benchmarks.session import PartRecord, Record, Session, Settings, cast
from benchmarks.summary import Row
from benchmarks.table import markdown

__all__ = ["about", "write"]


def write(
    path: Path,
    arguments: Sequence[str],
    settings: Settings,
    session: Session,
    rows: Sequence[Row],
    parts: Sequence[PartRecord],
) -> str:
    """Write ``path.json``, ``.md`` and, where matplotlib is installed, ``.png``; return the table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = about(arguments, settings)
    text = markdown(facts, rows, parts, session.imports_s)
    raw = {
        **facts,
        "settings": asdict(settings),
        "imports_s": session.imports_s,
        "interrupted": session.interrupted,
        "rows": [asdict(row) for row in rows],
        "parts": [asdict(part) for part in parts],
        "runs": [_run(record) for record in session.records],
    }
    path.with_suffix(".json").write_text(json.dumps(raw, indent=1, allow_nan=True) + "\n")
    path.with_suffix(".md").write_text(text)
    try:
        from benchmarks.plot import draw
    except ImportError:
        return f"{text}\nNo plot: matplotlib is not installed. pip install 'hookline[bench]'."
    draw(rows, path.with_suffix(".png"))
    return text


def _run(record: Record) -> dict[str, Any]:
    """Return a record as JSON; of the reference runs around it their times, the rest stands elsewhere."""
    around = [one["mean_us"] for one in record.around]
    return {**asdict(replace(record, around=())), "around": around}


def about(arguments: Sequence[str], settings: Settings) -> dict[str, Any]:
    """Return when, where, with what and by which command."""
    names = {name for case in settings.cases for name in cast(case, settings)}
    packages = {CONTENDERS[name].distribution for name in names} - {""} | {"torch"}
    versions = {name: _version(name) for name in sorted(packages)}
    return {
        "date": date.today().isoformat(),
        "command": " ".join(["python -m benchmarks", *_what(arguments)]),
        "machine": _machine(),
        "versions": {
            "python": platform.python_version(),
            **versions,
        },
    }


def _what(arguments: Sequence[str]) -> list[str]:
    """Return the arguments that say what was run, not where it was written."""
    kept = list(arguments)
    for option in ("--results", "--name"):
        while option in kept:
            at = kept.index(option)
            del kept[at : at + 2]
    return kept


def _machine() -> str:
    info = Path("/proc/cpuinfo")
    models = [
        line.split(":", 1)[1].strip()
        for line in (info.read_text().splitlines() if info.exists() else [])
        if line.startswith("model name")
    ]
    name = models[0] if models else platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores, one torch thread, {platform.system()}"


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed"
