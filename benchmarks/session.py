"""Runs what was chosen, contenders and rounds interleaved, so that a slow moment meets all alike."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.cases import CASES
from benchmarks.contenders import CONTENDERS, FEW, REFERENCE
from benchmarks.measure import Order

__all__ = [
    "PARTS",
    "PartRecord",
    "Record",
    "Server",
    "Session",
    "Settings",
    "cast",
    "run_parts",
    "run_session",
]

Say = Callable[[str], None]
PARTS = ("dispatch", "put-scalar", "delivery", "memory")
"""Parts of an iteration that are measured alone, each a function of `benchmarks.parts`."""
_ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Settings:
    """What to run.

    Args:
        contenders: By name; None is all of them, and a few where a case is a variation of another.
        num_iters: Timed iterations, of every case; None is the case's own number.
        parts: Of an iteration, to be measured alone, by name.
        minutes: Begin no round that would end later, as far as the rounds before it tell.
        memory_iters: How long the long run is whose memory is watched.
        reference_every: Run the reference anew after so many others: each is compared with the two around it.
    """

    cases: Sequence[str]
    contenders: Sequence[str] | None = None
    rounds: int = 5
    num_iters: int | None = None
    warmup_iters: int | None = None
    reference_every: int = 3
    parts: Sequence[str] = ()
    minutes: float = 40
    memory_iters: int = 10_000_000


@dataclass(frozen=True)
class Record:
    """One run: what it took, or why it failed, and the reference runs just before and after it."""

    case: str
    contender: str
    round: int
    measured: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    around: Sequence[dict[str, Any]] = ()

    def bare(self, key: str) -> float:
        """Return the mean of ``key`` of the reference runs around it."""
        return sum(one[key] for one in self.around) / len(self.around)


@dataclass
class Session:
    """All runs so far, how long each contender's import took, seconds, and whether Ctrl-C ended it."""

    records: list[Record] = field(default_factory=list)
    imports_s: dict[str, float] = field(default_factory=dict)
    interrupted: bool = False


@dataclass(frozen=True)
class PartRecord:
    """One measurement of a part, by what each number is."""

    part: str
    numbers: dict[str, float] = field(default_factory=dict)
    error: str = ""


class Server:
    """A `benchmarks.server` process, started when first needed."""

    def __init__(self, module: str, folder: Path) -> None:
        environment = {
            **_environment(),
            "TOKENIZERS_PARALLELISM": "false",
            "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),  # Compiled once a session.
            "TORCHINDUCTOR_COMPILE_THREADS": "1",
        }
        self.log = open(folder / f"{module}.txt", "w+")  # noqa: SIM115 - as long as the process
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.server", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env=environment,
            cwd=_ROOT,
        )
        self.import_s: float | None = None
        answer = self._answer()
        self.error = answer.get("error", "")
        self.import_s = answer.get("import_s")

    def ask(self, order: Order, options: dict[str, Any]) -> dict[str, Any]:
        """Return what the run measured, or ``{"error": …, "log": …}``."""
        if self.error:
            return {"error": self.error}
        assert self.process.stdin
        print(json.dumps({"order": asdict(order), "options": options}), file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        self.log.seek(0)
        last = " ".join(self.log.read().strip().splitlines()[-2:])
        return {"error": f"cannot be imported: {last}"}

    def close(self) -> None:
        self.process.communicate()
        self.log.close()


def cast(case: str, settings: Settings) -> list[str]:
    """Return who runs ``case``, the reference first."""
    chosen = settings.contenders or (FEW if CASES[case].variation else tuple(CONTENDERS))
    return [REFERENCE, *(name for name in chosen if name != REFERENCE)]


def run_session(settings: Settings, say: Say) -> Session:
    """Run every round; Ctrl-C ends it early, and what was run until then counts."""
    servers: dict[str, Server] = {}
    session = Session()
    start = perf_counter()
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:

        def run(case: str, name: str, number: int) -> dict[str, Any]:
            module = f"contenders.{CONTENDERS[name].module}"
            if module not in servers:
                servers[module] = Server(module, Path(folder))
            return _run(servers[module], case, name, settings, Path(folder, f"{number}-{case}-{name}"))

        try:
            for number in range(settings.rounds):
                minutes = (perf_counter() - start) / 60
                if number and minutes * (number + 1) / number > settings.minutes:
                    say(f"{number} rounds took {minutes:.0f} minutes: no other is begun")
                    break
                for case in settings.cases:
                    for record in _round(case, number, settings, run):
                        session.records.append(record)
                        say(_line(record, perf_counter() - start, settings))
        except KeyboardInterrupt:
            session.interrupted = True
            say("interrupted: what was run until now is written")
        finally:
            for server in servers.values():
                server.close()
    session.imports_s = {name: server.import_s for name, server in servers.items() if server.import_s}
    return session


def run_parts(settings: Settings, say: Say) -> list[PartRecord]:
    """Measure each part in so many fresh processes, the long run in one."""
    records = []
    start = perf_counter()
    for number in range(settings.rounds):
        for part in settings.parts:
            if part == "memory" and number:
                continue
            count = [str(settings.memory_iters)] if part == "memory" else []
            command = [sys.executable, "-m", "benchmarks.parts", part, *count]
            done = subprocess.run(command, capture_output=True, text=True, cwd=_ROOT, env=_environment())
            record = PartRecord(part, error=f"exit status {done.returncode}; {done.stderr.strip()[-200:]}")
            if done.returncode == 0:
                record = PartRecord(part, json.loads(done.stdout))
            records.append(record)
            shown = record.error or ", ".join(f"{key} {value:.2f}" for key, value in record.numbers.items())
            say(f"{perf_counter() - start:6.0f} s  round {number + 1}/{settings.rounds}  {part:16} {shown}")
    return records


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def _round(
    case: str, number: int, settings: Settings, run: Callable[[str, str, int], dict[str, Any]]
) -> Iterator[Record]:
    """Run everybody once, in an order drawn anew, with the reference before, between and after."""
    others = cast(case, settings)[1:]
    random.Random(f"{case} {number}").shuffle(others)
    size = settings.reference_every
    groups = [others[at : at + size] for at in range(0, len(others), size)]
    last = run(case, REFERENCE, number)
    yield _record(case, REFERENCE, number, last)
    for group in groups:
        answers = {name: run(case, name, number) for name in group}
        following = run(case, REFERENCE, number)
        around = [answer for answer in (last, following) if "error" not in answer]
        for name, answer in answers.items():
            yield _record(case, name, number, answer, around)
        yield _record(case, REFERENCE, number, following)
        last = following


def _record(
    case: str, name: str, number: int, answer: dict[str, Any], around: Sequence[dict[str, Any]] = ()
) -> Record:
    if "error" not in answer:
        return Record(case, name, number, measured=answer, around=around)
    log = answer.get("log", "").strip().splitlines()
    return Record(case, name, number, error="; ".join([answer["error"], *log[-2:]]))


def _run(server: Server, case: str, name: str, settings: Settings, folder: Path) -> dict[str, Any]:
    defaults = CASES[case]
    warmup = defaults.warmup_iters if settings.warmup_iters is None else settings.warmup_iters
    order = Order(name, case, warmup, settings.num_iters or defaults.num_iters, str(folder))
    try:
        return server.ask(order, dict(CONTENDERS[name].options))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _line(record: Record, seconds: float, settings: Settings) -> str:
    progress = f"{seconds:6.0f} s  round {record.round + 1}/{settings.rounds}"
    where = f"{progress}  {record.case:16} {record.contender:24}"
    if record.error:
        return f"{where} FAILED: {record.error}"
    mean_us = record.measured["mean_us"]
    ratio = f"{mean_us / record.bare('mean_us'):8.2f}" if record.around else ""
    return f"{where}{mean_us:9.1f} µs{ratio}"
