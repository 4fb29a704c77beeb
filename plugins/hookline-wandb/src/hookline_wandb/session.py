"""Starts a W&B run quietly, and says what to do where it cannot be started. Importing this imports wandb."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import wandb

from hookline import Problem, Run, WriterError
from hookline_wandb.rows import utf8

__all__ = ["finish", "last_iteration", "start", "wait_for_disk"]

# What is not uploaded then is on disk; `wandb sync` takes it from there.
FINISH_TIMEOUT_S = 60.0
# W&B's own process, which dies with this one, writes what it was handed this often.
FLUSH_INTERVAL_S = 0.1

# W&B gets what was put into the storage and nothing else: no captured output, code, git state, or statistics
# of the machine, each of which costs time or changes something that is shared by the whole process.
QUIET = {
    "console": "off",
    "save_code": False,
    "disable_code": True,
    "disable_git": True,
    "label_disable": True,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_disable_machine_info": True,
    "x_save_requirements": False,
}
SETTINGS: dict[str, Any] = {
    **QUIET,
    "finish_timeout": FINISH_TIMEOUT_S,
    "finish_timeout_raises": True,
    "x_transaction_log_flush_interval": FLUSH_INTERVAL_S,
}


def start(run: Run, run_id: str, options: Mapping[str, Any], init_timeout_s: float) -> wandb.Run:
    """Return a W&B run of its own, which is not ``wandb.run``; go on with it where W&B has it already.

    Args:
        run: Says where files go, and what the config and the default project and name are.
        run_id: The id at W&B.
        options: ``project``, ``entity``, ``mode``, ``name``, ``tags`` and ``group`` of ``wandb.init``; what
            is None or empty is taken from W&B's environment variables and settings.
        init_timeout_s: Longest wait for W&B's answer, seconds.

    Raises:
        WriterError: If W&B has no credentials, refuses the run or does not answer.
    """
    try:
        with _same_sys_hooks():
            return _init(run, run_id, options, init_timeout_s)
    except (wandb.Error, ValueError) as error:
        raise WriterError(str(_problem(error, init_timeout_s))) from error


def wait_for_disk(wandb_run: wandb.Run) -> None:
    """Return when what was logged is in the run's file, where an offline run is complete."""
    # The answer comes when everything before the question was handled, but perhaps not yet written.
    wandb_run.summary.get("iteration")  # type: ignore[no-untyped-call]
    time.sleep(5 * FLUSH_INTERVAL_S)


def last_iteration(wandb_run: wandb.Run) -> int:
    """Return the last iteration that is at W&B already; -1 where the run is new there."""
    return int(wandb_run.summary.get("iteration", -1))  # type: ignore[no-untyped-call]


def finish(wandb_run: wandb.Run, exit_code: int) -> None:
    """End ``wandb_run`` when everything is uploaded, or on disk where it is offline.

    Raises:
        WriterError: If the uploads take too long.
    """
    try:
        wandb_run.finish(exit_code=exit_code)
    except TimeoutError as error:
        problem = Problem(
            "writers.wandb",
            f"all data uploaded {FINISH_TIMEOUT_S:g} s after the end",
            str(error),
            fix=f"Upload the rest with `wandb sync {Path(wandb_run.dir).parent}`",
        )
        raise WriterError(str(problem)) from error


def _init(run: Run, run_id: str, options: Mapping[str, Any], init_timeout_s: float) -> wandb.Run:
    # Without this, wandb asks on the terminal for a key that is not there.
    settings = wandb.setup(settings=wandb.Settings(quiet=True, show_info=False)).settings
    chosen = {name: value for name, value in options.items() if value}
    defaults = {"project": settings.project or _accepted(run.name), "name": settings.run_name or run_id}
    return wandb.init(
        **{**defaults, **chosen},
        id=_accepted(run_id),
        dir=run.dir,
        config=utf8(dict(run.config)),
        reinit="create_new",
        # Offline too: without it `wandb sync` writes the rows of a second folder over those of the first.
        resume="allow",
        settings=wandb.Settings(**SETTINGS, init_timeout=init_timeout_s),
    )


def _accepted(name: str) -> str:
    """Return ``name`` without what W&B refuses in the name of a project and in the id of a run."""
    return re.sub(r"[/\\#?%:]", "-", name).strip()[:128]


def _problem(error: Exception, init_timeout_s: float) -> Problem:
    offline = "run with writers.wandb.mode=offline and upload it later with `wandb sync`"
    text = str(error)
    if "API key" in text or re.search(r"\b40[13]\b", text):
        rule, fix = "an API key for W&B", f"Log in with `wandb login`, set WANDB_API_KEY, or {offline}"
    elif isinstance(error, wandb.errors.CommError):
        rule = f"W&B to accept the run within {init_timeout_s:g} s"
        fix = f"Check the network, raise writers.wandb.init_timeout_s, or {offline}"
    else:
        rule, fix = "a run that W&B accepts", "Correct the options of writers.wandb"
    return Problem("writers.wandb", rule, text, fix=fix)


@contextmanager
def _same_sys_hooks() -> Iterator[None]:
    """Put back ``sys.exit`` and ``sys.excepthook``, which wandb replaces for the rest of the process."""
    hooks = sys.exit, sys.excepthook
    try:
        yield
    finally:
        sys.exit, sys.excepthook = hooks
