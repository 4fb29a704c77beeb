"""What a run is made of: its config, plugins and environment as files, its choices as hyper-parameters."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hookline.config import Config, Target, to_yaml
from hookline.rundir import RunDir

__all__ = ["hyper_parameters", "write"]

_SECTIONS = ("model", "data", "optimizer", "schedule", "train")
_OF_THIS_TIME = ("stop_at", "time_limit")  # of a run that is resumed they say nothing


def write(run: RunDir, config: Config, trainer: type, plugins: Mapping[str, Any]) -> None:
    """Write what the run is made of into its directory; of a resumed run, what it is made of now.

    Args:
        run: Where.
        config: What was asked for.
        trainer: The class that builds it. Whoever reads the config later, to resume or evaluate, needs it.
        plugins: What `lock.record` returned.
    """
    target = None if trainer.__module__ == "hookline.default" else _target_of(trainer)
    complete = replace(config, trainer=Target(target)) if target and config.trainer is None else config
    run.write_text("config.yaml", to_yaml(complete))
    run.write_text("config.source.yaml", config.source_text)
    run.write_json("overrides.json", {"overrides": list(config.overrides)})
    run.write_json("environment.json", _environment())
    run.write_json("plugins.json", plugins)


def hyper_parameters(config: Config) -> dict[str, bool | int | float | str]:
    """Return what was chosen for the model, the data and how to train, by dotted key."""
    chosen = {key: value for key, value in config.to_dict(absolute=False).items() if key in _SECTIONS}
    chosen["train"] = {key: value for key, value in chosen["train"].items() if key not in _OF_THIS_TIME}
    flat: dict[str, bool | int | float | str] = {}

    def flatten(value: Any, key: str) -> None:
        if isinstance(value, Mapping):
            for name, item in value.items():
                flatten(item, f"{key}.{name}".lstrip("."))
        elif value is not None:
            flat[key] = value if isinstance(value, bool | int | float | str) else str(value)

    flatten(chosen, "")
    return flat


def _target_of(cls: type) -> str | None:
    """Return the target that `resolve_target` finds ``cls`` by, or None for a class of a notebook."""
    module = sys.modules[cls.__module__]
    is_file = module.__name__ == "__main__" or module.__name__.startswith("hookline_local_")
    file = getattr(module, "__file__", None)
    if not is_file:
        return f"{module.__name__}:{cls.__qualname__}"
    return f"{Path(file).resolve()}:{cls.__qualname__}" if file else None


def _environment() -> dict[str, Any]:
    import numpy as np
    import torch

    return {
        "time": datetime.now().astimezone().isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "hookline": _version("hookline"),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "cuda": torch.version.cuda,
        "gpus": _gpus(torch.cuda),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "argv": sys.argv,
        "directory": os.getcwd(),
        "git_commit": _git_commit(),
    }


def _gpus(cuda: Any) -> list[str] | int:
    # To ask for names initialises CUDA, which a run on the CPU must not pay for: it gets the number alone.
    count: int = cuda.device_count()
    return [cuda.get_device_name(index) for index in range(count)] if cuda.is_initialized() else count


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    command = ["git", "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=2, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
