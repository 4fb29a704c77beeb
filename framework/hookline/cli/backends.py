"""Let torch be imported also where the metadata of some installed distribution cannot be read."""

from __future__ import annotations

import os
from importlib.metadata import entry_points

import click

__all__ = ["guard_torch"]

_AUTOLOAD = "TORCH_DEVICE_BACKEND_AUTOLOAD"


def guard_torch() -> None:
    """Return when ``import torch`` will not fail for what others have installed; call it before the import.

    torch looks for backends of other devices in the metadata of all that is installed, and fails where it
    cannot read some of it. Then it is told not to look, here and in processes started from here.
    """
    if _AUTOLOAD in os.environ:
        return
    try:
        entry_points(group="torch.backends")
    except Exception as error:  # whatever the metadata of a stranger leads to
        os.environ[_AUTOLOAD] = "0"
        click.echo(
            f"warning: The metadata of an installed distribution cannot be read ({type(error).__name__}), so "
            "torch does not look for backends of other devices. 'hookline plugins doctor' names it.",
            err=True,
        )
