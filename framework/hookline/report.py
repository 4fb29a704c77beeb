"""What a run tells a person at its beginning and at its end, and the same as data."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.text import Text

from hookline import distributed
from hookline.console import console
from hookline.processes import launch_command
from hookline.resuming import AUTO
from hookline.rundir import RunDir

if TYPE_CHECKING:
    from hookline.default import DefaultTrainer

__all__ = ["header", "last_words", "print_header", "print_summary", "summary"]

_LEAST_SHOWN_S = 0.005


def print_header(trainer: DefaultTrainer) -> None:
    """Print where the run writes, what it trains and which plugins it calls, in that order."""
    _print_lines(header(trainer).items())


def header(trainer: DefaultTrainer) -> dict[str, str]:
    """Return the lines of the header by name."""
    num_parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
    lines = {
        "run": _shown(trainer.run_dir),
        "device": _device(trainer),
        "model": f"{type(trainer.model).__name__}, {num_parameters:,} parameters",
        "training": _training(trainer),
        "hooks": " → ".join(trainer.hooks.names()) or "none",
        "writers": ", ".join(trainer.writers) or "none",
    }
    if trainer.resumed_from is not None:
        lines["resumed"] = f"from {trainer.resumed_from.name}"
    return lines


def summary(trainer: DefaultTrainer, duration_s: float) -> dict[str, Any]:
    """Return what the run came to: how it ended, its metrics, where time went, what writers missed."""
    return {
        "status": trainer.status,
        "reason": trainer.reason,
        "iteration": trainer.iter,
        "max_iter": trainer.max_iter,
        "duration_s": round(duration_s, 3),
        "metrics": _metrics(trainer),
        "hook_seconds": _hook_seconds(trainer.hooks.seconds),
        "writer_seconds": _rounded(trainer.writer_seconds),
        "gaps": [asdict(gap) for gap in trainer.gaps],
        "switched_off": dict(trainer.hooks.switched_off),
        "commands": commands(trainer),
    }


def commands(trainer: DefaultTrainer) -> dict[str, str]:
    """Return the commands that continue the run, or start it again, and that show what its writers wrote."""
    found = dict(_go_on(trainer))
    for name, writer in trainer.writers.items():
        command = writer.view_command()
        if command:
            found[name] = command
    return found


def last_words(trainer: DefaultTrainer) -> str:
    """Return what is to be said when the process ends at once: how to go on."""
    hints = [f" Go on with: {command}" for _, command in _go_on(trainer)]
    return f"hookline: ended at once, in iteration {trainer.iter}.{''.join(hints)}\n"


def _go_on(trainer: DefaultTrainer) -> Iterator[tuple[str, str]]:
    """Yield what it does and the command that extends, resumes or starts again; nothing after a smoke.

    Of a config that no file holds it is what to call in Python: a process of its own would not find what the
    program has made or found on its path.
    """
    is_complete, run_dir = trainer.status == "finished", trainer.run_dir
    if trainer.smoke and is_complete:
        return
    if run_dir is not None and RunDir(run_dir).has_checkpoints:
        changed = ("train.stop_at=", *(["train.max_iter="] if is_complete else []))
        more = [f"train.max_iter={2 * trainer.max_iter}"] if is_complete else []
        more += ["train.stop_at="] if _stops_by_file(trainer) else []
        words = [*_source(trainer, changed), *_flags(trainer), "--resume", _shown(run_dir), *more]
        command = shlex.join([*launch_command(), *words])
        if trainer.config.source is None:
            command = f"trainer.resume({_shown(run_dir)!r})" + f"  # with {' '.join(more)}" * bool(more)
        yield "extend" if is_complete else "resume", command
    elif not is_complete and trainer.config.source is not None:
        auto = ["--resume", AUTO] if trainer.asked_to_resume == AUTO else []
        words = [*_source(trainer, ()), *_flags(trainer), *_weights(trainer), *auto]
        yield "again", shlex.join([*launch_command(), *words])


def _stops_by_file(trainer: DefaultTrainer) -> bool:
    """Return whether the config that the command names says when to pause, which is over."""
    config, stop_at = trainer.config, trainer.config.train.stop_at
    is_over = stop_at is not None and stop_at <= trainer.iter
    return is_over and (config.source is None or "stop_at" in config.source_text)


def _flags(trainer: DefaultTrainer) -> list[str]:
    chosen = {"--smoke": trainer.smoke, "--no-plugins": not trainer.has_plugins}
    return [flag for flag, is_on in chosen.items() if is_on]


def _weights(trainer: DefaultTrainer) -> list[str]:
    if trainer.weights_from is None:
        return []
    source, of = trainer.weights_from
    return ["--weights", source, *([] if of is None else ["--weights-of", of])]


def print_summary(trainer: DefaultTrainer, data: Mapping[str, Any]) -> None:
    """Print ``data``, as `summary` returned it: one line a fact, so that commands can be copied."""
    # The error itself follows on standard error.
    reason = f" ({data['reason']})" if data["reason"] and data["status"] != "failed" else ""
    lines = [
        ("status", f"{data['status']} at iteration {data['iteration']}{reason}"),
        ("duration", f"{data['duration_s']:.1f} s"),
    ]
    for name, found in data["metrics"].items():
        best = f", best {found['best']:.4g} at iteration {found['best_iteration']}" if "best" in found else ""
        lines.append((name, f"{found['last']:.4g}{best}"))
    lines += [("hooks", _hook_times(data["hook_seconds"])), ("writers", _times(data["writer_seconds"]))]
    lines += [("missed", _gap(gap)) for gap in data["gaps"]]
    lines += [("off", reason) for reason in data["switched_off"].values()]
    lines += [("files", _shown(trainer.run_dir)), *data["commands"].items()]
    _print_lines(lines)


def _print_lines(lines: Iterable[tuple[str, str]]) -> None:
    lines = list(lines)
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        console().print(Text.assemble((name.ljust(width), "bold"), "  ", value))


def _metrics(trainer: DefaultTrainer) -> dict[str, dict[str, Any]]:
    """Return the last value of the total loss and of what has a prefix, and the best one of each loss."""
    metrics: dict[str, dict[str, Any]] = {}
    for name, history in sorted(trainer.storage.histories().items()):
        if "/" not in name and name != "total_loss":
            continue
        metrics[name] = {"last": history.latest()}
        finite = [(value, iteration) for value, iteration in history.values() if math.isfinite(value)]
        if "loss" in name and finite:
            best, iteration = min(finite)
            metrics[name] |= {"best": best, "best_iteration": iteration}
    return metrics


def _source(trainer: DefaultTrainer, changed: tuple[str, ...]) -> list[str]:
    """Return the config as it was given on the command line but for what is ``changed``."""
    return [
        str(trainer.config.source),
        *(text for text in trainer.config.overrides if not text.startswith(changed)),
    ]


def _shown(path: Path | None) -> str:
    """Return ``path`` as short as it can be typed here."""
    here = Path.cwd()
    return str(path.relative_to(here) if path is not None and path.is_relative_to(here) else path)


def _device(trainer: DefaultTrainer) -> str:
    device = trainer.device
    name = (
        torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    )
    ranks = f", {distributed.world_size()} processes" if distributed.world_size() > 1 else ""
    return f"{device} ({name}){ranks}"


def _training(trainer: DefaultTrainer) -> str:
    compiling = ", compiling in the first" if trainer.config.train.compile else ""
    return f"iterations {trainer.start_iter} to {trainer.max_iter}, {trainer.precision}{compiling}"


def _hook_seconds(seconds: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Return the seconds by plugin and hook, rounded, the largest first."""
    largest_first = sorted(seconds, key=lambda plugin: -sum(seconds[plugin].values()))
    return {plugin: _rounded(seconds[plugin]) for plugin in largest_first}


def _rounded(seconds: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 6) for name, value in sorted(seconds.items(), key=lambda item: -item[1])}


def _gap(gap: Mapping[str, Any]) -> str:
    if not gap["num_events"]:
        return f"{gap['writer']} missed nothing, but was not closed: {gap['reason']}"
    missed = f"{gap['num_events']} iterations, {gap['first_iteration']} to {gap['last_iteration']}"
    return f"{gap['writer']} missed {missed}: {gap['reason']}"


def _times(seconds: Mapping[str, float]) -> str:
    shown = [f"{name} {value:.2f} s" for name, value in seconds.items() if value >= _LEAST_SHOWN_S]
    return ", ".join(shown) or "under 0.01 s"


def _hook_times(seconds: Mapping[str, Mapping[str, float]]) -> str:
    """Return the total of each plugin, with the hook that took most of it."""
    most = {plugin: max(by_hook, key=lambda hook: by_hook[hook]) for plugin, by_hook in seconds.items()}
    return _times(
        {f"{plugin} ({most[plugin]})": sum(by_hook.values()) for plugin, by_hook in seconds.items()}
    )
