"""Delivery: every event reaches every writer once and in order, whatever a writer does."""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hookline import (
    ConfigError,
    Delivery,
    Events,
    EventStorage,
    EventWriter,
    PluginError,
    Run,
    WriterError,
    get_event_storage,
)
from hookline.checkpoint import decode, encode
from hookline.delivery import Gap
from hookline.delivery import worker as worker_module
from hookline.errors import Problem, RunError, notes
from hookline.events.table import EventLog

RUN = Run(dir=Path("."), name="test", id="1", period=5)


class Memory(EventWriter):
    """Keeps what it is told; its position is how much that is. ``act`` is called before every call."""

    def __init__(self, act: Callable[[str], None] = lambda method: None, position: bool = True) -> None:
        self.act, self.has_position = act, position
        self.kept: list[Events] = []
        self.calls: list[str] = []
        self.sizes: list[int] = []
        self.threads: set[threading.Thread] = set()

    def _called(self, method: str) -> None:
        self.calls.append(method)
        self.threads.add(threading.current_thread())
        self.act(method)

    def open(self, run: Run) -> None:
        self.run = run
        self._called("open")

    def write(self, events: Sequence[Events]) -> None:
        # Half of a failed call leaves traces, as in a file.
        self.kept += events[: len(events) // 2]
        self._called("write")
        self.kept += events[len(events) // 2 :]
        self.sizes.append(len(events))

    def state_dict(self) -> dict[str, Any] | None:
        return {"num_kept": len(self.kept)} if self.has_position else None

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._called("load_state_dict")
        del self.kept[state["num_kept"] :]

    def close(self, status: str) -> None:
        self._called(f"close {status}")

    @property
    def iterations(self) -> list[int]:
        return [events.iteration for events in self.kept]


class Journal(Memory):
    journal = True


class Failing:
    """Raises at the calls of ``method`` whose numbers are given, counted from 0."""

    def __init__(self, method: str, numbers: Sequence[int], error: BaseException | None = None) -> None:
        self.method, self.numbers, self.count = method, numbers, -1
        self.error = error or OSError("disk full")

    def told(self, events: list[Events]) -> None:
        self("events")

    def __call__(self, method: str) -> None:
        if method == self.method:
            self.count += 1
            if self.count in self.numbers:
                raise self.error


class Blocking:
    """Holds every call of ``method`` until it is released, and tells that it does."""

    def __init__(self, method: str = "write") -> None:
        self.method, self.entered, self.released = method, threading.Event(), threading.Event()

    def __call__(self, method: str) -> None:
        if method.startswith(self.method):
            self.entered.set()
            assert self.released.wait(20)


ALWAYS = range(1000)


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    monkeypatch.setattr(worker_module, "BACKOFF_S", 0.001)


@pytest.fixture
def blocking():
    acts: list[Blocking] = []

    def make(method: str = "write") -> Blocking:
        acts.append(Blocking(method))
        return acts[-1]

    yield make
    for act in acts:
        act.released.set()


def train(storage: EventStorage, num_iters: int) -> None:
    for _ in range(num_iters):
        storage.put_scalar("a", storage.iter)
        storage.step()


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def warnings_in(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def through_a_checkpoint(state: Any) -> Any:
    return decode(*encode(state))


def pending(state: dict[str, Any], name: str = "a") -> list[int]:
    """Return the iterations that ``state`` holds for a writer."""
    return [events.iteration for events in EventLog.from_state(state[name]["pending"])]


# -- the ordinary way ------------------------------------------------------------------------------


def test_every_event_reaches_every_writer_once_and_in_order():
    writers = {name: Memory() for name in "abc"}
    with EventStorage() as storage, Delivery(storage, writers, RUN, periods={"b": 7, "c": 0}) as delivery:
        train(storage, 103)
    for writer in writers.values():
        assert writer.iterations == list(range(103))
        assert writer.calls[0] == "open"
        assert writer.calls[-1] == "close finished"
    assert delivery.gaps == []
    assert all(seconds > 0 for seconds in delivery.seconds.values())


def test_every_writer_gets_images_histograms_texts_and_hparams():
    writers = {name: Memory() for name in "ab"}
    with EventStorage() as storage, Delivery(storage, writers, RUN):
        storage.put_image("i", torch.ones(1, 2, 2))
        storage.put_histogram("h", torch.ones(3))
        storage.put_text("t", "x")
        storage.put_hparams({"lr": 0.1})
        storage.step()
    for writer in writers.values():
        (events,) = writer.kept
        assert (list(events.images), list(events.histograms)) == (["i"], ["h"])
        assert (events.texts, events.hparams) == ({"t": "x"}, {"lr": 0.1})


def test_all_methods_run_on_one_daemon_thread_without_the_storage():
    found = []

    def act(method: str) -> None:
        with pytest.raises(RunError):
            get_event_storage()
        found.append(method)

    writer = Memory(act)
    with EventStorage() as storage, Delivery(storage, {"a": writer}, RUN):
        train(storage, 3)
    assert found == ["open", "write", "close finished"]
    (thread,) = writer.threads
    assert thread.daemon
    assert thread is not threading.current_thread()


def test_a_writer_is_told_its_own_period():
    writers = {"a": Memory(), "b": Memory()}
    with Delivery(EventStorage(), writers, RUN, periods={"b": 7}):
        pass
    assert [writer.run.period for writer in writers.values()] == [5, 7]


def test_a_writer_is_told_its_instance_name():
    writers = {"a": Memory(), "b": Memory()}
    with Delivery(EventStorage(), writers, RUN):
        pass
    assert [writer.run.writer for writer in writers.values()] == ["a", "b"]


def test_a_second_journal_is_refused_before_any_writer_is_opened():
    writers = {"a": Memory(), "mine": Journal(), "again": Journal()}
    with pytest.raises(PluginError) as error:
        Delivery(EventStorage(), writers, RUN)
    assert str(error.value) == (
        "writers.again: expected one journal in a run, got a second one beside 'mine'. "
        "A journal is the run's own record. Take one of the two out of the writers."
    )
    assert error.value.exit_code == 2


def test_a_writer_is_woken_when_its_own_period_ends(monkeypatch):
    monkeypatch.setattr(worker_module, "MIN_INTERVAL_S", 0.0)
    often, rarely, never = Memory(), Memory(), Memory()
    writers = {"often": often, "rarely": rarely, "never": never}
    storage = EventStorage(start_iter=3)
    delivery = Delivery(storage, writers, RUN, periods={"rarely": 50, "never": 0})
    with delivery:
        train(storage, 1)
        assert often.kept == []
        train(storage, 1)
        eventually(lambda: often.iterations == [3, 4])
        train(storage, 4)
        time.sleep(0.02)
        assert often.iterations == [3, 4]
        assert rarely.kept == never.kept == []


def test_writers_are_woken_rarely(monkeypatch):
    monkeypatch.setattr(worker_module, "MIN_INTERVAL_S", 1000.0)
    writer, storage = Memory(), EventStorage()
    with Delivery(storage, {"a": writer}, RUN):
        train(storage, 64 * 5 - 1)
        time.sleep(0.02)
        assert writer.kept == []
        train(storage, 1)
        eventually(lambda: len(writer.kept) == 64 * 5)


def test_a_resumed_run_counts_periods_from_where_it_is(monkeypatch):
    monkeypatch.setattr(worker_module, "MIN_INTERVAL_S", 1000.0)
    writer, storage = Memory(), EventStorage(start_iter=10_000)
    with Delivery(storage, {"a": writer}, RUN):
        train(storage, 10)
        time.sleep(0.02)
        assert writer.kept == []


def test_many_waiting_bytes_wake_the_writers(monkeypatch):
    monkeypatch.setattr("hookline.delivery.delivery.INBOX_BYTES", 50_000)
    writer, storage = Memory(), EventStorage()
    with Delivery(storage, {"a": writer}, RUN, periods={"a": 0}):
        for _ in range(3):
            storage.put_image("i", np.zeros((1, 160, 160), np.uint8))
            storage.step()
        eventually(lambda: writer.iterations == [0, 1])


def test_an_iteration_without_events_still_ends_a_period(monkeypatch):
    monkeypatch.setattr(worker_module, "MIN_INTERVAL_S", 0.0)
    writer, storage = Memory(), EventStorage()
    with Delivery(storage, {"a": writer}, RUN):
        train(storage, 1)
        for _ in range(4):
            storage.step()
        eventually(lambda: writer.iterations == [0])


def test_flush_returns_when_all_is_delivered():
    writer, storage = Memory(), EventStorage()
    with Delivery(storage, {"a": writer}, RUN) as delivery:
        train(storage, 3)
        assert delivery.flush() is True
        assert writer.iterations == [0, 1, 2]


def test_flush_with_a_limit_gives_up_waiting_but_not_the_writer(blocking):
    act = blocking()
    writer, storage = Memory(act), EventStorage()
    with Delivery(storage, {"a": writer}, RUN) as delivery:
        train(storage, 3)
        assert delivery.flush(timeout_s=0.01) is False
        act.released.set()
        assert delivery.flush() is True
    assert writer.iterations == [0, 1, 2]


def test_a_backlog_is_written_in_calls_of_bounded_size(monkeypatch):
    monkeypatch.setattr(worker_module, "MAX_EVENTS_PER_CALL", 4)
    writer, storage = Memory(), EventStorage()
    with Delivery(storage, {"a": writer}, RUN, periods={"a": 0}):
        train(storage, 10)
    assert writer.sizes == [4, 4, 2]


@pytest.mark.parametrize("status", ["finished", "stopped", "paused", "failed"])
def test_close_tells_the_status_once(status):
    writer, storage = Memory(), EventStorage()
    delivery = Delivery(storage, {"a": writer}, RUN)
    delivery.open()
    train(storage, 1)
    assert delivery.close(status) == []
    assert delivery.close("other") == []
    assert writer.calls == ["open", "write", f"close {status}"]


def test_an_exception_closes_with_failed_and_is_not_hidden():
    writer, storage = Memory(), EventStorage()
    broken = Journal(Failing("write", ALWAYS))
    storage.attach(Failing("events", [1], KeyError()).told)
    with pytest.raises(KeyError) as error, Delivery(storage, {"broken": broken, "a": writer}, RUN):
        train(storage, 2)
    assert writer.iterations == [0, 1]
    assert writer.calls[-1] == "close failed"
    assert "disk full" in notes(error.value)[0]


def test_a_closed_delivery_is_told_no_more():
    writer, storage = Memory(), EventStorage()
    with Delivery(storage, {"a": writer}, RUN) as delivery:
        train(storage, 1)
    train(storage, 100)
    assert writer.iterations == [0]
    assert pending(delivery.state_dict()) == []


def test_a_run_without_writers_is_a_run():
    storage = EventStorage()
    with Delivery(storage, {}, RUN) as delivery:
        train(storage, 3)
        assert delivery.state_dict() == {}
    assert delivery.close("finished") == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_error": {"b": "raise"}}, "expected options of a writer, got 'b'. The writers are: a"),
        (
            {"on_error": {"a": "ignore"}},
            "writers.a.on_error: expected one of raise, disable, retry, got 'ignore'",
        ),
        ({"periods": {"a": -1}}, "writers.a.period: expected a whole number >= 0, got -1"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Delivery(EventStorage(), {"a": Memory()}, RUN, **options)


def test_a_writer_must_write():
    class Nothing(EventWriter):
        pass

    with pytest.raises(TypeError, match="write"):
        Nothing()


# -- opening ---------------------------------------------------------------------------------------


def test_an_error_of_ours_in_open_is_raised_as_it_is_and_the_others_are_closed():
    error = ConfigError([Problem("writers.bad.mode", "online", "x")])
    good, bad = Memory(), Memory(Failing("open", ALWAYS, error))
    storage = EventStorage()
    delivery = Delivery(storage, {"good": good, "bad": bad}, RUN)
    with pytest.raises(ConfigError) as raised:
        delivery.open()
    assert raised.value is error
    assert good.calls == ["open", "close failed"]
    assert bad.calls == ["open"]
    train(storage, 10)
    assert delivery.close("failed") == []


def test_a_writer_that_may_be_switched_off_is_when_it_cannot_be_opened(caplog):
    good, bad = Memory(), Memory(Failing("open", ALWAYS, OSError("no key")))
    storage = EventStorage()
    delivery = Delivery(storage, {"good": good, "bad": bad}, RUN, on_error={"bad": "disable"})
    delivery.open()
    train(storage, 10)
    (gap,) = delivery.close("finished")
    assert (gap.writer, gap.first_iteration, gap.last_iteration, gap.num_events) == ("bad", 0, 9, 10)
    assert bad.calls == ["open"]
    assert good.calls[-1] == "close finished"
    assert "writers.bad: switched off, it misses all events from iteration 0 on" in caplog.text


@pytest.mark.parametrize("error", [OSError("no key"), SystemExit(3), KeyboardInterrupt()])
def test_another_error_in_open_becomes_a_writer_error(error):
    delivery = Delivery(EventStorage(), {"bad": Memory(Failing("open", ALWAYS, error))}, RUN)
    with pytest.raises(WriterError, match=r"writers.bad: expected open\(\) to succeed") as raised:
        delivery.open()
    assert raised.value.__cause__ is error


def test_an_open_that_hangs_ends_the_run(monkeypatch, blocking):
    monkeypatch.setattr(worker_module, "OPEN_TIMEOUT_S", 0.05)
    delivery = Delivery(EventStorage(), {"bad": Memory(blocking("open"))}, RUN)
    with pytest.raises(WriterError, match=r"open\(\) has not returned for 0.05 s"):
        delivery.open()


# -- writers that raise ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Memory, Journal])
@pytest.mark.parametrize("error", [OSError("disk full"), SystemExit(1), KeyboardInterrupt()])
def test_a_writer_that_raises_goes_back_and_writes_again(kind, error, caplog):
    writer, storage = kind(Failing("write", [1, 2, 3], error)), EventStorage()
    with Delivery(storage, {"a": writer}, RUN) as delivery:
        for _ in range(3):
            train(storage, 4)
            delivery.flush()
    assert writer.iterations == list(range(12))
    again = ["load_state_dict", "open", "write"]
    assert writer.calls == ["open", "write", "write", *again, *again, *again, "write", "close finished"]
    assert delivery.gaps == []
    assert warnings_in(caplog) == []


def test_failures_while_going_back_count_as_tries():
    writer, storage = Memory(Failing("open", [1, 2])), EventStorage()
    failing = Failing("write", [0])
    act = writer.act
    writer.act = lambda method: (act(method), failing(method))[0]
    with Delivery(storage, {"a": writer}, RUN):
        train(storage, 4)
    assert writer.iterations == [0, 1, 2, 3]
    assert writer.calls.count("open") == 4


def test_a_writer_that_keeps_raising_is_switched_off_with_one_warning_and_a_gap(caplog):
    good, bad = Memory(), Memory(Failing("write", range(1, 1000)))
    storage = EventStorage()
    with Delivery(storage, {"good": good, "bad": bad}, RUN) as delivery:
        for _ in range(4):
            train(storage, 5)
            delivery.flush()
    assert good.iterations == list(range(20))
    assert delivery.gaps == [Gap("bad", 5, 19, 15, "OSError: disk full")]
    assert bad.calls.count("write") == 1 + 4
    assert bad.calls[-1] == "close failed"
    (warning,) = warnings_in(caplog)
    assert "writers.bad: switched off, it misses all events from iteration 5 on" in warning


def test_disable_switches_off_at_once(caplog):
    writer, storage = Memory(Failing("write", [0])), EventStorage()
    with Delivery(storage, {"a": writer}, RUN, on_error={"a": "disable"}) as delivery:
        train(storage, 3)
    assert writer.calls == ["open", "write", "close failed"]
    assert delivery.gaps == [Gap("a", 0, 2, 3, "OSError: disk full")]
    assert len(warnings_in(caplog)) == 1


def test_a_writer_without_a_position_is_not_retried():
    writer, storage = Memory(Failing("write", [0]), position=False), EventStorage()
    with Delivery(storage, {"a": writer}, RUN) as delivery:
        train(storage, 3)
    assert writer.calls.count("write") == 1
    assert [gap.num_events for gap in delivery.gaps] == [3]


def test_raise_surfaces_at_the_next_step_and_only_once():
    bad = Memory(Failing("write", [0]))
    storage = EventStorage()
    delivery = Delivery(storage, {"bad": bad}, RUN, on_error={"bad": "raise"})
    delivery.open()
    train(storage, 2)
    delivery.state_dict()
    eventually(lambda: "close failed" in bad.calls)
    with pytest.raises(
        WriterError, match=r"writers\.bad at iteration 0: expected its events to be recorded"
    ) as error:
        storage.step()
    assert isinstance(error.value.__cause__, OSError)
    assert storage.iter == 3
    train(storage, 1)
    assert delivery.close("failed") == [Gap("bad", 0, 3, 3, "OSError: disk full")]


@pytest.mark.parametrize("at", ["flush", "close"])
def test_raise_surfaces_when_somebody_waits(at):
    good, storage = Memory(), EventStorage()
    writers = {"bad": Memory(Failing("write", [0])), "good": good}
    delivery = Delivery(storage, writers, RUN, on_error={"bad": "raise"})
    delivery.open()
    train(storage, 2)
    with pytest.raises(WriterError, match=r"writers\.bad at iteration 0"):
        delivery.flush() if at == "flush" else delivery.close("finished")
    delivery.close("failed")
    assert good.iterations == [0, 1]
    assert good.calls[-1].startswith("close")


@pytest.mark.parametrize("policy", ["retry", "disable", "raise"])
def test_a_journal_that_cannot_be_written_ends_the_run(policy, caplog):
    journal, storage = Journal(Failing("write", ALWAYS)), EventStorage()
    delivery = Delivery(storage, {"j": journal}, RUN, on_error={"j": policy})
    delivery.open()
    train(storage, 2)
    with pytest.raises(WriterError, match="It is the run's journal"):
        delivery.flush()
    assert journal.calls.count("write") == (4 if policy == "retry" else 1)
    assert [gap.num_events for gap in delivery.close("failed")] == [2]
    assert warnings_in(caplog) == []


@pytest.mark.parametrize("kind", [Memory, Journal])
def test_a_close_that_raises_is_told_and_closes_the_others(kind, caplog):
    good, storage = Memory(), EventStorage()
    bad = kind(Failing("close finished", [0]))
    delivery = Delivery(storage, {"bad": bad, "good": good}, RUN)
    delivery.open()
    train(storage, 2)
    if kind is Journal:
        with pytest.raises(WriterError, match="disk full"):
            delivery.close("finished")
    else:
        delivery.close("finished")
        assert len(warnings_in(caplog)) == 1
        assert "it has every event, but was not closed" in caplog.text
    assert delivery.gaps == [Gap("bad", 1, 1, 0, "OSError: disk full")]
    assert bad.iterations == good.iterations == [0, 1]
    assert good.calls[-1] == "close finished"


def test_a_device_that_fails_leaves_no_writer_open(monkeypatch):
    writer, storage = Memory(), EventStorage()
    delivery = Delivery(storage, {"a": writer}, RUN)
    delivery.open()
    train(storage, 2)

    def drain() -> list[Events]:
        raise RuntimeError("CUDA error")

    monkeypatch.setattr(storage, "drain", drain)
    with pytest.raises(RuntimeError, match="CUDA error"):
        delivery.close("failed")
    assert writer.iterations == [0, 1]
    assert writer.calls[-1] == "close failed"


# -- writers that are slow or hang -----------------------------------------------------------------


def test_training_does_not_wait_for_a_slow_writer(blocking):
    act = blocking()
    slow, fast, storage = Memory(act), Memory(), EventStorage()
    with Delivery(storage, {"slow": slow, "fast": fast}, RUN) as delivery:
        train(storage, 5)
        delivery.state_dict()
        assert act.entered.wait(10)
        train(storage, 500)
        eventually(lambda: fast.iterations[:5] == list(range(5)))
        act.released.set()
    assert slow.iterations == fast.iterations == list(range(505))


@pytest.mark.parametrize("at", ["flush", "close"])
def test_a_writer_that_hangs_is_given_up_with_a_gap(at, blocking, caplog):
    act = blocking()
    hung, good, storage = Memory(act), Memory(), EventStorage()
    delivery = Delivery(storage, {"hung": hung, "good": good}, RUN, timeout_s=0.05)
    delivery.open()
    train(storage, 7)
    if at == "flush":
        delivery.flush()
        train(storage, 3)
    gaps = delivery.close("finished")
    last = 9 if at == "flush" else 6
    assert gaps == [Gap("hung", 0, last, last + 1, "TimeoutError: write() has not returned for 0.05 s")]
    assert good.iterations == list(range(last + 1))
    assert len(warnings_in(caplog)) == 1


def test_a_writer_that_was_given_up_is_called_no_more(blocking):
    act = blocking()
    hung, storage = Memory(act), EventStorage()
    delivery = Delivery(storage, {"hung": hung}, RUN, timeout_s=0.05)
    delivery.open()
    train(storage, 3)
    delivery.flush()
    position = delivery.state_dict()["hung"]["position"]
    act.released.set()
    (thread,) = hung.threads
    thread.join(10)
    assert not thread.is_alive()
    assert hung.calls == ["open", "write"]
    assert delivery.state_dict()["hung"]["position"] == position == {"num_kept": 0}
    assert [gap.num_events for gap in delivery.close("finished")] == [3]


def test_a_journal_that_hangs_ends_the_run(blocking):
    storage = EventStorage()
    delivery = Delivery(storage, {"j": Journal(blocking())}, RUN, timeout_s=0.05)
    delivery.open()
    train(storage, 3)
    with pytest.raises(
        WriterError, match=r"writers.j at iteration 0: .*TimeoutError.*It is the run's journal"
    ):
        delivery.close("finished")


def test_a_close_that_hangs_is_given_up(blocking, caplog):
    writer, storage = Memory(blocking("close")), EventStorage()
    with Delivery(storage, {"a": writer}, RUN, timeout_s=0.05) as delivery:
        train(storage, 3)
    assert delivery.gaps == [Gap("a", 2, 2, 0, "TimeoutError: close() has not returned for 0.05 s")]
    assert len(warnings_in(caplog)) == 1


def test_a_failed_writer_whose_close_hangs_is_left_alone(blocking, caplog):
    block, failing = blocking("close"), Failing("write", ALWAYS)
    writer, storage = Memory(lambda method: (block(method), failing(method))[0]), EventStorage()
    with Delivery(storage, {"a": writer}, RUN, timeout_s=0.05) as delivery:
        train(storage, 3)
    assert [gap.reason for gap in delivery.gaps] == ["OSError: disk full"]
    assert len(warnings_in(caplog)) == 1


def test_a_backlog_that_moves_is_waited_for(monkeypatch):
    monkeypatch.setattr(worker_module, "MAX_EVENTS_PER_CALL", 1)
    writer = Memory(lambda method: time.sleep(0.03 if method == "write" else 0))
    storage = EventStorage()
    with Delivery(storage, {"a": writer}, RUN, timeout_s=0.1) as delivery:
        train(storage, 8)
    assert delivery.gaps == []
    assert writer.iterations == list(range(8))


def test_a_backlog_that_is_too_large_switches_its_writer_off(monkeypatch, blocking, caplog):
    monkeypatch.setattr(worker_module, "BACKLOG_BYTES", 20_000)
    act = blocking()
    slow, good, storage = Memory(act), Memory(), EventStorage()
    with Delivery(storage, {"slow": slow, "good": good}, RUN) as delivery:
        for _ in range(6):
            train(storage, 5)
            delivery.state_dict()
            eventually(lambda: len(good.kept) == storage.iter)
    (gap,) = delivery.gaps
    assert (gap.first_iteration, gap.last_iteration, gap.num_events) == (0, 29, 30)
    assert "of events waited for it" in gap.reason
    assert good.iterations == list(range(30))
    assert len(warnings_in(caplog)) == 1


def test_training_waits_for_a_journal_whose_backlog_is_full(monkeypatch, blocking):
    monkeypatch.setattr(worker_module, "BACKLOG_BYTES", 20_000)
    act = blocking()
    journal, storage = Journal(act), EventStorage()
    timer = threading.Timer(0.1, act.released.set)
    with Delivery(storage, {"j": journal}, RUN) as delivery:
        timer.start()
        for _ in range(8):
            train(storage, 5)
            delivery.state_dict()
        assert act.released.is_set()
    assert delivery.gaps == []
    assert journal.iterations == list(range(40))


# -- checkpoints -----------------------------------------------------------------------------------


def test_a_checkpoint_never_waits_for_a_writer(blocking):
    act = blocking()
    writer, storage = Memory(act), EventStorage()
    with Delivery(storage, {"a": writer}, RUN) as delivery:
        train(storage, 3)
        delivery.state_dict()
        assert act.entered.wait(10)
        train(storage, 2)
        state = delivery.state_dict()
        act.released.set()
    assert state["a"]["position"] == {"num_kept": 0}
    assert pending(state) == [0, 1, 2, 3, 4]


def test_a_checkpoint_holds_what_waits_in_the_storage_of_a_device():
    storage = EventStorage()
    with Delivery(storage, {"a": Memory()}, RUN) as delivery:
        train(storage, 2)
        storage.state_dict()
        state = delivery.state_dict()
    assert pending(state) == [0, 1]


def test_events_that_several_writers_wait_for_are_stored_once():
    storage = EventStorage()
    with Delivery(storage, {"a": Memory(), "b": Memory()}, RUN) as delivery:
        train(storage, 2)
        state = delivery.state_dict()
    assert state["a"]["pending"] is state["b"]["pending"]


@pytest.mark.parametrize("flushed", [0, 4, 10])
def test_a_restored_writer_goes_on_from_its_position_with_what_follows(flushed):
    disk, storage = Memory(), EventStorage()
    first = Delivery(storage, {"a": disk}, RUN)
    first.open()
    train(storage, flushed)
    first.flush()
    train(storage, 10 - flushed)
    delivery_state, storage_state = through_a_checkpoint(first.state_dict()), storage.state_dict()
    train(storage, 5)
    first.flush()

    disk.calls.clear()
    resumed = EventStorage()
    resumed.load_state_dict(storage_state)
    second = Delivery(resumed, {"a": disk}, RUN)
    second.load_state_dict(delivery_state)
    with second:
        train(resumed, 7)
    first.close("failed")
    assert disk.calls[:2] == ["load_state_dict", "open"]
    assert disk.iterations == list(range(17))


def pending_state() -> dict[str, Any]:
    storage = EventStorage()
    with Delivery(storage, {"a": Memory()}, RUN) as delivery:
        train(storage, 2)
        return through_a_checkpoint(delivery.state_dict())


def test_what_waited_is_written_as_soon_as_all_are_open():
    writer = Memory()
    delivery = Delivery(EventStorage(start_iter=2), {"a": writer}, RUN)
    delivery.load_state_dict(pending_state())
    with delivery:
        eventually(lambda: writer.iterations == [0, 1])


def test_what_waited_is_not_written_by_a_run_that_cannot_start():
    writer, bad = Memory(), Memory(Failing("open", ALWAYS))
    delivery = Delivery(EventStorage(start_iter=2), {"a": writer, "bad": bad}, RUN)
    delivery.load_state_dict(pending_state())
    with pytest.raises(WriterError):
        delivery.open()
    assert writer.calls == ["load_state_dict", "open", "close failed"]


def test_a_restored_writer_without_a_position_is_told_again_what_followed(blocking):
    act = blocking()
    disk, storage = Memory(act, position=False), EventStorage()
    with Delivery(storage, {"a": disk}, RUN) as first:
        train(storage, 3)
        first.state_dict()
        assert act.entered.wait(10)
        state = through_a_checkpoint(first.state_dict())
        act.released.set()
    assert state["a"]["position"] is None
    again = Memory(position=False)
    second = Delivery(EventStorage(start_iter=3), {"a": again}, RUN)
    second.load_state_dict(state)
    with second:
        train(second.storage, 1)
    assert again.iterations == [0, 1, 2, 3]
    assert "load_state_dict" not in again.calls


def test_a_writer_added_or_removed_at_a_resume_is_no_error():
    storage = EventStorage()
    with Delivery(storage, {"old": Memory()}, RUN) as first:
        train(storage, 2)
        state = first.state_dict()
    new = Memory()
    second = Delivery(EventStorage(start_iter=2), {"new": new}, RUN)
    second.load_state_dict(state)
    with second:
        train(second.storage, 1)
    assert new.iterations == [2]


@pytest.mark.parametrize("flushed", [2, 0])
def test_a_writer_that_was_left_out_goes_on_after_what_it_has(caplog, flushed):
    disk, storage = Memory(), EventStorage()
    first = Delivery(storage, {"a": disk}, RUN)
    first.open()
    train(storage, flushed)
    first.flush()
    train(storage, 2 - flushed)
    state = through_a_checkpoint(first.state_dict())
    first.close("paused")
    for start_iter in (2, 5):
        without = Delivery(EventStorage(start_iter=start_iter), {}, RUN)
        without.load_state_dict(state)
        with without:
            train(without.storage, 3)
            state = through_a_checkpoint(without.state_dict())
    assert not caplog.records
    back = Delivery(EventStorage(start_iter=8), {"a": disk}, RUN)
    back.load_state_dict(state)
    with back:
        train(back.storage, 1)
    assert disk.iterations == [0, 1, 8]
    assert back.gaps == [Gap("a", 2, 7, 6, "it was left out of the writers")]
    assert caplog.messages == ["writers.a: misses iterations 2 to 7, for it was left out of the writers"]
    assert "away_from" not in back.state_dict()["a"]


def test_a_writer_that_was_left_out_while_nothing_happened_misses_nothing():
    with Delivery(EventStorage(), {"a": Memory()}, RUN) as first:
        train(first.storage, 2)
        state = first.state_dict()
    for writers in ({}, {"a": Memory()}):
        delivery = Delivery(EventStorage(start_iter=2), writers, RUN)
        delivery.load_state_dict(state)
        with delivery:
            state = delivery.state_dict()
    assert delivery.gaps == []


def test_gaps_survive_a_resume_and_the_writer_is_tried_again():
    storage = EventStorage()
    with Delivery(storage, {"a": Memory(Failing("write", ALWAYS))}, RUN, on_error={"a": "disable"}) as first:
        train(storage, 2)
        first.flush()
        state = through_a_checkpoint(first.state_dict())
    again = Memory()
    second = Delivery(EventStorage(start_iter=2), {"a": again}, RUN)
    second.load_state_dict(state)
    with second:
        train(second.storage, 1)
    assert again.iterations == [2]
    assert second.gaps == [Gap("a", 0, 1, 2, "OSError: disk full")]


def test_a_position_is_safe_from_later_changes():
    class Mutable(Memory):
        state: dict[str, Any] = {"num_kept": 0}

        def state_dict(self) -> dict[str, Any]:
            self.state["num_kept"] = len(self.kept)
            return self.state

    writer, storage = Mutable(), EventStorage()
    with Delivery(storage, {"a": writer}, RUN) as delivery:
        train(storage, 2)
        delivery.flush()
        state = delivery.state_dict()
        train(storage, 2)
    assert state["a"]["position"] == {"num_kept": 2}


def test_state_is_loaded_before_open():
    with (
        Delivery(EventStorage(), {}, RUN) as delivery,
        pytest.raises(WriterError, match="a call before open"),
    ):
        delivery.load_state_dict({})


def test_a_position_of_another_version_is_not_loaded_but_what_was_pending_is_told():
    storage = EventStorage()
    with Delivery(storage, {"a": Memory()}, RUN) as first:
        train(storage, 2)
        state = first.state_dict()

    class Newer(Memory):
        state_version = 2

    again = Newer()
    second = Delivery(EventStorage(start_iter=2), {"a": again}, RUN)
    second.load_state_dict(state)
    with second:
        train(second.storage, 1)
    assert "load_state_dict" not in again.calls
    assert again.iterations == [*pending(state), 2]


class Other(Memory):
    pass


MEMORY, OTHER = {"a": "one:memory"}, {"a": "two:memory"}


@pytest.mark.parametrize(
    ("kind", "before", "after", "is_loaded"),
    [
        (Memory, None, None, True),
        (Other, None, None, False),
        (Other, MEMORY, {"a": "one:other"}, False),
        (Other, MEMORY, MEMORY, True),  # a class that its distribution renamed
        (Memory, MEMORY, OTHER, False),
        (Memory, {"a": "A_b:memory"}, {"a": "a-B:memory"}, True),  # one distribution, by its metadata
        (Memory, {"a": "memory"}, MEMORY, True),  # a file that became a distribution
    ],
)
def test_a_position_of_another_writer_is_not_loaded_but_what_was_pending_is_told(
    kind, before, after, is_loaded
):
    storage = EventStorage()
    with Delivery(storage, {"a": Memory()}, RUN, uses=before) as first:
        train(storage, 2)
        state = through_a_checkpoint(first.state_dict())
    again = kind()
    second = Delivery(EventStorage(start_iter=2), {"a": again}, RUN, uses=after)
    second.load_state_dict(state)
    with second:
        train(second.storage, 1)
    assert ("load_state_dict" in again.calls) is is_loaded
    assert again.iterations == [0, 1, 2]


def test_a_position_of_before_writers_were_named_is_loaded():
    nothing = EventLog().to_state()
    state = {"a": {"position": {"num_kept": 0}, "version": 1, "pending": nothing, "gaps": []}}
    again = Memory()
    delivery = Delivery(EventStorage(), {"a": again}, RUN)
    delivery.load_state_dict(state)
    with delivery:
        pass
    assert again.calls[0] == "load_state_dict"


@pytest.mark.parametrize("moment", ["period", "checkpoint", "close"])
def test_a_fenced_process_tells_its_writers_nothing_more_and_says_why(moment):
    fenced = False

    def fence() -> None:
        if fenced:
            raise RunError("taken over")

    storage, memory = EventStorage(period=1), Memory()
    delivery = Delivery(storage, {"memory": memory}, RUN, fence=fence)
    with storage:
        delivery.open()
        storage.put_scalar("loss", 1.0)
        storage.step()
        delivery.flush()
        fenced, before = True, list(memory.calls)
        storage.put_scalar("loss", 2.0)
        storage.step()
        with pytest.raises(RunError, match="taken over"):
            {
                "period": delivery.flush,
                "checkpoint": delivery.state_dict,
                "close": lambda: delivery.close("failed"),
            }[moment]()
        delivery.close("failed")
    assert memory.calls == before
    assert memory.iterations == [0]
