"""A run with the plugin on two processes: it must end, with the same weights on both."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import wraps
from pathlib import Path
from types import FunctionType
from typing import Any

import torch.distributed as dist

from hookline import distributed
from hookline.errors import RunError, notes
from hookline.plugins import HookCall
from hookline.purity import described
from hookline.testing.conformance.bench import Bench
from hookline.testing.conformance.subject import Subject, refused
from hookline.testing.ranks import run_ranks
from hookline.trainer import SimpleTrainer

__all__ = ["agree"]

_WORLD_SIZE = 2
# What all ranks must call; a message from one to another (send, recv) is not among them.
_COLLECTIVES = (
    "all_gather",
    "all_gather_into_tensor",
    "all_gather_object",
    "all_reduce",
    "all_to_all",
    "all_to_all_single",
    "barrier",
    "broadcast",
    "broadcast_object_list",
    "gather",
    "gather_object",
    "monitored_barrier",
    "reduce",
    "reduce_scatter",
    "reduce_scatter_tensor",
    "scatter",
    "scatter_object_list",
)

_Call = tuple[int, str, str]  # iteration, hook, collective


def agree(bench: Bench, timeout_s: float) -> None:
    """Check that two ranks end, that they call the same collectives, and that their weights are equal."""
    name, subject = bench.name, bench.subject
    failure: RunError | None = None
    weights: list[Mapping[str, str]] = []
    with tempfile.TemporaryDirectory(prefix="hookline-ranks-") as folder:
        try:
            arguments = (subject, bench.trainer, bench.max_iter, folder)
            weights = run_ranks(_on_rank, *arguments, world_size=_WORLD_SIZE, timeout_s=timeout_s)
        except RunError as error:
            failure = error
        calls = [_read(_file(Path(folder), rank)) for rank in range(_WORLD_SIZE)]
    _check_calls(name, calls)
    if failure is not None:
        mend = "Let every rank call the same; ranks=False is for a plugin that is meant for one process alone"
        got = "\n".join([str(failure), *notes(failure)])
        raise refused(name, "a run on two ranks to end well", got, mend) from failure
    communicates = next((call for called in calls for call in called), None)
    if communicates and not getattr(subject.sample(), "collective", False):
        mend = "Add 'collective = True' to the class: one rank must not switch it off alone"
        raise refused(name, "a plugin that communicates to say so", _shown(communicates), mend)
    first, second = weights
    if parts := [part for part in first if first[part] != second.get(part)]:
        mend = (
            "Base what it changes on values that are the same on all ranks, or reduce them over ranks first"
        )
        raise refused(name, "the same weights on both ranks", f"other {described(parts)}", mend)


def _check_calls(name: str, calls: list[list[_Call]]) -> None:
    """Check that both ranks called the same collectives in the plugin's hooks, as far as they got."""
    for number in range(max(map(len, calls))):
        here = [called[number] if number < len(called) else None for called in calls]
        if here[0] != here[1]:
            got = "; ".join(f"rank {rank}: {_shown(call)}" for rank, call in enumerate(here))
            mend = "Call a collective on every rank, in the same order, whatever rank 0 does beside"
            raise refused(name, "both ranks to call the same collectives", got, mend)


def _shown(call: _Call | None) -> str:
    return f"{call[2]} in {call[1]} at iteration {call[0]}" if call else "none"


def _on_rank(
    subject: Subject, trainer: Callable[..., SimpleTrainer], max_iter: int, folder: str
) -> dict[str, str]:
    """Train as one of the ranks; return digests of the weights."""
    bench = Bench(subject, trainer, max_iter, Path(folder))
    with (
        open(_file(Path(folder), distributed.rank()), "w", buffering=1) as file,
        _noting(bench, file) as prepare,
    ):
        outcome = bench.run(prepare=prepare)
    return {part: digest for part, digest in outcome.parts.items() if part.startswith("weights/")}


@contextmanager
def _noting(bench: Bench, file: Any) -> Iterator[Callable[[SimpleTrainer], None]]:
    """Write a line to ``file`` for each collective that is called in a hook of the plugin."""
    hooks: list[str] = []  # the hook of the plugin that runs now
    trainers: list[SimpleTrainer] = []

    def noting(name: str, collective: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(collective)
        def call(*args: Any, **kwargs: Any) -> Any:
            for hook in hooks:
                file.write(json.dumps([trainers[0].iter, hook, name]) + "\n")
            return collective(*args, **kwargs)

        return call

    def around(call: HookCall) -> AbstractContextManager[None]:
        return _inside(hooks, call.hook) if call.plugin == bench.name else nullcontext()

    def prepare(trainer: SimpleTrainer) -> None:
        trainers.append(trainer)
        trainer.hooks.watch(around)

    noted = {
        id(collective): noting(name, collective)
        for name in _COLLECTIVES
        if (collective := getattr(dist, name, None)) is not None
    }
    places = [
        (names, name, collective)
        for names in _namespaces()
        for name, collective in names.items()
        if id(collective) in noted
    ]
    for names, name, collective in places:
        names[name] = noted[id(collective)]
    try:
        yield prepare
    finally:
        for names, name, collective in places:
            names[name] = collective


def _namespaces() -> list[dict[str, Any]]:
    """Return the names of torch.distributed, and of all modules that may have imported some of them."""
    modules = [module for name, module in list(sys.modules.items()) if name.partition(".")[0] != "torch"]
    found = [
        names for module in [dist, *modules] if isinstance(names := getattr(module, "__dict__", 0), dict)
    ]
    # A script is run again in a rank, and its functions do not look where its module has their names.
    found += map(_globals, list(vars(sys.modules["__main__"]).values()))
    return list({id(names): names for names in found}.values())


def _globals(value: Any) -> dict[str, Any]:
    """Return the names that a function, or the functions of a class, look up."""
    functions = vars(value).values() if isinstance(value, type) else [value]
    return next((function.__globals__ for function in functions if isinstance(function, FunctionType)), {})


@contextmanager
def _inside(hooks: list[str], hook: str) -> Iterator[None]:
    hooks.append(hook)
    try:
        yield
    finally:
        hooks.pop()


def _file(folder: Path, rank: int) -> Path:
    return folder / f"rank{rank}.calls"


def _read(file: Path) -> list[_Call]:
    lines = file.read_text().splitlines() if file.exists() else []
    return [tuple(json.loads(line)) for line in lines]
