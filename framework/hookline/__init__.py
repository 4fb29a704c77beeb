"""hookline: a small PyTorch trainer that other people's packages plug into.

Importing this package does no work: each public name is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hookline.checkpoint.rng import forked_rng
    from hookline.config import Config, Period, is_due, load_config
    from hookline.data import Loader
    from hookline.default import DefaultTrainer
    from hookline.delivery import Delivery
    from hookline.durable import make_directory, name_aside, remove_leftovers, replace_file, sync_directory
    from hookline.errors import (
        CheckpointError,
        ConfigError,
        HooklineError,
        NonFiniteError,
        PluginError,
        Problem,
        RunError,
        WriterError,
    )
    from hookline.evaluation import evaluate
    from hookline.events import (
        Events,
        EventStorage,
        EventTable,
        EventWriter,
        Histogram,
        Run,
        Scalar,
        as_tables,
        get_event_storage,
    )
    from hookline.hookspecs import HookBase, hookimpl
    from hookline.kernel import StepKernel
    from hookline.nesting import to_device
    from hookline.reduce import PeriodReducer
    from hookline.trained import load_model
    from hookline.trainer import SimpleTrainer, TrainerBase

_ROOMS = {
    "checkpoint.rng": ("forked_rng",),
    "config": ("Config", "Period", "is_due", "load_config"),
    "data": ("Loader",),
    "default": ("DefaultTrainer",),
    "delivery": ("Delivery",),
    "durable": ("make_directory", "name_aside", "remove_leftovers", "replace_file", "sync_directory"),
    "errors": (
        "CheckpointError",
        "ConfigError",
        "HooklineError",
        "NonFiniteError",
        "PluginError",
        "Problem",
        "RunError",
        "WriterError",
    ),
    "evaluation": ("evaluate",),
    "events": (
        "EventStorage",
        "EventTable",
        "EventWriter",
        "Events",
        "Histogram",
        "Run",
        "Scalar",
        "as_tables",
        "get_event_storage",
    ),
    "hookspecs": ("HookBase", "hookimpl"),
    "kernel": ("StepKernel",),
    "nesting": ("to_device",),
    "reduce": ("PeriodReducer",),
    "trained": ("load_model",),
    "trainer": ("SimpleTrainer", "TrainerBase"),
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}

__version__ = "0.1.0"

__all__ = [
    "CheckpointError",
    "Config",
    "ConfigError",
    "DefaultTrainer",
    "Delivery",
    "EventStorage",
    "EventTable",
    "EventWriter",
    "Events",
    "Histogram",
    "HookBase",
    "HooklineError",
    "Loader",
    "NonFiniteError",
    "Period",
    "PeriodReducer",
    "PluginError",
    "Problem",
    "Run",
    "RunError",
    "Scalar",
    "SimpleTrainer",
    "StepKernel",
    "TrainerBase",
    "WriterError",
    "__version__",
    "as_tables",
    "evaluate",
    "forked_rng",
    "get_event_storage",
    "hookimpl",
    "is_due",
    "load_config",
    "load_model",
    "make_directory",
    "name_aside",
    "remove_leftovers",
    "replace_file",
    "sync_directory",
    "to_device",
]


def __getattr__(name: str) -> Any:
    try:
        room = _ROOM_OF[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    value = getattr(import_module(f"hookline.{room}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
