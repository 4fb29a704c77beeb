"""How a command ends: what hookline raises on purpose becomes one message and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from hookline.errors import HooklineError, notes

__all__ = ["reporting"]


def reporting(command: Callable[..., None]) -> Callable[..., None]:
    """Turn what hookline raises on purpose into one message on standard error and an exit code."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except HooklineError as error:
            for line in [str(error), *notes(error)]:
                click.echo(f"hookline: {line}" if line == str(error) else line, err=True)
            sys.exit(error.exit_code)
        except KeyboardInterrupt:
            sys.exit(130)

    return run
