"""The built-in hooks, one concern a file; found through entry points like anybody's."""

from __future__ import annotations

from hookline.hooks.best_checkpoint import BestCheckpoint
from hookline.hooks.callback import Callback
from hookline.hooks.capsule import Capsule
from hookline.hooks.checkpoint import Checkpoint
from hookline.hooks.early_stopping import EarlyStopping
from hookline.hooks.evaluate import Evaluate
from hookline.hooks.memory import Memory
from hookline.hooks.profiler import Profiler
from hookline.hooks.progress import Progress
from hookline.hooks.schedule import Schedule
from hookline.hooks.timer import Timer
from hookline.hooks.writers import PeriodicWriter

__all__ = [
    "BestCheckpoint",
    "Callback",
    "Capsule",
    "Checkpoint",
    "EarlyStopping",
    "Evaluate",
    "Memory",
    "PeriodicWriter",
    "Profiler",
    "Progress",
    "Schedule",
    "Timer",
]
