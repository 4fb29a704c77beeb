"""The figures of docs/reliability.md: kept in benchmarks/results/faults.json, shown as a table.

``python tests/faults/results.py`` puts the table into the page.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

__all__ = ["FILE", "PAGE", "Row", "add", "is_long", "page", "rows"]

ROOT = Path(__file__).parents[2]
FILE = ROOT / "benchmarks" / "results" / "faults.json"
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- The table is written by make faults. -->", "<!-- End of the table. -->"

# The order of the rows: that of the page's sections.
_ORDER = (
    "kills", "system_calls", "power_loss", "mutants", "disk", "corruption", "malice", "not_finite",
    "hooks_and_writers", "signals", "deaths", "clock",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One fault: how often it was tried, how often the outcome was the one required."""

    fault: str
    trials: int
    passed: int
    outcome: str
    seconds: float
    test: str
    date: str


def is_long() -> bool:
    """Return whether the tests run in the long form."""
    return os.environ.get("HOOKLINE_FAULTS") == "long"


def add(row: Row) -> None:
    """Put ``row`` in the file, in place of the one that this fault and test had before, and in the page."""
    with _alone():
        kept = [other for other in rows() if (other.fault, other.test) != (row.fault, row.test)]
        ordered = sorted([*kept, row], key=_place)
        data = {"versions": _versions(), "machine": _machine(), "rows": [asdict(each) for each in ordered]}
        FILE.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        PAGE.write_text(page(), encoding="utf-8")


def rows() -> list[Row]:
    """Return the rows in the file."""
    data = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {"rows": []}
    return [Row(**row) for row in data["rows"]]


def page() -> str:
    """Return the text of docs/reliability.md with the table that the file gives."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    return f"{before}{BEGIN}\n{_table()}\n{END}{rest.partition(END)[2]}"


def _table() -> str:
    data = json.loads(FILE.read_text(encoding="utf-8"))
    versions = ", ".join(f"{name} {number}" for name, number in data["versions"].items())
    lines = [
        "",
        f"Measured with {versions} on {data['machine']}.",
        "",
        "| fault | trials | as required | outcome | seconds | date | test |",
        "|---|---:|---:|---|---:|---|---|",
    ]
    for row in rows():
        file, _, name = row.test.removeprefix("tests/faults/").partition("::")
        cells = [row.fault, f"{row.trials:,}", f"{row.passed:,}", row.outcome, f"{row.seconds:.0f}", row.date]
        cells.append(f"`{file}::{name}`")
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join([*lines, ""])


def _place(row: Row) -> tuple[int, str, str]:
    name = Path(row.test.partition("::")[0]).stem.removeprefix("test_")
    return (_ORDER.index(name) if name in _ORDER else len(_ORDER), row.test, row.fault)


def _versions() -> dict[str, str]:
    found = {"hookline": version("hookline"), "Python": platform.python_version()}
    return {**found, "torch": version("torch"), "Linux": platform.release().partition("-")[0]}


def _machine() -> str:
    return f"{os.cpu_count()} CPU cores ({platform.machine()})"


@contextmanager
def _alone():
    """Keep the other processes of a parallel test run waiting."""
    with open(Path(tempfile.gettempdir()) / "hookline-faults.lock", "w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    short = [row for row in rows() if row.passed < row.trials]
    for row in short:
        print(f"{row.test}: {row.fault}: {row.passed} of {row.trials}", file=sys.stderr)
    sys.exit(bool(short))
