"""The product broken on purpose, in a fork: what a harness must see. Patches for `job.kill_trials`."""

from __future__ import annotations

__all__ = ["forget_events_position", "forget_json_position", "forget_rng", "report_what_is_not_saved"]


def forget_rng() -> None:
    """Resume with whatever the generators hold."""
    from hookline.checkpoint import rng

    rng.restore = lambda state: None


def forget_json_position() -> None:
    """Append to the journal instead of going back to the checkpoint's position."""
    from hookline_json import JSONWriter

    JSONWriter.load_state_dict = lambda self, state: None


def forget_events_position() -> None:
    """Begin TensorBoard's file anew instead of going back to the checkpoint's position."""
    from hookline_tensorboard import TensorBoardWriter

    TensorBoardWriter.load_state_dict = lambda self, state: None


def report_what_is_not_saved() -> None:
    """Say that a checkpoint is there, and write none."""
    from hookline.hooks import Checkpoint

    Checkpoint.save = lambda self, iteration, state, tags: self.root / f"iter_{iteration:07d}"
