"""What is done for every run, however it ends: plugins are told, writers closed, and the first error kept."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hookline.trainer.restoring import say_if_exit

if TYPE_CHECKING:
    from hookline.trainer.base import TrainerBase

__all__ = ["close", "tell_of"]

_log = logging.getLogger(__name__)


def tell_of(error: BaseException, trainer: TrainerBase) -> None:
    """Make ``error`` what the run failed of, and tell every plugin."""
    _blame(error, trainer)
    say_if_exit(error)
    _report(trainer.hooks.call_each("on_error", trainer=trainer, error=error), "on_error")


def close(trainer: TrainerBase, error: BaseException | None) -> BaseException | None:
    """Let every plugin end, seal what it put, close the writers; return the first error of all.

    Args:
        trainer: Whose run has ended.
        error: What it failed of, if it did.
    """
    errors = [error] if error is not None else []
    try:
        trainer._saving.finish(trainer, wait=True)
    except BaseException as raised:
        errors += _report([raised], "The last save")
    errors += _report(trainer.hooks.call_each("after_train", trainer=trainer), "after_train")
    try:
        trainer.storage.step()
        trainer.storage.drain()
        trainer.storage.iter = trainer.iter  # where a further train goes on
    except BaseException as raised:
        errors.append(raised)
    if errors:  # The writers are told how it ended.
        _blame(errors[0], trainer)
    errors += _close_deliveries(trainer)
    if errors:
        _blame(errors[0], trainer)
    return errors[0] if errors else None


def _close_deliveries(trainer: TrainerBase) -> list[BaseException]:
    errors: list[BaseException] = []
    for delivery in trainer.deliveries:
        try:
            trainer.gaps += delivery.close(trainer.status)
        except BaseException as raised:
            errors.append(raised)
        trainer.writer_seconds.update(delivery.seconds)
    trainer.deliveries = []
    return errors


def _blame(error: BaseException, trainer: TrainerBase) -> None:
    trainer.status, trainer.reason = "failed", f"{type(error).__name__}: {error}"


def _report(errors: Sequence[BaseException], hook: str) -> list[BaseException]:
    for error in errors:
        _log.error("%s failed, the others went on.", hook, exc_info=error)
    return list(errors)
