"""What is asked of an event writer, by telling it of a run."""

from __future__ import annotations

import copy
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch

from hookline.delivery import Delivery
from hookline.errors import HooklineError
from hookline.events import Events, EventStorage, EventWriter, Run
from hookline.purity.digests import digests
from hookline.testing.conformance.injection import InjectedError, caused_by_injection, tracing
from hookline.testing.conformance.subject import refused
from hookline.testing.conformance.writer_bench import PORTION, WriterBench, files, through_a_checkpoint

__all__ = [
    "closes",
    "goes_back",
    "is_delivered_to",
    "reads_back",
    "records",
    "resumes",
    "takes_any_portions",
    "works_twice",
]

MAX_LINES = 60
"""Lines tried of all that a ``write`` runs, spread over them."""

_EACH_ITS_OWN = "two instances under two names to keep a record each"
_MEND_TWICE = (
    "Name what it makes after run.writer, or refuse in open() what another instance has; leave options that "
    "name a file out of those given here"
)
_STATUSES = ("finished", "stopped", "paused", "failed")


def records(bench: WriterBench) -> None:
    """Check that two equal runs are recorded alike, that something is, and that events are not changed."""
    before = _digest(bench.events)
    first, second = bench.whole, bench.recorded()
    if _digest(bench.events) != before:
        mend = "Copy what is changed: all writers are given the same objects"
        raise refused(f"{bench.name}.write", "events to be left as they are", "other ones", mend)
    if first.digest != second.digest and first.content != second.content:
        mend = "Give assert_plugin_conforms read=, a function that leaves out what differs from run to run"
        raise refused(bench.name, "the same record of two equal runs", "another one", mend)
    if not first.content:
        mend = "Give assert_plugin_conforms read=, a function that returns what was recorded, wherever it is"
        raise refused(bench.name, "a record in the run directory", "nothing", mend)


def takes_any_portions(bench: WriterBench) -> None:
    """Check that the record is the same however many events come at a time."""
    for portion in (1, len(bench.events)):
        mend = "Depend on the events, not on how many come at a time: that differs from run to run"
        expected = f"the same record when events come {portion} at a time"
        bench.compare(bench.recorded(portion), expected, mend)


def is_delivered_to(bench: WriterBench) -> None:
    """Check that a real delivery, on a thread, records the same, and that nothing is missed."""
    run, writer = bench.new_run(), bench.subject.new()
    storage = _Replay()
    with Delivery(storage, {bench.name: writer}, run, on_error={bench.name: "disable"}) as delivery:
        for event in bench.events:
            storage.seal(event)
            if event.iteration % PORTION == 0:
                delivery.flush()
    for gap in delivery.gaps:
        mend = "All methods but __init__ are called on a thread of the writer's own"
        raise refused(bench.name, "all events to be recorded on a writer's thread", gap.reason, mend)
    bench.compare(
        bench.read(run),
        "the same record from a delivery, on a thread",
        "Use nothing that belongs to a thread",
    )


def resumes(bench: WriterBench) -> None:
    """Check that another object goes on from a position, and what followed it is forgotten."""
    middle = len(bench.events) // 2
    for status in ("paused", "failed"):
        run, writer = bench.new_run(), bench.subject.new()
        writer.open(run)
        bench.tell(writer, bench.events[:middle])
        position = _position(bench, writer)
        # A pause saves after the last event; a failure comes some iterations after a checkpoint.
        lost = bench.events[middle : middle + PORTION] if status == "failed" else ()
        bench.tell(writer, lost)
        writer.close(status)
        resumed = bench.subject.new()
        if position is not None:
            resumed.load_state_dict(position)
        resumed.open(replace(run, start_iter=bench.events[middle].iteration))
        bench.tell(resumed, bench.events[middle:])
        resumed.close("finished")
        if position is not None:
            expected = f"the same record of a run that {status} and was resumed"
            mend = (
                "Forget in open() what follows the position, and keep in state_dict what is not written yet"
            )
            bench.compare_after_trouble(bench.read(run), expected, mend)


def closes(bench: WriterBench) -> None:
    """Check that it can be closed with each status, before and after its first event."""
    for status in _STATUSES:
        for events in ((), bench.events[:3]):
            writer = bench.subject.new()
            writer.open(bench.new_run())
            bench.tell(writer, events)
            try:
                writer.close(status)
            except Exception as error:
                got = f"{type(error).__name__}: {error} after {len(events)} events"
                mend = "Close what is open, and accept that nothing is"
                raise refused(f"{bench.name}.close({status!r})", "no error", got, mend) from error
            command = writer.view_command()
            if not isinstance(command, str | None):
                mend = "Return a shell command, or None"
                raise refused(f"{bench.name}.view_command", "a string or None", repr(command), mend)


def reads_back(bench: WriterBench) -> None:
    """Check that what a journal reads back is recorded alike, if it can be read back."""
    run, writer = bench.new_run(), bench.subject.new()
    if not writer.journal or type(writer).read is EventWriter.read:
        return
    writer.open(run)
    bench.tell(writer, bench.events)
    writer.close("finished")
    before = bench.read(run)
    events = list(bench.subject.new().read(run.dir))
    where = f"{bench.name}.read"
    if bench.read(run).digest != before.digest:
        raise refused(where, "the record to be left as it is", "another one", "Read, and write nothing")
    iterations = [event.iteration for event in events]
    if iterations != sorted(set(iterations)):
        mend = "Yield one Events for each iteration, in their order"
        raise refused(where, "iterations that ascend", str(iterations), mend)
    again, other = bench.new_run(), bench.subject.new()
    other.open(again)
    bench.tell(other, events)
    other.close("finished")
    mend = "Yield all that is recorded, as it was told"
    bench.compare(bench.read(again), "the same record of what read() yields", mend)


def works_twice(bench: WriterBench) -> None:
    """Check that two instances in a run keep a record each, or are refused with an error of hookline."""
    name, other = bench.name, f"{bench.name}-2"
    files_of = {}
    for each in (name, other):
        run = replace(bench.new_run(), writer=each)
        writer = bench.subject.new()
        writer.open(run)
        bench.tell(writer, bench.events)
        writer.close("finished")
        files_of[each] = files(run.dir)
    shared = [file for file in files_of[name] if file in files_of[other]]
    for order in ((name, other), (other, name)):
        run = bench.new_run()
        if not _record_both(bench, run, order):
            return
        if shared:
            raise refused(name, _EACH_ITS_OWN, f"{shared[0]!r} of both", _MEND_TWICE)
        for file in files_of[other]:
            (run.dir / file).unlink(missing_ok=True)
        bench.compare(bench.read(run), _EACH_ITS_OWN, _MEND_TWICE)


def _record_both(bench: WriterBench, run: Run, names: tuple[str, str]) -> bool:
    """Tell an instance under each name of one run; return False where they are refused."""
    writers = {name: bench.subject.new() for name in names}
    opened: list[EventWriter] = []
    try:
        Delivery(EventStorage(), writers, run)  # knows who may be there once only
        for name, writer in writers.items():
            writer.open(replace(run, writer=name))
            opened.append(writer)
    except HooklineError:
        return False
    except Exception as error:
        raise refused(bench.name, _EACH_ITS_OWN, f"{type(error).__name__}: {error}", _MEND_TWICE) from error
    finally:
        if len(opened) < len(writers):
            for writer in opened:
                writer.close("failed")
    for start in range(0, len(bench.events), PORTION):
        for writer in opened:
            bench.tell(writer, bench.events[start : start + PORTION])
    for writer in opened:
        writer.close("finished")
    return True


def goes_back(bench: WriterBench) -> None:
    """Check that after an error at any line of a ``write`` nothing is lost or doubled."""
    lines = _lines(bench)
    for line in lines[:: -(-len(lines) // MAX_LINES)]:
        _fail_at(bench, *line)


def _fail_at(bench: WriterBench, file: str, number: int) -> None:
    """Let the second ``write`` fail at a line, and go back as a delivery does."""

    def at_line(frame: FrameType) -> None:
        if (frame.f_code.co_filename, frame.f_lineno) == (file, number):
            raise InjectedError

    run, writer = bench.new_run(), bench.subject.new()
    writer.open(run)
    bench.tell(writer, bench.events[:PORTION])
    position = copy.deepcopy(writer.state_dict())
    rest = bench.events[PORTION:]
    try:
        with tracing(_code_of(bench), at_line), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            bench.tell(writer, rest[:PORTION])
        rest = rest[PORTION:]  # It may mend it by itself.
    except Exception as error:
        if not caused_by_injection(error):
            raise
        if position is None:
            writer.close("failed")
            return
        writer.load_state_dict(position)
        writer.open(run)
    bench.tell(writer, rest)
    writer.close("finished")
    expected = f"the same record after an error at {Path(file).name}:{number}"
    mend = "Let the error pass, and in open() cut what was written after the position"
    bench.compare_after_trouble(bench.read(run), expected, mend)


def _lines(bench: WriterBench) -> list[tuple[str, int]]:
    """Return the lines of the writer's package that run from a second ``write`` on, in order."""
    lines: dict[tuple[str, int], None] = {}

    def at_line(frame: FrameType) -> None:
        lines.setdefault((frame.f_code.co_filename, frame.f_lineno))

    writer = bench.subject.new()
    writer.open(bench.new_run())
    bench.tell(writer, bench.events[:PORTION])
    with tracing(_code_of(bench), at_line):
        bench.tell(writer, bench.events[PORTION : 2 * PORTION])
    writer.close("finished")
    return list(lines)


def _code_of(bench: WriterBench) -> Callable[[CodeType], bool]:
    """Return a function that tells whether code belongs to the writer: to the packages of its classes."""
    own: set[str] = set()
    for cls in type(bench.subject.new()).__mro__:
        module = sys.modules[cls.__module__]
        package = sys.modules.get(cls.__module__.partition(".")[0], module)
        if getattr(module, "__file__", None) and cls.__module__ not in ("abc", EventWriter.__module__):
            own.add(str(module.__file__))
            if package.__name__ != "hookline":
                own.update(f"{folder}{os.sep}" for folder in getattr(package, "__path__", ()))
    return lambda code: code.co_filename.startswith(tuple(own))


def _position(bench: WriterBench, writer: EventWriter) -> Any:
    """Return the position of ``writer``, as a later process finds it."""
    where, expected = f"{bench.name}.state_dict", "JSON values and arrays"
    position = writer.state_dict()
    if any(isinstance(value, torch.Tensor) for value in _values(position)):
        mend = "Keep numbers and NumPy arrays: a writer has nothing of the device"
        raise refused(where, expected, "a torch tensor", mend)
    try:
        return through_a_checkpoint(position, bench.name)
    except Exception as error:
        raise refused(where, expected, f"{type(error).__name__}: {error}", "Keep plain data") from error


def _values(state: Any) -> Any:
    if isinstance(state, Mapping):
        state = list(state.values())
    if isinstance(state, (list, tuple)):
        for value in state:
            yield from _values(value)
    else:
        yield state


def _digest(events: list[Events]) -> str:
    return digests({"": [event.to_state() for event in events]})[""]


class _Replay(EventStorage):
    """A storage whose iterations are given to it as a whole."""

    def seal(self, event: Events) -> None:
        """Hand ``event`` to the reader, as ``step`` does."""
        self.arrived_iter = event.iteration + 1
        self._tell([event])
