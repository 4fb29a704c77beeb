"""An error at each line of a plugin's hooks: it must reach the user, with the plugin's name."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from types import CodeType, FrameType
from typing import NamedTuple

from hookline.errors import notes
from hookline.plugins import HookCall
from hookline.plugins.lint import implemented
from hookline.testing.conformance.bench import Bench
from hookline.testing.conformance.injection import InjectedError, caused_by_injection, tracing
from hookline.testing.conformance.subject import refused
from hookline.testing.trouble import FailingHook
from hookline.trainer import SimpleTrainer

__all__ = ["errors_reach_the_user"]

MAX_LINES = 12
"""Lines tried of each hook, spread over those that ran."""


class _Line(NamedTuple):
    hook: str
    file: str
    number: int


def errors_reach_the_user(bench: Bench) -> None:
    """Check that an error at any line of the plugin's hooks ends the run, and names the plugin."""
    lines = _lines(bench)
    for hook in dict.fromkeys(line.hook for line in lines):
        of_hook = [line for line in lines if line.hook == hook]
        for line in of_hook[:: -(-len(of_hook) // MAX_LINES)]:
            _check(bench, line)


def _check(bench: Bench, line: _Line) -> None:
    errors = _errors(bench, line)
    where = f"{bench.name}.{line.hook} ({line.file}:{line.number})"
    reached = [error for error in errors if caused_by_injection(error)]
    if not reached:
        got = "none: something around that line catches every exception"
        mend = (
            "Catch the exceptions that it can mend, by name, and let the others pass: "
            "whoever wants the run to go on sets on_error in the config"
        )
        raise refused(where, "an error to reach the user", got, mend)
    if not any(repr(bench.name) in note for error in reached for note in notes(error)):
        got = f"{type(reached[0]).__name__} without it"
        mend = "Raise it in the thread, and during the call, of the hook"
        raise refused(where, "an error with the name of the plugin", got, mend)
    for error in errors:
        if not caused_by_injection(error) and any(repr(bench.name) in note for note in notes(error)):
            got = f"{type(error).__name__}: {error} ({'; '.join(notes(error))})"
            mend = "The hooks of a run's end follow an error, too: set in __init__ what they use"
            raise refused(where, "an error there to be the only one", got, mend)


def _errors(bench: Bench, line: _Line) -> list[BaseException]:
    """Return what a run raises and logs in which ``line`` raises an error."""

    def at_line(frame: FrameType) -> None:
        if frame.f_lineno == line.number:
            raise InjectedError

    trainers: list[SimpleTrainer] = []

    def prepare(trainer: SimpleTrainer) -> None:
        trainers.append(trainer)
        _trace(bench, trainer, lambda hook, frame: at_line(frame) if hook == line.hook else None)

    with _logged() as errors, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what the plugin had just opened
        try:
            _run(bench, line.hook, prepare)
        except Exception as error:
            errors.append(error)
        if line.hook == "after_train":
            # It was kept from cleaning up; some of it belongs to the process, as a profiler does.
            trainers[0].hooks.call_each("after_train", trainer=trainers[0])
    return errors


def _lines(bench: Bench) -> list[_Line]:
    """Return the lines of the plugin's hooks that run, in order."""
    lines: dict[_Line, None] = {}

    def at_line(hook: str, frame: FrameType) -> None:
        lines.setdefault(_Line(hook, frame.f_code.co_filename, frame.f_lineno))

    hooks = implemented(bench.subject.sample())
    for kind in ("", *(hook for hook in hooks if hook in ("after_load", "on_error"))):
        with suppress(_AskedForError):
            _run(bench, kind, lambda trainer: _trace(bench, trainer, at_line))
    return list(lines)


def _run(bench: Bench, hook: str, prepare: Callable[[SimpleTrainer], None]) -> None:
    """Train so that ``hook`` is called."""

    def failing(trainer: SimpleTrainer) -> None:
        trainer.register_hook(FailingHook(iteration=1, error=_AskedForError()), "failing")
        prepare(trainer)

    if hook == "after_load":
        bench.run(resume=bench.run(stop_at=1).checkpoint, prepare=prepare)
    else:
        bench.run(prepare=failing if hook == "on_error" else prepare)


def _trace(bench: Bench, trainer: SimpleTrainer, at_line: Callable[[str, FrameType], None]) -> None:
    """Have ``at_line`` called with the hook before each line of the plugin's hooks."""
    codes: dict[str, CodeType] = {}
    for caller in trainer.hooks.get_hookcallers(trainer.hooks.get_plugin(bench.name)) or ():
        for implementation in caller.get_hookimpls():
            if implementation.plugin_name == bench.name:
                codes[caller.name] = inspect.unwrap(implementation.function).__code__

    def around(call: HookCall) -> AbstractContextManager[None]:
        if call.plugin != bench.name:
            return nullcontext()
        code = codes[call.hook]
        return tracing(lambda other: other is code, lambda frame: at_line(call.hook, frame))

    trainer.hooks.watch(around)


class _AskedForError(Exception):
    """Ends a run, so that ``on_error`` is called."""


class _Keeping(logging.Handler):
    def __init__(self, errors: list[BaseException]) -> None:
        super().__init__(logging.ERROR)
        self._errors = errors

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            self._errors.append(error)


@contextmanager
def _logged() -> Iterator[list[BaseException]]:
    """Yield a list that every exception is added to that hookline logs."""
    errors: list[BaseException] = []
    handler = _Keeping(errors)
    logger = logging.getLogger("hookline")
    logger.addHandler(handler)
    try:
        yield errors
    finally:
        logger.removeHandler(handler)
