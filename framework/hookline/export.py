"""The journal of a run, told once more to an event writer, into a place of its own. Imports no torch.

::

    plugins.json ─▶ which writer is the journal ─▶ read(run_dir) ─▶ Events ─▶ any writer, in a new folder
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import chain, islice
from pathlib import Path
from typing import Any

from hookline import runs
from hookline.config import Config, Epochs, PluginSpec, load_config
from hookline.config.instances import name_in
from hookline.config.targets import absolute_target
from hookline.description import hyper_parameters
from hookline.durable import make_directory
from hookline.errors import ConfigError, HooklineError, Problem, RunError, WriterError
from hookline.events import Events, EventWriter, Run
from hookline.plan import Plan
from hookline.plugins import lint_writer
from hookline.rundir import RunDir, unwritable

__all__ = ["Export", "export"]

EVENTS_PER_CALL = 4096

_ENDS = ("finished", "stopped", "failed")


@dataclass(frozen=True)
class Export:
    """What was exported, and where it is.

    Args:
        run: The run directory.
        journal: Instance name of the run's journal.
        writer: Instance name of the writer that was told.
        folder: Where it wrote.
        first_iteration: The first one that the journal has.
        last_iteration: The last one.
        num_iters: How many there were.
        command: Shell command that shows what was written; None where the writer knows none.
    """

    run: Path
    journal: str
    writer: str
    folder: Path
    first_iteration: int
    last_iteration: int
    num_iters: int
    command: str | None


def export(
    run: str,
    to: str,
    out: Path | None = None,
    options: Sequence[str] = (),
    tell: Callable[[int], object] = lambda iteration: None,
) -> Export:
    """Tell a writer all that the journal of a run holds, and return where it has written it.

    The run's own files stay as they are; it may be going on, or have been killed. Of plugins only the journal
    and the writer are imported, of a journal a part is in memory at a time.

    Args:
        run: A run directory, or a path in one.
        to: A writer as a config names it: ``name``, ``distribution:name`` or ``./file.py:Name``.
        out: A folder that is new or empty; by default one of its own in ``export/`` of the run directory.
        options: The writer's options, ``KEY=VALUE`` each; ``period`` is one of them.
        tell: Called with the last iteration done, now and then.

    Raises:
        RunError: If there is no such run, it has no journal, or the folder is in use.
        ConfigError: If the options are wrong.
        PluginError: If there is no such writer.
        WriterError: If the writer fails.
    """
    found = runs.find(run, Path())
    _check_files(found)
    config = load_config(found.path / "config.yaml")
    journal = _journal(found, config)
    spec, period, target = _target(found, to, options)
    events = _Counted(_with_hyper_parameters(_read(journal.name, _made(config, journal), found.path), config))
    if events.is_empty():
        where, rule = f"journal {journal.name!r} of {found.path}", "at least one iteration"
        raise RunError(str(Problem(where, rule, missing=True)))
    folder = _new_folder(found, spec.name, out)
    about = Run(
        dir=folder,
        name=config.run.name,
        id=f"{found.id}-export-{secrets.token_hex(3)}",
        config=config.to_dict(),
        period=period,
        writer=spec.name,
    )
    state = str(found.status.get("state"))
    try:
        _write(target, about, events, state if state in _ENDS else "stopped", tell)
    finally:
        with suppress(OSError):  # a folder that nobody has used
            folder.rmdir()
    return Export(
        found.path,
        journal.name,
        spec.name,
        folder,
        events.first,
        events.last,
        events.num_iters,
        target.view_command(),
    )


class _Counted:
    """Events, and which of them have gone by."""

    def __init__(self, events: Iterator[Events]) -> None:
        self._events = events
        self._head = list(islice(events, 1))
        self.first = self._head[0].iteration if self._head else -1
        self.last, self.num_iters = -1, 0

    def is_empty(self) -> bool:
        return not self._head

    def __iter__(self) -> Iterator[Events]:
        for event in chain(self._head, self._events):
            self.last, self.num_iters = event.iteration, self.num_iters + 1
            yield event


def _check_files(found: RunDir) -> None:
    """Return if no file of the run waits for what another process may never write."""
    _, _, names = next(os.walk(found.path), ("", (), ()))
    for path in (found.path / name for name in sorted(names)):
        if path.is_fifo() or path.is_char_device():
            raise RunError(str(Problem(str(path), "a file", "a pipe" if path.is_fifo() else "a device")))


def _journal(found: RunDir, config: Config) -> PluginSpec:
    """Return what the config says of the journal of the run."""
    where = f"run {found.path}"
    entries = _writers(found)
    names = [entry["name"] for entry in entries if entry.get("journal")]
    if not names:
        exists = f"Its writers: {', '.join(entry['name'] for entry in entries) or 'none'}"
        fix = "No other record can be read back. Give the next run a writer that is a journal"
        raise RunError(
            str(Problem(where, "a journal among its writers", missing=True, exists=exists, fix=fix))
        )
    spec = next((spec for spec in config.writers if spec.name == names[0]), None)
    if spec is None:
        rule = f"its journal {names[0]!r} in the config, which says how to build it"
        exists = f"Writers of config.yaml: {', '.join(spec.name for spec in config.writers) or 'none'}"
        raise RunError(str(Problem(where, rule, missing=True, exists=exists)))
    return spec


def _writers(found: RunDir) -> list[dict[str, Any]]:
    """Return what the run wrote of its writers when it began."""
    path = found.path / "plugins.json"
    try:
        entries = json.loads(path.read_bytes())["writers"]
        return [{"name": str(entry["name"]), **entry} for entry in entries]
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        got = f"{type(error).__name__}: {error}"
        raise RunError(str(Problem(str(path), "the plugins of a run", got))) from error


def _target(found: RunDir, to: str, options: Sequence[str]) -> tuple[PluginSpec, int, EventWriter]:
    """Return what the run's config and ``options`` say of the writer ``to``, its period, and the writer."""
    use, name = absolute_target(to, Path.cwd()) if ".py:" in to else to, name_in(to)
    for option in options:
        key = option.partition("=")[0].strip()
        if key in ("use", "on_error"):
            fix = "--to says what to use, and a writer that fails ends the export"
            raise ConfigError([Problem(f"option {option!r}", f"an option of {to}", key, fix=fix)])
    overrides = [f"writers=[{json.dumps(use)}]", *(f"writers.{name}.{option}" for option in options)]
    config = load_config(found.path / "config.yaml", overrides)
    (spec,) = config.writers
    period = config.train.log_period if spec.period is None else spec.period
    return spec, _iterations(config, spec, "period", period), _made(config, spec)


def _made(config: Config, spec: PluginSpec) -> EventWriter:
    """Return the writer that ``spec`` describes."""
    plan = Plan(config, [], [spec], only=())
    if plan.problems:
        raise ConfigError(plan.problems)
    (planned,) = plan.writers
    options = {key: _iterations(config, spec, key, value) for key, value in planned.options.items()}
    writer = planned.make(**options)
    lint_writer(writer, planned.name, planned.loaded.source)
    assert isinstance(writer, EventWriter)
    return writer


def _iterations(config: Config, spec: PluginSpec, key: str, value: Any) -> Any:
    """Return the option ``value`` if it is no length in epochs."""
    if isinstance(value, Epochs):
        where = config.where(f"writers.{spec.name}.{key}")
        rule = "iterations, as no data is here to tell how many are in an epoch"
        raise ConfigError([Problem(where, rule, str(value), fix=f"Give {key}=N")])
    return value


def _read(name: str, journal: EventWriter, run_dir: Path) -> Iterator[Events]:
    """Yield what ``journal`` reads; whatever else it raises says who raised it."""
    try:
        yield from journal.read(run_dir)
    except HooklineError:
        raise
    except Exception as error:
        got = f"{type(error).__name__}: {error}"
        raise RunError(str(Problem(f"journal {name!r} of {run_dir}", "one that can be read", got))) from error


def _with_hyper_parameters(events: Iterable[Events], config: Config) -> Iterator[Events]:
    """Yield ``events`` with what no journal holds, but the config does; in iteration 0, as in a run."""
    hparams = hyper_parameters(config)
    for event in events:
        if hparams and event.iteration > 0:
            yield Events(0, event.time_s, hparams=hparams)
        elif hparams:
            event = replace(event, hparams={**hparams, **event.hparams})
        hparams = {}
        yield event


def _new_folder(found: RunDir, name: str, out: Path | None) -> Path:
    """Return a folder that nobody has written into."""
    if out is None:
        number = f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
        folder = found.path / "export" / f"{name}-{number}"
    else:
        folder = out.absolute()
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            got = f"{'one with files in it' if folder.is_dir() else 'a file'}"
            fix = "An export never changes what is there: name another one"
            raise RunError(str(Problem(f"--out {out}", "a new or empty folder", got, fix=fix)))
    try:
        make_directory(folder)
    except OSError as error:
        raise unwritable(str(folder), "a folder", error, "Name another one with --out") from error
    return folder


def _write(
    writer: EventWriter, run: Run, events: _Counted, status: str, tell: Callable[[int], object]
) -> None:
    """Tell ``writer`` of everything, as the thread of a writer does in a run."""
    is_open = False
    try:
        writer.open(run)
        is_open = True
        writer.state_dict()
        rest = iter(events)
        while batch := list(islice(rest, EVENTS_PER_CALL)):
            writer.write(batch)
            writer.state_dict()
            tell(events.last)
        is_open = False
        writer.close(status)
    except BaseException as error:
        if is_open:
            with suppress(Exception):
                writer.close("failed")
        if isinstance(error, HooklineError) or not isinstance(error, Exception):
            raise
        got = f"{type(error).__name__}: {error}"
        where = f"{run.writer} after iteration {events.last}"
        raise WriterError(str(Problem(where, "a writer that takes the events", got))) from error
