"""What hookline logs, in the run's own file."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from hookline.rundir import RunDir, unwritable

__all__ = ["attach_log", "collected_logs", "log_error"]

_logging_run: ContextVar[Path | None] = ContextVar("logging_run", default=None)


@contextmanager
def attach_log(run_dir: RunDir, rank: int = 0) -> Iterator[logging.Handler]:
    """Append what the logger ``hookline`` and those below it say, from INFO up, to the run's log.

    Ranks share the file: each line is written whole and names its rank.

    Raises:
        RunError: If the log cannot be opened.
    """
    try:
        handler = _RunLog(run_dir.log, encoding="utf-8")
    except OSError as error:
        raise unwritable(str(run_dir.log), "a file", error) from error
    handler.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)s rank{rank} %(name)s: %(message)s"))
    handler.setLevel(logging.INFO)
    # Loggers belong to the process: what another run in it says, in another thread, is not this run's.
    handler.addFilter(lambda record: _logging_run.get() in (None, run_dir.path))
    token = _logging_run.set(run_dir.path)
    logger = logging.getLogger("hookline")
    level = logger.level
    if logger.getEffectiveLevel() > logging.INFO:
        logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield handler
    finally:
        _logging_run.reset(token)
        logger.removeHandler(handler)
        logger.setLevel(level)
        handler.close()


def log_error(log: logging.Handler, error: BaseException) -> None:
    """Write ``error`` with its traceback to ``log`` alone: whoever called sees the exception itself."""
    raised = (type(error), error, error.__traceback__)
    log.handle(logging.LogRecord("hookline", logging.ERROR, "", 0, str(error), (), raised))


class _RunLog(logging.FileHandler):
    """A log that says once when its disk takes no more; what a run must not lose is in other files."""

    _is_whole = True

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif self._is_whole:
            self._is_whole = False
            print(unwritable(self.baseFilename, "a log", error, "Lines are missing in it"), file=sys.stderr)

    def close(self) -> None:
        with suppress(OSError):  # what could not be written is in its buffer still
            super().close()


class _Collector(logging.Handler):
    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@contextmanager
def collected_logs() -> Iterator[list[logging.LogRecord]]:
    """Keep what hookline logs in the context, for a log file that is not there yet."""
    handler = _Collector(logging.INFO)
    logger = logging.getLogger("hookline")
    level = logger.level
    logger.setLevel(min(logger.getEffectiveLevel(), logging.INFO))
    logger.addHandler(handler)
    try:
        yield handler.records
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
