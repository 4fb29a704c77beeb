"""The plugin author's kit: runs of milliseconds, plugins that make trouble, one call that checks a plugin.

Importing this package does no work, and neither does its pytest plugin: each public name is imported when it
is first used, torch with it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hookline.testing.conformance import assert_plugin_conforms
    from hookline.testing.ranks import run_ranks
    from hookline.testing.tiny import TinyModel, TinyTrainer, tiny_data, tiny_trainer
    from hookline.testing.trouble import FailingHook, FailingWriter, HangingWriter, SlowHook, SlowWriter
    from hookline.testing.writers import MemoryWriter

_ROOM_OF = {
    "FailingHook": "trouble",
    "FailingWriter": "trouble",
    "HangingWriter": "trouble",
    "MemoryWriter": "writers",
    "SlowHook": "trouble",
    "SlowWriter": "trouble",
    "TinyModel": "tiny",
    "TinyTrainer": "tiny",
    "assert_plugin_conforms": "conformance",
    "run_ranks": "ranks",
    "tiny_data": "tiny",
    "tiny_trainer": "tiny",
}

__all__ = [
    "FailingHook",
    "FailingWriter",
    "HangingWriter",
    "MemoryWriter",
    "SlowHook",
    "SlowWriter",
    "TinyModel",
    "TinyTrainer",
    "assert_plugin_conforms",
    "run_ranks",
    "tiny_data",
    "tiny_trainer",
]


def __getattr__(name: str) -> Any:
    try:
        room = _ROOM_OF[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    value = getattr(import_module(f"hookline.testing.{room}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
