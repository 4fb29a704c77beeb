"""Signals are noted once; what follows ends the process, and what was installed before comes back."""

from __future__ import annotations

import logging
import os
import signal
import time

import pytest

from hookline.trainer.interrupts import Interrupts

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


@pytest.fixture
def exits(monkeypatch):
    """Return the exit codes that the process would have ended with."""
    codes = []
    monkeypatch.setattr(os, "_exit", codes.append)
    return codes


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def send(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_noted_and_told(number, caplog, exits):
    with caplog.at_level(logging.INFO), Interrupts() as interrupts:
        send(number)
    assert interrupts.signal is number
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert caplog.messages[0].startswith(f"{number.name}: pausing")
    assert exits == []


@pytest.mark.parametrize(
    "error", [RuntimeError("reentrant call"), ImportError("partially initialized module")]
)
def test_a_signal_that_cannot_be_told_is_noted_all_the_same(monkeypatch, exits, error):
    def log(*args):
        raise error

    monkeypatch.setattr(logging.getLogger("hookline.trainer.interrupts"), "log", log)
    with Interrupts() as interrupts:
        send(signal.SIGINT)
    assert interrupts.signal is signal.SIGINT
    assert exits == []


def test_a_signal_that_a_launcher_sends_twice_is_one(exits, clock):
    with Interrupts():
        send(signal.SIGTERM)
        clock[0] += 0.9
        send(signal.SIGTERM)
        assert exits == []
        clock[0] += 0.2
        send(signal.SIGINT)
        assert exits == [130]


def test_a_signal_in_a_run_that_ends_anyway_is_not_told(caplog, exits):
    with Interrupts() as interrupts:
        interrupts.ending = True
        send(signal.SIGTERM)
    assert caplog.messages == exits == []


def test_handlers_come_back_when_the_outermost_context_ends(exits):
    before = [signal.getsignal(number) for number in NUMBERS]
    interrupts = Interrupts()
    with interrupts:
        with interrupts:
            send(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) != before[1]
        assert interrupts.signal is signal.SIGTERM
    assert [signal.getsignal(number) for number in NUMBERS] == before
    with interrupts:
        assert interrupts.signal is None  # of the next run


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_a_forked_process_leaves_ctrl_c_to_the_run_and_ends_by_sigterm(number, code):
    with Interrupts() as interrupts:
        child = os.fork()
        if child == 0:
            send(number)
            os._exit(0 if interrupts.signal is None else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == code
    assert interrupts.signal is None


def test_sigusr1_is_noted_and_told_each_time_and_ends_nothing(caplog, exits):
    with caplog.at_level(logging.INFO), Interrupts() as interrupts:
        for _ in range(2):
            send(signal.SIGUSR1)
            assert interrupts.save_due
            interrupts.save_due = False
    assert caplog.messages == ["SIGUSR1: saving at the end of this iteration."] * 2
    assert (interrupts.signal, exits) == (None, [])


def test_sigusr1_that_was_kept_waiting_is_noted_and_waits_again_afterwards():
    child = os.fork()  # where no other thread is, which would get the signal and end the process
    if child == 0:
        os._exit(0 if keeps_waiting() == [True, True, signal.SIGUSR1] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def keeps_waiting() -> list:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    send(signal.SIGUSR1)
    with Interrupts() as interrupts:
        inside = [interrupts.save_due, signal.SIGUSR1 not in signal.pthread_sigmask(signal.SIG_BLOCK, set())]
    send(signal.SIGUSR1)  # would end this process
    return [*inside, signal.sigtimedwait({signal.SIGUSR1}, 1).si_signo]


def test_a_forked_process_leaves_sigusr1_to_the_run():
    with Interrupts() as interrupts:
        child = os.fork()
        if child == 0:
            send(signal.SIGUSR1)
            os._exit(1 if interrupts.save_due else 0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_who_ends_at_once_says_first_how_to_go_on(exits, clock, capfd):
    with Interrupts() as interrupts:
        interrupts.last_words = lambda: "Go on with: this\n"
        send(signal.SIGINT)
        clock[0] += 2.0
        send(signal.SIGINT)
    assert exits == [130]
    assert capfd.readouterr().err == "Go on with: this\n"
