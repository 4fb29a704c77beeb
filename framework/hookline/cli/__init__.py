"""The command line: parse, call, render. torch and plugins are imported by the command that needs them."""

from __future__ import annotations

import sys
import time
from io import TextIOWrapper

import click

from hookline import __version__
from hookline.cli.backends import guard_torch
from hookline.cli.configuration import config
from hookline.cli.ending import starting
from hookline.cli.export import export
from hookline.cli.plugins import plugins
from hookline.cli.reporting import reporting
from hookline.errors import Problem, RunError

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="hookline")
def main() -> None:
    """Train PyTorch models with a small loop that other packages plug into."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # one that cannot write an arrow shows a question mark
            stream.reconfigure(errors="replace")


@main.command(context_settings={"ignore_unknown_options": False})
@click.argument("config", type=click.Path())
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE …]")
@click.option(
    "--resume",
    metavar="RUN|latest|auto",
    help="Go on where a run stopped, in its directory; auto: with the newest unfinished one, or start one.",
)
@click.option(
    "--time-limit", metavar="TIME", help="Pause in time to have ended after so long, such as 3h50m."
)
@click.option(
    "--weights", metavar="PATH", help="Start from the weights of a run, a checkpoint or a .safetensors file."
)
@click.option("--weights-of", metavar="NAME", help="With --weights: those that this plugin keeps.")
@click.option("--nproc", type=click.IntRange(min=1), help="Train with so many processes on this machine.")
@click.option("--smoke", is_flag=True, help="Three iterations, one evaluation, one checkpoint: does it run?")
@click.option("--no-plugins", is_flag=True, help="Leave out every hook but the schedule, and all writers.")
@click.option("--trace-hooks", is_flag=True, help="Print each call of a hook in the first three iterations.")
@reporting
def train(
    config: str,
    overrides: tuple[str, ...],
    resume: str | None,
    time_limit: str | None,
    weights: str | None,
    weights_of: str | None,
    nproc: int | None,
    smoke: bool,
    no_plugins: bool,
    trace_hooks: bool,
) -> None:
    """Train what CONFIG describes.

    KEY=VALUE overrides it, left to right: train.max_iter=500 hooks.evaluate.period=100
    hooks+=early-stopping hooks-=timer writers=[json,wandb] run.dir=/tmp/runs
    """
    start_s = time.monotonic()
    with starting():
        if weights is not None and resume not in (None, "auto"):
            raise RunError(
                f"--weights: expected it without --resume or with --resume auto, got --resume {resume}. A "
                "resumed run has its weights."
            )
        if weights_of is not None and weights is None:
            raise RunError("--weights-of: expected --weights with it, got none. Name the run it is in.")
        if resume == "auto" and smoke:
            raise RunError("--resume auto: expected it without --smoke, got both. A smoke test starts anew.")
        if time_limit is not None:
            overrides = (*overrides, _time_limit(time_limit))
        guard_torch()
        from hookline.cli import training

        if nproc is not None and nproc > 1:
            training.launch(nproc)
    if nproc is None or nproc == 1:
        training.train(
            config,
            overrides,
            resume,
            weights,
            weights_of,
            smoke=smoke,
            plugins=not no_plugins,
            trace=trace_hooks,
            start_s=start_s,
        )


def _time_limit(text: str) -> str:
    """Return the override that ``--time-limit`` stands for."""
    from hookline.config.durations import RULE, seconds

    try:
        seconds(text)
    except ValueError:
        raise RunError(str(Problem("--time-limit", RULE, text))) from None
    return f"train.time_limit={text.strip()}"


@main.command()
@click.argument("run", metavar="RUN_OR_CHECKPOINT")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE …]")
@click.option("--data", multiple=True, help="A key of the config's data; by default all but train.")
@click.option("--weights-of", metavar="NAME", help="Measure the weights that this plugin keeps.")
@reporting
def evaluate(run: str, overrides: tuple[str, ...], data: tuple[str, ...], weights_of: str | None) -> None:
    """Measure the model of a run or checkpoint."""
    guard_torch()
    from hookline.cli import training

    training.evaluate(run, overrides, data, weights_of)


@main.command("verify-plugins")
@click.argument("config", type=click.Path())
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE …]")
@click.option(
    "--iters", type=click.IntRange(min=1), default=20, show_default=True, help="Length of each run."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
@reporting
def verify_plugins(config: str, overrides: tuple[str, ...], iters: int, as_json: bool) -> None:
    """Train CONFIG with and without each observer, and name those that change it.

    Compares weights, random numbers and all else that training depends on, to the bit. Exits with 0 if every
    observer is pure, 1 if one is not, 2 if that cannot be told.
    """
    guard_torch()
    from hookline.cli import verification

    verification.verify_plugins(config, overrides, iters, as_json)


@main.command()
@click.argument("capsule", metavar="CAPSULE", type=click.Path())
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE …]")
@click.option("--no-anomaly", is_flag=True, help="Run it as the run did, without looking at each operation.")
@reporting
def replay(capsule: str, overrides: tuple[str, ...], no_anomaly: bool) -> None:
    """Run the iteration of CAPSULE again, and say where it went wrong.

    CAPSULE is one that the hook 'capsule' wrote, or a run, whose newest one is taken. KEY=VALUE overrides the
    config that the run had: train.device=cpu train.precision=fp32. What that config names is imported, as by
    train. Exits with 0 if the iteration went as it did in the run, 1 if not, 2 if it cannot be run.
    """
    guard_torch()
    from hookline.cli import replaying

    replaying.replay(capsule, overrides, anomaly=not no_anomaly)


@main.command("verify-resume")
@click.argument("config", type=click.Path())
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE …]")
@click.option(
    "--iters", type=click.IntRange(min=1), default=10, show_default=True, help="Half of each run's length."
)
@click.option(
    "--at",
    type=click.IntRange(min=1),
    multiple=True,
    metavar="K",
    help="Stop after so many iterations; may be given several times.  [default: all --iters, and a third]",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of lines.")
@reporting
def verify_resume(
    config: str, overrides: tuple[str, ...], iters: int, at: tuple[int, ...], as_json: bool
) -> None:
    """Train CONFIG in one go, and stopped and resumed, and name the first difference.

    Compares weights, random numbers, batches, the state of plugins, metrics and all else that training
    depends on, to the bit. Exits with 0 if a resumed run is the same, 1 if it is not, 2 if nobody can tell.
    """
    guard_torch()
    from hookline.cli import verification

    verification.resume(config, overrides, iters, at, as_json)


main.add_command(config)
main.add_command(export)
main.add_command(plugins)
