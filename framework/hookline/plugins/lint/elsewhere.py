"""What the callbacks of other frameworks are called here; docs/reference/hooks.md shows it as a table."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

__all__ = ["COUNTERPARTS", "FRAMEWORKS", "Counterpart", "counterpart"]

FRAMEWORKS = ("Lightning", "Keras", "HF Trainer", "Ignite", "MMEngine")


@dataclass(frozen=True)
class Counterpart:
    """A name of ours, and what others call the same.

    Args:
        here: A hook, or another method of a plugin.
        names: By framework; several in one string.
        note: What else there is to know, after ``here``; may be empty.
    """

    here: str
    names: dict[str, str] = field(default_factory=dict)
    note: str = ""


COUNTERPARTS = (
    Counterpart(
        "before_train",
        {
            "Lightning": "setup on_fit_start on_train_start",
            "Keras": "on_train_begin",
            "HF Trainer": "on_train_begin",
            "Ignite": "STARTED",
            "MMEngine": "before_run",
        },
    ),
    Counterpart(
        "before_step",
        {
            "Lightning": "on_train_batch_start",
            "Keras": "on_train_batch_begin on_batch_begin",
            "HF Trainer": "on_step_begin",
            "Ignite": "ITERATION_STARTED",
            "MMEngine": "before_train_iter",
        },
    ),
    Counterpart(
        "after_backward",
        {
            "Lightning": "on_after_backward on_before_optimizer_step",
            "HF Trainer": "on_pre_optimizer_step",
        },
    ),
    Counterpart(
        "after_step",
        {
            "Lightning": "on_train_batch_end",
            "Keras": "on_train_batch_end on_batch_end",
            "HF Trainer": "on_step_end on_optimizer_step",
            "Ignite": "ITERATION_COMPLETED",
            "MMEngine": "after_train_iter",
        },
    ),
    Counterpart(
        "after_step",
        {
            "Lightning": "on_train_epoch_start on_train_epoch_end",
            "Keras": "on_epoch_begin on_epoch_end",
            "HF Trainer": "on_epoch_begin on_epoch_end",
            "Ignite": "EPOCH_STARTED EPOCH_COMPLETED",
            "MMEngine": "before_train_epoch after_train_epoch",
        },
        "with a period of '1 epoch'",
    ),
    Counterpart(
        "before_evaluate",
        {
            "Lightning": "on_validation_start on_validation_epoch_start on_test_start on_test_epoch_start",
            "Keras": "on_test_begin",
            "MMEngine": "before_val before_val_epoch before_test before_test_epoch",
        },
    ),
    Counterpart(
        "after_evaluate",
        {
            "Lightning": "on_validation_epoch_end on_validation_end on_test_epoch_end on_test_end",
            "Keras": "on_test_end",
            "HF Trainer": "on_evaluate",
            "MMEngine": "after_val after_val_epoch after_test after_test_epoch",
        },
    ),
    Counterpart("after_save", {"HF Trainer": "on_save"}),
    Counterpart("state_dict", {"Lightning": "on_save_checkpoint", "MMEngine": "before_save_checkpoint"}),
    Counterpart("load_state_dict", {"Lightning": "on_load_checkpoint", "MMEngine": "after_load_checkpoint"}),
    Counterpart("write", {"HF Trainer": "on_log"}, "of an EventWriter"),
    Counterpart("on_error", {"Lightning": "on_exception", "Ignite": "EXCEPTION_RAISED"}),
    Counterpart(
        "after_train",
        {
            "Lightning": "on_train_end on_fit_end teardown",
            "Keras": "on_train_end",
            "HF Trainer": "on_train_end",
            "Ignite": "COMPLETED",
            "MMEngine": "after_run",
        },
    ),
)
"""In the order of a run. detectron2 has our names."""

_ORDINARY = ("setup", "teardown")
_THEIR_ARGUMENTS = {"trainer", "pl_module", "stage"}


def counterpart(method: str, function: Any) -> str:
    """Return ``That is after_step here`` for a callback of another framework, and else an empty string.

    Args:
        method: Name of a method.
        function: The method: ``setup`` is a callback when it asks for a trainer.
    """
    found = _BY_NAME.get(method)
    if found is None or (method in _ORDINARY and not _THEIR_ARGUMENTS & set(_arguments(function))):
        return ""
    return f"That is {' '.join(filter(None, (found.here, found.note)))} here"


def _arguments(function: Any) -> list[str]:
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return []


def _methods(framework: str, names: str) -> Iterator[str]:
    """Yield what the method for a callback is called; Ignite has events, and no names for methods."""
    for name in names.split():
        if framework != "Ignite":
            yield name
            continue
        yield f"on_{name.lower()}"
        if "_" in name:
            yield name.lower()


_BY_NAME = {
    method: each
    for each in COUNTERPARTS
    for framework, names in each.names.items()
    for method in _methods(framework, names)
}
