"""What a run was made with, kept in its checkpoints, and what of it is different when the run is resumed."""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from hookline import distributed
from hookline.config import Config
from hookline.errors import CheckpointError
from hookline.purity import settings

__all__ = ["Difference", "differences", "record", "tell"]

Record = Mapping[str, Any]
Level = Literal["error", "warning", "info"]

_BITS = "the numbers may differ in the last digits"
_BATCHES = "other batches than without the stop"
_HERE = "from here on"

# The first that matches decides. What none matches, or one without a level, makes no difference to training,
# or is told elsewhere: hooks and writers by the plugin lock, the number of processes by the random numbers.
_OF_CONFIG: tuple[tuple[str, Level | None, str], ...] = (
    ("run.seed", "warning", "no effect, as a resumed run keeps its random numbers and the order of its data"),
    ("model.target", "error", ""),
    ("model.*", "warning", f"another model {_HERE}"),
    ("optimizer.target", "warning", f"another optimizer {_HERE}"),
    ("optimizer.*", "info", _HERE),
    ("schedule*", "info", _HERE),
    ("train.max_iter", "info", "a schedule of hookline follows"),
    ("train.clip_norm", "info", _HERE),
    ("train.max_skips", "info", _HERE),
    ("train.accumulate", "warning", f"each iteration sees another number of batches {_HERE}"),
    ("train.precision", "warning", f"other numbers {_HERE}"),
    ("train.compile*", "warning", _BITS),
    ("train.kernel", "warning", _BITS),
    ("data.*.loader.pin_memory", None, ""),
    ("data.train.loader.num_workers", "warning", "datasets draw random numbers otherwise in workers"),
    ("data.*.loader.num_workers", None, ""),
    ("data.train.*", "warning", _BATCHES),
    ("data.*", "warning", "evaluations measure something else than before"),
)
_SETTINGS = (
    "threads",
    "default dtype",
    "deterministic algorithms",
    "matmul precision",
    "flushing of denormals",
)
_CUDA_SETTINGS = ("cudnn", "cuda matmul", "attention")
_VARIABLES = ("CUBLAS_WORKSPACE_CONFIG", "NVIDIA_TF32_OVERRIDE", "MKL_CBWR", "ONEDNN_MAX_CPU_ISA")
_MAX_SHOWN = 60

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Difference:
    """One thing that is not as it was when the checkpoint was saved.

    Args:
        key: What: a key of the config, or a fact such as ``torch``.
        text: The difference in one line, with what it means.
        level: ``error`` where a resumed run would silently be another experiment, ``warning`` where it is not
            the same run to the bit, ``info`` for what a user changes on purpose.
    """

    key: str
    text: str
    level: Level


def record(config: Config, trainer: type, device: torch.device) -> dict[str, Any]:
    """Return what decides whether two processes compute the same, as data that a checkpoint can hold.

    Call it when the trainer is built and before a hook has run, so that it is the same moment in all.
    """
    on_device = (*_SETTINGS, *(_CUDA_SETTINGS if device.type == "cuda" else ()))
    return {
        "config": _plain(config.to_dict()),
        "facts": {
            "trainer": trainer.__qualname__,
            "python": platform.python_version(),
            "hookline": version("hookline"),
            "torch": str(torch.__version__),
            "numpy": np.__version__,
            "device": _device(device),
            **{name: str(value) for name, value in settings().items() if name in on_device},
            **{name: os.environ[name] for name in _VARIABLES if name in os.environ},
        },
        "num_processes": distributed.world_size(),
    }


def tell(saved: Record, now: Record, config: Config) -> None:
    """Log, on rank 0, each difference between two records; with none say nothing.

    Raises:
        CheckpointError: If one of them is an error, unless the config's ``plugins.on_change`` is ``warn`` or
            ``ignore``: then it is a warning.
    """
    found = differences(saved, now)
    is_allowed = config.plugins.on_change in ("warn", "ignore")
    for each in found:
        if each.level == "error" and not is_allowed:
            raise CheckpointError(
                f"{config.where(each.key)}: expected what the run was saved with, got another: {each.text}. "
                "To start a run of its own from the weights, use --weights instead of --resume. "
                "If it is the same under another name, add plugins.on_change=warn."
            )
    if distributed.is_main():
        for each in found:
            _log.log(logging.INFO if each.level == "info" else logging.WARNING, "%s", each.text)


def differences(saved: Record, now: Record) -> list[Difference]:
    """Return every difference between two records, one a key."""
    found = [*_of_config(saved["config"], now["config"])]
    for key, was, is_now in _unequal(saved["facts"], now["facts"]):
        meaning = "another trainer" if key == "trainer" else _BITS
        found.append(Difference(key, f"{_change(key, was, is_now)}: {meaning}", "warning"))
    return found


def _of_config(saved: Record, now: Record) -> Iterator[Difference]:
    for key, was, is_now in _unequal(dict(_leaves(saved, "")), dict(_leaves(now, ""))):
        level, meaning = _rule(key)
        if key.endswith(".target") and _is_same_target(was, is_now):
            continue
        if key.endswith(".num_workers") and was and is_now:
            continue  # a batch is the same from any number of workers
        if level is not None:
            change = _change(key, was, is_now)
            yield Difference(key, f"{change}: {meaning}" if meaning else change, level)


def _rule(key: str) -> tuple[Level | None, str]:
    return next(
        ((level, text) for pattern, level, text in _OF_CONFIG if fnmatchcase(key, pattern)), (None, "")
    )


def _unequal(saved: Record, now: Record) -> Iterator[tuple[str, Any, Any]]:
    for key in [*saved, *(key for key in now if key not in saved)]:
        was, is_now = saved.get(key), now.get(key)
        if was != is_now and not (was != was and is_now != is_now):  # NaN is NaN here
            yield key, was, is_now


def _leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Yield what is in nested mappings by its dotted key; a list is one value."""
    if isinstance(value, Mapping) and value:
        for name, item in value.items():
            yield from _leaves(item, f"{key}.{name}".lstrip("."))
    else:
        yield key, value


def _is_same_target(was: Any, is_now: Any) -> bool:
    """Return whether two targets name the same thing in a file that was moved with its folder."""
    return was is not None and is_now is not None and _short(was) == _short(is_now)


def _short(target: Any) -> str:
    file, colon, name = str(target).rpartition(":")
    return f"{Path(file).name}:{name}" if colon and file.endswith(".py") else str(target)


def _change(key: str, was: Any, is_now: Any) -> str:
    return f"{key}: {_shown(key, was)} → {_shown(key, is_now)}"


def _shown(key: str, value: Any) -> str:
    text = "not set" if value is None else _short(value) if key.endswith(".target") else str(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 1]}…"


def _plain(value: Any) -> Any:
    """Return ``value`` with the type in place of what is no plain data, as a config of Python may hold."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else type(value).__qualname__


def _cudnn() -> int | None:
    number: int | None = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    return number


def _device(device: torch.device) -> str:
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        return f"cuda ({name}, CUDA {torch.version.cuda}, cuDNN {_cudnn()})"
    kind = torch.backends.cpu.get_cpu_capability() if device.type == "cpu" else ""
    return f"{device.type} ({' '.join(filter(None, [platform.machine(), kind]))})"
