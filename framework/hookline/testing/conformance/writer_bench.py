"""A writer that is told of a small run with every kind of event, and what it recorded of it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from hookline.checkpoint import decode, encode
from hookline.events import Events, EventStorage, EventWriter, Run
from hookline.purity.digests import digests
from hookline.testing.conformance.subject import Subject, refused

__all__ = ["Record", "WriterBench", "files", "sample_events", "through_a_checkpoint"]

NUM_ITERS = 24
PERIOD = 5
PORTION = 7
"""How many events a writer is told of at a time, where nothing else is said."""


def sample_events() -> list[Events]:
    """Return a run of every kind of event, some of them awkward; an iteration has none."""
    storage, events = EventStorage(), []
    storage.put_hparams({"lr": 0.1, "batch_size": 8, "nesterov": True, "model": "tiny"})
    for i in range(NUM_ITERS):
        if i != NUM_ITERS // 2:
            _put(storage, i)
        events += storage.step()
    # At whole seconds, so that equal runs are equal.
    return [replace(event, time_s=1_000_000_000.0 + event.iteration) for event in events]


def _put(storage: EventStorage, i: int) -> None:
    storage.put_scalar("total_loss", 1.0 / (i + 1))
    storage.put_scalar("lr", 0.1 * 0.9**i, smoothing_hint=False)
    storage.put_scalar("time", 0.25, volatile=True)
    if i % 3 == 0:
        storage.put_scalar("eval/accuracy", i / NUM_ITERS, smoothing_hint=False)
    if i % 10 == 9:
        storage.put_scalars(smoothing_hint=False, grad_norm=(math.nan, math.inf)[i // 10 % 2])
        storage.put_image("sample", np.full((3, 4, 5), i, np.uint8))
        storage.put_histogram("weights", np.arange(8.0) + i, bins=4)
        storage.put_text("note", f'iteration {i}, "quoted", <b>, π\n')


@dataclass(frozen=True)
class Record:
    """What a run left behind: what ``read`` returned, and a digest of it."""

    content: Any
    digest: str


class WriterBench:
    """Tells writers of the sample run, each in a run directory of its own.

    Args:
        subject: The writer.
        folder: Where run directories are made.
        read: Returns what is recorded in a run directory; by default all files and what is in them.
        exactly_once: Whether nothing may be there twice after an error or a resume.
    """

    def __init__(
        self,
        subject: Subject,
        folder: Path,
        read: Callable[[Path], Any] | None = None,
        exactly_once: bool = True,
    ) -> None:
        self.subject, self.folder, self.events = subject, folder, sample_events()
        self._read, self._exactly_once = read, exactly_once
        self._numbers = itertools.count()

    @property
    def name(self) -> str:
        """The instance name of the writer."""
        return self.subject.name

    @property
    def has_reader(self) -> bool:
        """Whether the author said how to read what was recorded."""
        return self._read is not None

    def new_run(self) -> Run:
        """Return a run whose directory is new and empty."""
        number = next(self._numbers)
        folder = self.folder / str(number) / "run"
        folder.mkdir(parents=True)
        # What reads a server needs to tell runs apart; files may hold the id, and are to be equal.
        run_id = f"{self.folder.name}-{number}" if self.has_reader else "tiny"
        config = {"train": {"max_iter": NUM_ITERS}}
        return Run(folder, "tiny", run_id, config, period=PERIOD, writer=self.name)

    @cached_property
    def whole(self) -> Record:
        """What is recorded of a run that nothing happened to."""
        return self.recorded()

    def recorded(self, portion: int = PORTION) -> Record:
        """Return what is recorded of a run whose events come ``portion`` at a time."""
        run, writer = self.new_run(), self.subject.new()
        writer.open(run)
        self.tell(writer, self.events, portion)
        writer.close("finished")
        return self.read(run)

    def tell(self, writer: EventWriter, events: Sequence[Events], portion: int = PORTION) -> None:
        """Write ``events``, as the thread of a writer does: each time its position is asked for."""
        for start in range(0, len(events), portion):
            writer.write(tuple(events[start : start + portion]))
            writer.state_dict()

    def read(self, run: Run) -> Record:
        """Return what is recorded in the directory of ``run``."""
        content = self._read(run.dir) if self._read is not None else _contents(run.dir)
        return Record(content, digests({"content": content})["content"])

    def compare(self, got: Record, expected: str, mend: str) -> None:
        """Check that ``got`` is what is recorded of a run that nothing happened to."""
        if got.digest != self.whole.digest and got.content != self.whole.content:
            raise refused(self.name, expected, _difference(self.whole.content, got.content), mend)

    def compare_after_trouble(self, got: Record, expected: str, mend: str) -> None:
        """Do the same, but leave out what is there as well, where that cannot be helped."""
        if self._exactly_once:
            self.compare(got, expected, mend)
            return
        for item in self.whole.content:
            if item not in got.content:
                raise refused(self.name, expected, f"no {_short(item)}", mend)


def through_a_checkpoint(state: Mapping[str, Any] | None, name: str) -> Any:
    """Return a position as a later process finds it."""
    return None if state is None else decode(*encode(state, component=name))


def files(folder: Path) -> list[str]:
    """Return the files in ``folder`` and below, relative to it."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def _contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in files(folder)}


def _difference(wanted: Any, got: Any) -> str:
    """Return in words where two records differ first."""
    if isinstance(wanted, Mapping) and isinstance(got, Mapping):
        for key in {**wanted, **got}:
            if key not in got:
                return f"no {key!r}"
            if key not in wanted:
                return f"also {key!r}"
            if wanted[key] != got[key]:
                return f"in {key!r} {_difference(wanted[key], got[key])}"
    if isinstance(wanted, (str, bytes)) and type(wanted) is type(got):
        wanted, got = wanted.splitlines(), got.splitlines()
    if isinstance(wanted, Sequence) and isinstance(got, Sequence):
        for i, (one, other) in enumerate(zip(wanted, got, strict=False)):
            if one != other:
                return f"{_short(other)} as item {i + 1} instead of {_short(one)}"
        return f"{len(got)} items instead of {len(wanted)}"
    return f"{_short(got)} instead of {_short(wanted)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"
