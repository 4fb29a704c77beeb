"""One attempt at a run: its directory is held, and its files say that it began and, at last, how it ended."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from time import perf_counter
from typing import TYPE_CHECKING

from hookline import checkpoint, description, distributed, report
from hookline.errors import RunError, add_note
from hookline.run_logs import attach_log, log_error
from hookline.rundir import RunDir

if TYPE_CHECKING:
    from hookline.default import DefaultTrainer

__all__ = ["attempt", "may_lack_its_end"]

_log = logging.getLogger(__name__)


@contextmanager
def attempt(trainer: DefaultTrainer, run: RunDir) -> Iterator[None]:
    """Hold ``run`` for as long as the context lasts, in which ``trainer`` trains; every rank must enter it.

    Nothing in the directory is changed before it is held, by any rank. A checkpoint of an iteration that the
    run goes back before is deleted.

    Raises:
        RunError: If another process trains in it, or has since it was looked at, or it cannot be written.
    """
    start_s = perf_counter()
    after = trainer.generation  # of its own attempt before, or seen by `resume`; 0 where the run is new
    with ExitStack() as stack:
        trainer.generation = distributed.from_main(lambda: stack.enter_context(run.held(after)))
        log = stack.enter_context(attach_log(run, distributed.rank()))
        while trainer._early_records:  # what was said before there was a file to say it in
            log.handle(trainer._early_records.pop(0))
        _begin(trainer, run)
        failure: Exception | None = None
        try:
            yield
        except Exception as error:
            failure = error
            log_error(log, error)
            raise
        finally:
            trainer._interrupts.last_words = str
            if distributed.is_main():
                _conclude(trainer, run, perf_counter() - start_s, failure)


def may_lack_its_end(trainer: DefaultTrainer) -> bool:
    """Return whether nothing may be missing but the end of ``train``: the run was killed, not ended."""
    run = trainer._run
    return trainer.resumed_from is not None and run is not None and not run.is_complete


def _begin(trainer: DefaultTrainer, run: RunDir) -> None:
    first = trainer.start_iter
    trainer._stopped_for = distributed.from_main(lambda: _stop_to_end(trainer, run))
    if first == 0:
        trainer.storage.put_hparams(description.hyper_parameters(trainer.config))
    if not distributed.is_main():
        return
    if trainer.resumed_from is not None:
        for path in checkpoint.discard_newer(run.checkpoints, first - 1):
            _log.warning("Deleted %s: the run goes on from before it.", path)
    if first == 0 and trainer.weights_from is not None:
        # Before the status: no run that is known to have begun may begin again from others.
        run.write_json("weights.json", {"source": trainer._weights_at, "of": trainer.weights_from[1]})
    if trainer._stopped_for is None:
        run.write_status("running", iteration=first)
    description.write(run, trainer.config, type(trainer), trainer._plugins_now())
    report.print_header(trainer)
    trainer._interrupts.last_words = lambda: report.last_words(trainer)


def _stop_to_end(trainer: DefaultTrainer, run: RunDir) -> str | None:
    """Return why the run was stopped before its first iteration now, if it was killed then, before its end.

    None if that was a run before: one that somebody had go on began with that iteration.
    """
    begun = run.status.get("iteration")
    was_killed = may_lack_its_end(trainer) and isinstance(begun, int) and begun < trainer.start_iter
    return trainer._saved_stop if was_killed else None


def _conclude(trainer: DefaultTrainer, run: RunDir, duration_s: float, failure: Exception | None) -> None:
    data = report.summary(trainer, duration_s)
    if trainer.is_out_of_time and trainer.iter == trainer.start_iter:
        said = "%s: not one iteration fits in beside what starts and ends the run. Raise it, or --time-limit."
        _log.warning(said, trainer.config.where("train.time_limit"))
    try:
        run.check_generation(trainer.generation)
        run.write_json("summary.json", data)
        # Last: a run that is finished has all its files.
        run.write_status(trainer.status, reason=trainer.reason, iteration=trainer.iter)
    except RunError as error:
        if failure is None:
            raise
        add_note(failure, f"and then: {error}")  # what ended the run is what there is to know
    report.print_summary(trainer, data)
