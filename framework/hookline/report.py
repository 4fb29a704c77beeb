"""What a run tells a person at its beginning and at its end, and the same as data."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.table import Table

from hookline.console import console

if TYPE_CHECKING:
    from hookline.default import DefaultTrainer

__all__ = ["header", "print_header", "print_summary", "summary"]


def print_header(trainer: DefaultTrainer) -> None:
    """Print where the run writes, what it trains and which plugins it calls, in that order."""
    for name, value in header(trainer).items():
        console().print(f"[bold]{name:<9}[/bold] ", end="")
        console().print(value, markup=False)


def header(trainer: DefaultTrainer) -> dict[str, str]:
    """Return the lines of the header by name."""
    num_parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
    lines = {
        "run": f"{trainer.run_dir}",
        "device": _device(trainer),
        "model": f"{type(trainer.model).__name__}, {num_parameters:,} parameters",
        "training": f"iterations {trainer.start_iter} to {trainer.max_iter}, {trainer.precision}",
        "hooks": " → ".join(trainer.hooks.names()) or "none",
        "writers": ", ".join(trainer.writers) or "none",
    }
    if trainer.resumed_from is not None:
        lines["resumed"] = f"from {trainer.resumed_from.name}"
    return lines


def summary(trainer: DefaultTrainer, duration_s: float) -> dict[str, Any]:
    """Return what the run came to: how it ended, its metrics, where time went, what writers missed."""
    seconds = {name: round(value, 3) for name, value in trainer.hooks.seconds.most_common()}
    return {
        "status": trainer.status,
        "reason": trainer.reason,
        "iteration": trainer.iter,
        "max_iter": trainer.max_iter,
        "duration_s": round(duration_s, 3),
        "metrics": _metrics(trainer),
        "hook_seconds": seconds,
        "writer_seconds": {name: round(value, 3) for name, value in trainer.writer_seconds.items()},
        "gaps": [str(gap) for gap in trainer.gaps],
        "commands": commands(trainer),
    }


def commands(trainer: DefaultTrainer) -> dict[str, str]:
    """Return the commands that continue the run, and that show what its writers wrote."""
    resume = ["hookline", "train", *_source(trainer), "--resume", str(trainer.run_dir)]
    if trainer.status in ("finished", "stopped"):
        resume.append(f"train.max_iter={2 * trainer.max_iter}")
    found = {"extend" if trainer.status in ("finished", "stopped") else "resume": shlex.join(resume)}
    if trainer.checkpointer is None:
        found = {}
    for name, writer in trainer.writers.items():
        command = writer.view_command()
        if command:
            found[name] = command
    return found


def print_summary(trainer: DefaultTrainer, data: Mapping[str, Any]) -> None:
    """Print ``data``, as `summary` returned it, as a table."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    reason = f" ({data['reason']})" if data["reason"] else ""
    table.add_row("status", f"{data['status']} at iteration {data['iteration']}{reason}")
    table.add_row("duration", f"{data['duration_s']:.1f} s")
    for name, found in data["metrics"].items():
        best = f", best {found['best']:.4g} at {found['best_iteration']}" if "best" in found else ""
        table.add_row(name, f"{found['last']:.4g}{best}")
    table.add_row("hooks", _times(data["hook_seconds"]))
    table.add_row("writers", _times(data["writer_seconds"]))
    for gap in data["gaps"]:
        table.add_row("[red]missed[/red]", gap)
    table.add_row("files", str(trainer.run_dir))
    for name, command in data["commands"].items():
        table.add_row(name, command)
    console().print(table)


def _metrics(trainer: DefaultTrainer) -> dict[str, dict[str, Any]]:
    """Return the last value of each metric that repeats, and the best one of each loss."""
    metrics: dict[str, dict[str, Any]] = {}
    for name, history in sorted(trainer.storage.histories().items()):
        if name.rpartition("/")[2] not in ("total_loss", "loss") and "/" not in name:
            continue
        metrics[name] = {"last": history.latest()}
        finite = [(value, iteration) for value, iteration in history.values() if math.isfinite(value)]
        if "loss" in name and finite:
            best, iteration = min(finite)
            metrics[name] |= {"best": best, "best_iteration": iteration}
    return metrics


def _source(trainer: DefaultTrainer) -> list[str]:
    """Return the config as it was given on the command line, or the run's own copy of it."""
    source = trainer.config.source
    if source is None:
        return [f"{trainer.run_dir}/config.yaml"]
    return [str(source), *trainer.config.overrides]


def _device(trainer: DefaultTrainer) -> str:
    import torch

    from hookline import distributed

    device = trainer.device
    name = (
        torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    )
    ranks = f", {distributed.world_size()} processes" if distributed.world_size() > 1 else ""
    return f"{device} ({name}){ranks}"


def _times(seconds: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.2f} s" for name, value in seconds.items()) or "none"
