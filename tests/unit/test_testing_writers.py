"""A writer for each kind of fault: the one call finds it, and says how to mend it."""

import json
import threading
import time
from contextlib import suppress
from dataclasses import replace
from typing import Annotated

import pytest
import torch
from pydantic import Field

from hookline import Events, EventWriter, RunError, Scalar
from hookline.testing import MemoryWriter, assert_plugin_conforms


def complaint(plugin, options=None, **arguments):
    """Return what is said of a writer that does not conform."""
    with pytest.raises(AssertionError, match="does not conform") as raised:
        assert_plugin_conforms(plugin, options, **arguments)
    return str(raised.value)


class Lines(EventWriter):
    """Writes a line an iteration, as a right writer does; the others below get one thing wrong.

    Args:
        file: Where to, after the name of the instance.
    """

    def __init__(self, file: Annotated[str, Field(min_length=1)] = "lines.txt") -> None:
        self.file = file
        self.size = 0

    def open(self, run):
        self.path = run.dir / f"{run.writer}-{self.file}"
        with open(self.path, "ab") as file:
            file.truncate(self.size)

    def write(self, events):
        for event in events:
            self.append(self.line(event))
        self.size = self.path.stat().st_size

    def line(self, event):
        scalars = {name: str(scalar.value) for name, scalar in event.scalars.items()}
        return json.dumps({"iteration": event.iteration, **scalars, **event.texts}) + "\n"

    def append(self, line):
        with open(self.path, "a") as file:
            file.write(line)

    def state_dict(self):
        return {"size": self.size}

    def load_state_dict(self, state):
        self.size = state["size"]


class Unpositioned(Lines):
    """Cannot be rewound: it appends, whatever happened."""

    def open(self, run):
        self.path = run.dir / f"{run.writer}-{self.file}"

    def state_dict(self):
        return None


@pytest.mark.parametrize("plugin", [Lines, Unpositioned])
def test_a_right_writer_conforms_with_and_without_a_position(plugin):
    assert_plugin_conforms(plugin, {"file": "my.txt"})


def test_what_is_recorded_elsewhere_is_read_with_a_function():
    server = {}

    class Remote(MemoryWriter):
        def open(self, run):
            super().open(run)
            self.rows = server.setdefault(run.dir, {})

        def write(self, events):
            super().write(events)
            self.rows.update((event.iteration, len(event.scalars)) for event in events)

    assert "expected a record in the run directory, got nothing" in complaint(Remote)
    reads = []

    def read(run_dir):
        reads.append(run_dir)
        return server[run_dir]

    assert_plugin_conforms(Remote, read=read)
    assert len(reads) > 3


def test_a_service_that_takes_nothing_back_may_be_told_twice_but_not_of_less():
    server = {}

    class Sending(EventWriter):
        """Sends each event; one in flight when it fails is sent again."""

        last = -1

        def open(self, run):
            self.rows = server.setdefault(run.dir, {}).setdefault(run.writer, [])

        def write(self, events):
            for event in events:
                self.rows.append((event.iteration, len(event.scalars)))
                self.last = event.iteration

        def state_dict(self):
            return {"last": self.last}

        def load_state_dict(self, state):
            self.last = state["last"]

    def read(run_dir):
        return min(server[run_dir].items())[1]

    assert_plugin_conforms(Sending, read=read, exactly_once=False)
    assert "expected the same record of a run that failed and was resumed" in complaint(Sending, read=read)

    class Skipping(Sending):
        def load_state_dict(self, state):
            self.skip = True

        def write(self, events):
            super().write(events[1:] if getattr(self, "skip", False) else events)

    said = complaint(Skipping, read=read, exactly_once=False)
    assert "state: Skipping: expected the same record of a run that paused and was resumed, got no (" in said


class Journal(Lines):
    """A right journal that can be read back, from a line an iteration."""

    journal = True

    def read(self, run_dir):
        for line in (run_dir / f"Journal-{self.file}").read_text().splitlines():
            iteration, texts, *scalars = json.loads(line)
            yield Events(iteration, 0.0, {name: Scalar(float(value)) for name, value in scalars}, texts=texts)

    def open(self, run):
        super().open(replace(run, writer="Journal"))

    def line(self, event):
        scalars = [[name, str(scalar.value)] for name, scalar in event.scalars.items()]
        return json.dumps([event.iteration, event.texts, *scalars]) + "\n"


def test_a_journal_conforms_with_and_without_a_way_to_read_it():
    assert_plugin_conforms(Journal)

    class Closed(Journal):
        read = EventWriter.read

    assert_plugin_conforms(Closed)


def test_a_journal_that_reads_back_something_else_is_told():
    class Forgetting(Journal):
        def read(self, run_dir):
            return (event for event in super().read(run_dir) if event.iteration != 9)

    class Mixing(Journal):
        def read(self, run_dir):
            return iter([*super().read(run_dir)][::-1])

    class Changing(Journal):
        def read(self, run_dir):
            found = [*super().read(run_dir)]
            (run_dir / f"Journal-{self.file}").write_text("read")
            return iter(found)

    said = {plugin: complaint(plugin) for plugin in (Forgetting, Mixing, Changing)}
    assert "journal: Forgetting: expected the same record of what read() yields, got in" in said[Forgetting]
    assert "journal: Mixing.read: expected iterations that ascend, got [23, 22," in said[Mixing]
    assert "journal: Changing.read: expected the record to be left as it is" in said[Changing]


# -- code and options -------------------------------------------------------------------------------


def test_faults_of_the_code_are_told():
    class Wrong(EventWriter):
        def write(self):
            pass

    assert "Wrong.write: expected a method that takes 1 argument beside self" in complaint(Wrong)


def test_a_writer_without_write_is_refused():
    class Nothing(EventWriter):
        pass

    assert "one without write" in complaint(Nothing)


def test_a_period_among_the_options_could_never_be_set():
    class Periodic(Lines):
        def __init__(self, period: int = 3) -> None:
            super().__init__()

    said = complaint(Periodic)
    assert "Periodic.period: expected a name that a config leaves to writers" in said
    assert "run.period" in said


def test_wrong_options_are_refused():
    assert "Lines.file: expected a string of length >= 1" in complaint(Lines, {"file": ""})


# -- the record -------------------------------------------------------------------------------------


def test_a_record_that_differs_from_run_to_run_asks_for_a_reader():
    class Stamped(Lines):
        def line(self, event):
            return f"{time.perf_counter()} {event.iteration}\n"

    assert "expected the same record of two equal runs" in complaint(Stamped)
    assert_plugin_conforms(Stamped, read=lambda run_dir: iterations(run_dir / "Stamped-lines.txt"))


def iterations(path):
    return [line.split()[1] for line in path.read_text().splitlines()]


def test_events_that_are_changed_are_found():
    class Changing(Lines):
        def line(self, event):
            event.scalars.pop("lr", None)
            return super().line(event)

    assert "Changing.write: expected events to be left as they are" in complaint(Changing)


def test_a_record_that_depends_on_how_many_events_come_at_a_time_is_found():
    class Last(Lines):
        def write(self, events):
            super().write(events[-1:])

    said = complaint(Last)
    assert "order: Last: expected the same record when events come 1 at a time" in said


def test_a_writer_bound_to_the_thread_that_made_it_is_found():
    class Bound(Lines):
        def __init__(self) -> None:
            super().__init__()
            self.thread = threading.get_ident()

        def append(self, line):
            if threading.get_ident() != self.thread:
                raise RuntimeError("another thread")
            super().append(line)

    said = complaint(Bound)
    assert "delivery: Bound: expected all events to be recorded on a writer's thread" in said
    assert "RuntimeError: another thread" in said


# -- positions --------------------------------------------------------------------------------------


def test_a_writer_that_does_not_cut_what_follows_its_position_is_found():
    class Doubling(Lines):
        def open(self, run):
            self.path = run.dir / self.file

    said = complaint(Doubling)
    assert "state: Doubling: expected the same record of a run that failed and was resumed" in said
    assert "Forget in open() what follows the position" in said
    assert "errors: Doubling: expected the same record after an error at test_testing_writers.py:" in said


def test_a_writer_that_keeps_events_in_memory_alone_is_found():
    class Buffering(Lines):
        def __init__(self) -> None:
            super().__init__()
            self.buffer = []

        def append(self, line):
            self.buffer.append(line)

        def write(self, events):
            for event in events:
                self.append(self.line(event))

        def close(self, status):
            if status == "finished":
                self.path.write_text("".join(self.buffer))

    said = complaint(Buffering)
    assert "state: Buffering: expected the same record of a run that paused and was resumed" in said


def test_a_position_that_moves_before_the_write_is_found():
    class Early(Lines):
        def write(self, events):
            lines = [self.line(event) for event in events]
            self.size += sum(len(line.encode()) for line in lines)
            for line in lines:
                self.append(line)

        def load_state_dict(self, state):
            self.size = max(self.size, state["size"])

    assert "errors: Early: expected the same record after an error at" in complaint(Early)


def test_a_write_that_swallows_errors_is_found():
    class Swallowing(Lines):
        def append(self, line):
            with suppress(Exception):
                super().append(line)

    said = complaint(Swallowing)
    assert "errors: Swallowing: expected the same record after an error at" in said
    assert "Let the error pass" in said


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"size": torch.ones(1)}, "got a torch tensor"),
        ({"file": print}, "got CheckpointError"),
    ],
)
def test_a_position_that_is_no_plain_data_is_found(state, words):
    class Odd(Lines):
        def state_dict(self):
            return state

        def load_state_dict(self, state):
            pass

    said = complaint(Odd)
    assert "Odd.state_dict: expected JSON values and arrays" in said
    assert words in said


# -- two instances ------------------------------------------------------------------------------------


TWO = "expected two instances under two names to keep a record each, got"


def test_two_instances_that_share_a_file_are_found():
    class Sharing(Lines):
        def open(self, run):
            super().open(replace(run, writer="all"))

    said = complaint(Sharing)
    assert f"twice: Sharing: {TWO} 'all-lines.txt' of both. Name what it makes after run.writer" in said
    assert said.count(": expected") == 1


@pytest.mark.parametrize("wins", ["first", "last"])
def test_instances_of_which_one_alone_is_recorded_are_found(wins):
    class Global(Lines):
        current = None

        def open(self, run):
            super().open(run)
            if wins == "last" or Global.current is None:
                Global.current = self

        def append(self, line):
            if Global.current is self:
                super().append(line)

        def close(self, status):
            Global.current = None

    assert f"twice: Global: {TWO}" in complaint(Global)


def test_a_service_to_which_two_instances_are_one_is_found():
    server = {}

    class Joining(MemoryWriter):
        def open(self, run):
            super().open(run)
            server.setdefault(run.dir, []).append(self)

    def read(run_dir):
        last = {event.iteration: 0 for writer in server[run_dir] for event in writer.events}
        return [iteration for writer in server[run_dir][:2] for iteration in writer.iterations], last

    assert f"twice: Joining: {TWO}" in complaint(Joining, read=read)


def test_a_second_instance_may_be_refused():
    class Journal(Lines):
        journal = True

        def open(self, run):
            super().open(replace(run, writer="journal"))

    assert_plugin_conforms(Journal)
    taken, closed = {}, []

    class Alone(Lines):
        def open(self, run):
            if taken.setdefault(run.dir, run.writer) != run.writer:
                raise RunError(f"{run.writer}: expected a run without {taken[run.dir]!r}. Take it out.")
            super().open(replace(run, writer="alone"))

        def close(self, status):
            closed.append(self)

    assert_plugin_conforms(Alone)

    class Crashing(Alone):
        def open(self, run):
            try:
                super().open(run)
            except RunError as error:
                raise OSError(11, "taken") from error

    said = complaint(Crashing)
    assert f"twice: Crashing: {TWO} BlockingIOError: [Errno 11] taken. Name what" in said


# -- the end ----------------------------------------------------------------------------------------


def test_a_close_that_fails_before_the_first_event_is_found():
    class Closing(Lines):
        last = None

        def line(self, event):
            self.last = event.iteration
            return super().line(event)

        def close(self, status):
            self.path.with_suffix(".end").write_text(f"{status} {self.last + 1}")

    said = complaint(Closing)
    assert "close: Closing.close('finished'): expected no error, got TypeError" in said
    assert "after 0 events" in said


def test_a_view_command_that_is_no_string_is_found():
    class Viewing(Lines):
        def view_command(self):
            return ["less", self.file]

    assert "Viewing.view_command: expected a string or None, got ['less'" in complaint(Viewing)
