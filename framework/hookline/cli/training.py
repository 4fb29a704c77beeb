"""What ``hookline train`` and ``hookline evaluate`` do; imports torch."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from hookline import checkpoint, distributed
from hookline.config import Config, load_config
from hookline.console import console, show_logs
from hookline.default import trainer_class
from hookline.errors import ConfigError, HooklineError, Problem
from hookline.rundir import RunDir

__all__ = ["evaluate", "launch", "train"]


def train(
    config: str,
    overrides: Sequence[str],
    resume: str | None,
    weights: str | None,
    *,
    smoke: bool,
    plugins: bool,
) -> None:
    """Build the trainer that ``config`` describes, and train."""
    show_logs(distributed.rank(), distributed.world_size())
    parsed = _loaded(config, overrides, plugins)
    trainer = trainer_class(parsed)(parsed, plugins=plugins, smoke=smoke)
    if weights is not None:
        trainer.load_weights(weights)
    if resume is not None:
        trainer.resume(resume)
    trainer.train()
    distributed.leave()


def evaluate(run: str, overrides: Sequence[str], data: Sequence[str]) -> None:
    """Print the metrics of a run's model, as a table and as one JSON line where no person reads."""
    show_logs(distributed.rank(), distributed.world_size())
    found = RunDir.find(run, Path())
    config = _loaded(found.path / "config.yaml", overrides, plugins=False)
    names = list(data) or [name for name in config.data if name != "train"]
    if not names:
        raise ConfigError([Problem("data", "data besides train to evaluate on", missing=True)])
    trainer = trainer_class(config)(config, plugins=False)
    path = checkpoint.resolve(Path(run))
    trainer.load_weights(path)
    results = {f"{name}/{key}": value for name in names for key, value in trainer.evaluate(name).items()}
    if distributed.is_main():
        _show(path, results)
    distributed.leave()


def launch(nproc: int) -> None:
    """Start this very command in ``nproc`` processes through torch's launcher, and exit as they do."""
    from torch.distributed.run import main as torchrun

    arguments = sys.argv[1:]
    position = next(i for i, argument in enumerate(arguments) if argument.startswith("--nproc"))
    num_words = 1 if "=" in arguments[position] else 2
    del arguments[position : position + num_words]
    torchrun(["--standalone", f"--nproc-per-node={nproc}", "-m", "hookline", *arguments])


def _loaded(config: str | Path, overrides: Sequence[str], plugins: bool) -> Config:
    """Return the config; what is wrong with what it names is reported together with all else."""

    def also(found: Config) -> Sequence[Problem | HooklineError]:
        try:
            return trainer_class(found).planned(found, plugins).problems
        except ConfigError as error:
            return error.problems

    return load_config(config, overrides, also=also)


def _show(path: Path, results: dict[str, float]) -> None:
    if not console().is_terminal:
        console().print(json.dumps({"checkpoint": str(path), **results}), markup=False)
        return
    table = Table(title=str(path), show_header=False, title_justify="left")
    for name, value in results.items():
        table.add_row(name, f"{value:.6g}")
    console().print(table)
