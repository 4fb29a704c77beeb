"""One call that checks a plugin against all that hookline asks of it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hookline.errors import notes
from hookline.testing.conformance import attribution, hooks, writers
from hookline.testing.conformance import ranks as two_ranks
from hookline.testing.conformance.bench import Bench
from hookline.testing.conformance.options import configured, linted, made_and_linted, periods_fit
from hookline.testing.conformance.settings import kept_settings
from hookline.testing.conformance.subject import Subject
from hookline.testing.conformance.writer_bench import WriterBench
from hookline.testing.tiny import tiny_trainer

__all__ = ["assert_plugin_conforms"]

Check = tuple[str, Callable[[], Any]]


def assert_plugin_conforms(
    plugin: Any,
    options: Mapping[str, Any] | None = None,
    *,
    trainer: Callable[..., Any] = tiny_trainer,
    read: Callable[[Path], Any] | None = None,
    exactly_once: bool = True,
    max_iter: int = 12,
    ranks: bool = True,
    timeout_s: float = 60.0,
) -> None:
    """Return if ``plugin`` keeps all that hookline asks of a hook, or of an event writer.

    It is configured, trained with, stopped and resumed, made to fail, and enabled twice. Takes seconds.
    What does not depend on a check that failed is checked all the same, so one call tells all that is wrong.
    Settings of torch that the plugin changes are set back.

    Args:
        plugin: What an entry point names: a class, a function that returns the plugin, or a module. An
            object will do, too: it is copied for each run.
        options: Its options, as a config gives them. Choose short periods: a run has few iterations.
        trainer: Makes the trainers that a hook is run with: takes the keyword arguments of `tiny_trainer`.
            At the top of a module, so that the ranks find it.
        read: Returns what a writer recorded in a run directory, without what may differ between two equal
            runs, such as times. By default the contents of all files.
        exactly_once: False for a writer whose service cannot take anything back: then an error or a resume
            may add to what ``read`` returns, a list or a set of items, but must take nothing away.
        max_iter: How many iterations a hook is run for.
        ranks: Whether a hook is run on two processes, too. Without, it is not known to do well there.
        timeout_s: Longest time that these may take, seconds.

    Raises:
        AssertionError: With every check that failed, and how to mend it.
        TypeError: If it is given what does not go with the plugin.
    """
    __tracebackhide__ = True
    subject = Subject.of(plugin, options or {})
    with (
        kept_settings(),
        tempfile.TemporaryDirectory(prefix="hookline-conformance-", dir=_folder()) as folder,
    ):
        _run(subject, [("lint", lambda: linted(subject))])
        subject = _configured(subject)
        _refuse("read", read is not None and not subject.is_writer, "writers")
        _refuse("trainer", trainer is not tiny_trainer and subject.is_writer, "hooks")
        if subject.is_writer:
            _check_writer(subject, WriterBench(subject, Path(folder), read, exactly_once))
        else:
            _check_hook(subject, Bench(subject, trainer, max_iter, Path(folder)), ranks, timeout_s)


def _configured(subject: Subject) -> Subject:
    __tracebackhide__ = True
    found: list[Subject] = []
    _run(subject, [("options", lambda: found.append(configured(subject)))])
    _run(subject, [("lint", lambda: made_and_linted(found[0]))])
    return found[0]


def _check_hook(subject: Subject, bench: Bench, on_ranks: bool, timeout_s: float) -> None:
    __tracebackhide__ = True
    _run(subject, [("options", lambda: periods_fit(subject, bench.max_iter))])
    _run(subject, [("run", lambda: hooks.runs(bench))])
    _run(subject, [("repeat", lambda: hooks.repeats(bench))])
    checks: list[Check] = [
        ("state", lambda: hooks.resumes(bench)),
        ("observer", lambda: hooks.observes(bench)),
        ("twice", lambda: hooks.works_twice(bench)),
        ("device", lambda: hooks.never_waits(bench)),
        ("errors", lambda: attribution.errors_reach_the_user(bench)),
    ]
    if on_ranks:
        checks.append(("ranks", lambda: two_ranks.agree(bench, timeout_s)))
    _run(subject, checks)


def _check_writer(subject: Subject, bench: WriterBench) -> None:
    __tracebackhide__ = True
    _run(subject, [("record", lambda: writers.records(bench))])
    checks = [
        ("order", lambda: writers.takes_any_portions(bench)),
        ("delivery", lambda: writers.is_delivered_to(bench)),
        ("state", lambda: writers.resumes(bench)),
        ("close", lambda: writers.closes(bench)),
        ("journal", lambda: writers.reads_back(bench)),
        ("twice", lambda: writers.works_twice(bench)),
        ("errors", lambda: writers.goes_back(bench)),
    ]
    _run(subject, checks)


def _run(subject: Subject, checks: Sequence[Check]) -> None:
    """Make every check, then raise what they found."""
    __tracebackhide__ = True
    failed: list[str] = []
    first: Exception | None = None
    for name, check in checks:
        try:
            check()
        except Exception as error:
            first = first or error
            failed.append(f"{name}: {_described(error)}")
    if failed:
        text = "\n\n".join(failed)
        raise AssertionError(f"{subject.name} does not conform.\n\n{text}") from first


def _refuse(argument: str, is_wrong: bool, kind: str) -> None:
    if is_wrong:
        raise TypeError(f"assert_plugin_conforms: expected {argument} for {kind} only. Leave it out.")


def _folder() -> str | None:
    """Return a folder in memory where there is one: on a disk, to sync checkpoints takes most of the time."""
    memory = "/dev/shm"
    return memory if os.access(memory, os.W_OK) else None


def _described(error: Exception) -> str:
    message = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
    return "\n".join([message, *notes(error)])
