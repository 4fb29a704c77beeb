"""The command: choose, run, write."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from benchmarks.cases import CASES
from benchmarks.contenders import CONTENDERS, FEW, REFERENCE
from benchmarks.results import write
from benchmarks.session import PARTS, Settings, run_parts, run_session
from benchmarks.summary import summarize

__all__ = ["main"]

_ROUNDS, _MEMORY_ITERS = 5, 10_000_000
RESULTS = Path(__file__).parent / "results"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 2 where it was called wrongly, 1 where a run failed."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(arguments)
    if options.list:
        print(_listing())
        return 0
    problems = [
        *_unknown("--cases", options.cases or (), CASES),
        *_unknown("--contenders", options.contenders or (), CONTENDERS),
        *_unknown("--parts", options.parts or (), PARTS),
        *_wrong_numbers(options),
    ]
    problems = problems or _unmakable(options)
    if problems:
        print("\n".join(problems), file=sys.stderr)
        return 2
    settings = _settings(options)
    session = run_session(settings, _say)
    parts = [] if session.interrupted else run_parts(settings, _say)
    rows = summarize(session.records)
    name = options.name or ("partial" if session.interrupted or not _is_whole(options) else "cpu")
    print(write(options.results / name, arguments, settings, session, rows, parts))
    return int(session.interrupted or any(one.error for one in [*rows, *parts]))


def _settings(options: argparse.Namespace) -> Settings:
    """Return what is to be run: everything, unless something is named, then only that."""
    named = options.cases or options.contenders or options.parts
    return Settings(
        options.cases or ([] if options.parts and not options.contenders else list(CASES)),
        options.contenders,
        options.rounds,
        options.iterations,
        options.warmup,
        parts=options.parts or ([] if named else PARTS),
        minutes=options.minutes,
        memory_iters=options.memory_iterations,
    )


def _say(line: str) -> None:
    print(line, flush=True)


def _number(kind: Callable[[str], float]) -> Callable[[str], float | str]:
    """Return what reads a number, and leaves what is none for `_wrong_numbers` to name."""

    def read(text: str) -> float | str:
        try:
            return kind(text)
        except ValueError:
            return text

    return read


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure hookline beside a loop written by hand and other trainers, on one CPU thread.",
    )
    add, whole, number = parser.add_argument, _number(int), _number(float)
    add("--list", action="store_true", help="show cases and contenders, and end")
    add("--cases", nargs="+", metavar="CASE", help="default: all")
    add("--contenders", nargs="+", metavar="NAME", help=f"default: all; {REFERENCE} always runs")
    add("--parts", nargs="+", metavar="PART", help="parts of an iteration alone (default: all)")
    add("--rounds", type=whole, default=_ROUNDS, help=f"how often each runs (default: {_ROUNDS})")
    add("--minutes", type=number, default=40, help="begin no round that would end later (default: 40)")
    add("--iterations", type=whole, help="timed iterations (default: the case's own number)")
    add("--warmup", type=whole, help="iterations before them (default: the case's own number)")
    add(
        "--memory-iterations",
        type=whole,
        default=_MEMORY_ITERS,
        help="of the long run (default: 10 million)",
    )
    add("--results", type=Path, default=RESULTS, metavar="FOLDER", help="default: benchmarks/results")
    add("--name", help="of the files written (default: cpu; partial, if only a part was run)")
    return parser


def _is_whole(options: argparse.Namespace) -> bool:
    """Whether everything is run: a part must not overwrite what the whole session found."""
    named = options.cases or options.contenders or options.parts
    shorter = options.iterations or options.warmup or options.rounds < _ROUNDS
    return not (named or shorter or options.memory_iterations < _MEMORY_ITERS)


def _unknown(option: str, names: Iterable[str], known: Iterable[str]) -> list[str]:
    problems = []
    for name in names:
        if name not in set(known):
            close = difflib.get_close_matches(name, list(known), 1)
            hint = f"Did you mean {close[0]}? " if close else ""
            problems.append(f"{option}: expected one of {', '.join(known)}, got {name!r}. {hint}See --list.")
    return problems


def _wrong_numbers(options: argparse.Namespace) -> list[str]:
    least = {"rounds": 1, "iterations": 1, "warmup": 2, "memory_iterations": 10}
    given = {name: (getattr(options, name), limit) for name, limit in least.items()}
    problems = [
        f"--{name.replace('_', '-')}: expected a whole number >= {limit}, got {value}."
        for name, (value, limit) in given.items()
        if value is not None and (isinstance(value, str) or value < limit)
    ]
    minutes = options.minutes
    if isinstance(minutes, str) or not minutes > 0:  # NaN is not, either.
        problems.append(f"--minutes: expected a number > 0, got {minutes}.")
    return problems


def _unmakable(options: argparse.Namespace) -> list[str]:
    """Make the folder of the results, so that nothing is measured that cannot be kept."""
    folder = (options.results / (options.name or "cpu")).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return [f"--results: expected a folder that can be made, got {str(folder)!r}: {error.strerror}."]
    return []


def _listing() -> str:
    cases = [
        f"  {case.name:18} {case.title}{' (few contenders)' if case.variation else ''}"
        for case in CASES.values()
    ]
    contenders = [
        f"  {one.name:24} {one.title}{' (the reference)' if one.name == REFERENCE else ''}"
        for one in CONTENDERS.values()
    ]
    few = f"few contenders: {', '.join(FEW)}"
    return "\n".join(["cases:", *cases, "contenders:", *contenders, few, f"parts: {', '.join(PARTS)}"])
