"""What ``hookline train`` and ``hookline evaluate`` do; imports torch."""

from __future__ import annotations

import json
import logging
import os
import shlex
import signal
import sys
import threading
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from rich.table import Table

from hookline import checkpoint, distributed, runs
from hookline.cli.ending import end_out_of_time, starting
from hookline.config import Config, load_config
from hookline.console import console, show_logs
from hookline.default import trainer_class
from hookline.errors import ConfigError, HooklineError, Problem
from hookline.plugins import Trace
from hookline.processes import seconds_since_launch, sessions
from hookline.resuming import AUTO
from hookline.trainer import offered_weights

__all__ = ["evaluate", "launch", "train"]

_POLL_S = 0.1


def train(
    config: str,
    overrides: Sequence[str],
    resume: str | None,
    weights: str | None,
    weights_of: str | None,
    *,
    smoke: bool,
    plugins: bool,
    trace: bool,
    start_s: float,
) -> None:
    """Build the trainer that ``config`` describes, and train.

    Args:
        config: A file.
        overrides: Of the config.
        resume: What to go on from, as `DefaultTrainer.resume` takes it.
        weights: What to start from.
        weights_of: Whose weights of these.
        smoke: Only see whether it runs.
        plugins: Whether there are any but the schedule.
        trace: Print the calls of hooks.
        start_s: When the command began, by the monotonic clock; the time limit counts from there.
    """
    show_logs(distributed.rank(), distributed.world_size())
    with distributed.together():
        with starting():
            parsed = _loaded(config, overrides, plugins)
            trainer = trainer_class(parsed)(parsed, plugins=plugins, smoke=smoke)
            if trace and distributed.is_main():
                trainer.hooks.watch(Trace(trainer, _show_line))
            if resume is not None:
                trainer.resume(resume, weights=weights, weights_of=weights_of)
            elif weights is not None:
                trainer.load_weights(weights, weights_of)
        trainer.time_spent_s = max(time.monotonic() - start_s, seconds_since_launch())
        try:
            trainer.train()
        except (KeyboardInterrupt, SystemExit):
            # A signal that found nothing to pause: who starts it again would start another run.
            if trainer.status not in ("finished", "stopped"):
                raise
        if trainer.is_out_of_time:
            end_out_of_time()


def evaluate(run: str, overrides: Sequence[str], data: Sequence[str], weights_of: str | None = None) -> None:
    """Print the metrics of a run's model, as a table and as one JSON line where no person reads."""
    show_logs(distributed.rank(), distributed.world_size())
    with distributed.together():
        found = runs.find(run, Path())
        config = _loaded(found.path / "config.yaml", overrides, plugins=False)
        names = list(data) or _evaluated(config)
        if not names:
            raise ConfigError([Problem("data", "data besides train to evaluate on", missing=True)])
        trainer = trainer_class(config)(config, plugins=False)
        path = checkpoint.resolve(Path(run))
        trainer.load_weights(path, weights_of)
        results = {f"{name}/{key}": value for name in names for key, value in trainer.evaluate(name).items()}
        if distributed.is_main():
            _show(path, results, weights_of)
            if weights_of is None and (names := offered_weights(path)):
                _hint(path, names)


def launch(nproc: int) -> None:
    """Start this very command in ``nproc`` processes through torch's launcher, and exit as they do."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    _forward_saves()
    # As torchrun does, but in silence: the processes tell of their failures themselves.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    logging.disable()
    # What it waits after an interrupt, seconds: the period has to end, and a checkpoint to be written.
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "600")
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=nproc,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        local_addr="127.0.0.1",
        logs_specs=DefaultLogsSpecs(log_dir=os.devnull),
    )
    try:
        elastic_launch(config, sys.executable)("-u", "-m", "hookline", *_without_nproc(sys.argv[1:]))
    except SignalException as error:
        sys.exit(128 + error.sigval)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            name = signal.Signals(-failure.exitcode).name
            print(f"hookline: rank {rank} was ended by {name}. {_go_on()}", file=sys.stderr)
        sys.exit(failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode)


def _forward_saves() -> None:
    """Hand each SIGUSR1 on to the ranks, which save; it is blocked in every thread, and ends none."""

    def forward() -> None:
        while True:
            signal.sigwait({signal.SIGUSR1})
            while not (ranks := sessions()):  # not started yet
                time.sleep(_POLL_S)
            for pid in ranks:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGUSR1)

    threading.Thread(target=forward, daemon=True).start()


def _go_on() -> str:
    """Return how to go on with what this command started, told without knowing how far it came."""
    words = sys.argv[1:]
    auto = [] if any(word.partition("=")[0] == "--resume" for word in words) else ["--resume", AUTO]
    return f"Go on with: {shlex.join(['hookline', *words, *auto])}"


def _without_nproc(arguments: Sequence[str]) -> list[str]:
    words, kept = iter(arguments), []
    for word in words:
        if word == "--nproc":
            next(words)
        elif not word.startswith("--nproc="):
            kept.append(word)
    return kept


def _evaluated(config: Config) -> list[str]:
    """Return the keys of the data that the config's evaluations measured, then those of the rest."""
    measured = [hook.options.get("data", "eval") for hook in config.hooks if hook.use == "evaluate"]
    return list(dict.fromkeys([*measured, *(name for name in config.data if name != "train")]))


def _loaded(config: str | Path, overrides: Sequence[str], plugins: bool) -> Config:
    """Return the config; what is wrong with what it names is reported together with all else."""

    def also(found: Config) -> Sequence[Problem | HooklineError]:
        try:
            return trainer_class(found).planned(found, plugins).problems
        except ConfigError as error:
            return error.problems

    return load_config(config, overrides, also=also)


def _show_line(line: str) -> None:
    console().print(line, style="dim", markup=False)


def _hint(path: Path, names: Sequence[str]) -> None:
    """Say on standard error that other weights are there: a run with an average evaluates that."""
    said = " or ".join(f"--weights-of {name}" for name in names)
    print(
        f"hookline: measured the weights that were trained. {path.name} also holds: {said}", file=sys.stderr
    )


def _show(path: Path, results: dict[str, float], weights_of: str | None) -> None:
    if not console().is_terminal:
        of = {} if weights_of is None else {"weights_of": weights_of}
        console().print(json.dumps({"checkpoint": str(path), **of, **results}), markup=False)
        return
    title = str(path) if weights_of is None else f"{path}, weights of {weights_of}"
    table = Table(title=title, show_header=False, title_justify="left")
    for name, value in results.items():
        table.add_row(name, f"{value:.6g}")
    console().print(table)
