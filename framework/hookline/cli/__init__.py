"""The command line: parse, call, render. torch and plugins are imported by the command that needs them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from hookline import __version__
from hookline.errors import HooklineError, RunError, notes

__all__ = ["main"]


def _reporting(command: Callable[..., None]) -> Callable[..., None]:
    """Turn what hookline raises on purpose into one message on standard error and an exit code."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except HooklineError as error:
            for line in [str(error), *notes(error)]:
                click.echo(f"hookline: {line}" if line == str(error) else line, err=True)
            sys.exit(error.exit_code)
        except KeyboardInterrupt:
            sys.exit(130)

    return run


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="hookline")
def main() -> None:
    """Train PyTorch models with a small loop that other packages plug into."""


@main.command(context_settings={"ignore_unknown_options": False})
@click.argument("config", type=click.Path())
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE …]")
@click.option("--resume", metavar="RUN|latest", help="Go on where a run stopped, in its directory.")
@click.option("--weights", metavar="PATH", help="Start from the weights of a run, a checkpoint or a file.")
@click.option("--nproc", type=click.IntRange(min=1), help="Train with so many processes on this machine.")
@click.option("--smoke", is_flag=True, help="Three iterations, one evaluation, one checkpoint: does it run?")
@click.option("--no-plugins", is_flag=True, help="Leave out every hook but the schedule, and all writers.")
@_reporting
def train(
    config: str,
    overrides: tuple[str, ...],
    resume: str | None,
    weights: str | None,
    nproc: int | None,
    smoke: bool,
    no_plugins: bool,
) -> None:
    """Train what CONFIG describes.

    KEY=VALUE overrides it, left to right: train.max_iter=500 hooks.evaluate.period=100
    hooks+=early-stopping hooks-=timer writers=[json,wandb] run.dir=/tmp/runs
    """
    from hookline.cli import training

    if resume is not None and weights is not None:
        raise RunError("--weights: expected it without --resume, got both. A resumed run has its weights.")
    if nproc is not None and nproc > 1:
        training.launch(nproc)
    else:
        training.train(config, overrides, resume, weights, smoke=smoke, plugins=not no_plugins)


@main.command()
@click.argument("run", metavar="RUN_OR_CHECKPOINT")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE …]")
@click.option("--data", multiple=True, help="A key of the config's data; by default all but train.")
@_reporting
def evaluate(run: str, overrides: tuple[str, ...], data: tuple[str, ...]) -> None:
    """Measure the model of a run or checkpoint."""
    from hookline.cli import training

    training.evaluate(run, overrides, data)


@main.command()
@click.argument("config", type=click.Path())
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE …]")
@_reporting
def config(config: str, overrides: tuple[str, ...]) -> None:
    """Print CONFIG resolved, with origins."""
    from hookline.config import load_config, render

    click.echo(render(load_config(config, overrides)), nl=False)
