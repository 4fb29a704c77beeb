"""``hookline plugins new``: begin a plugin of one's own."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hookline import __version__
from hookline.cli.reporting import reporting
from hookline.errors import PluginError, Problem

if TYPE_CHECKING:
    from hookline.scaffold import Names

__all__ = ["new"]


@click.command()
@click.argument("name")
@click.option("--hook", is_flag=True, help="With a hook; so it is without either flag.")
@click.option("--writer", is_flag=True, help="With an event writer; with both flags it has both.")
@click.option(
    "--dir", "parent", default=".", metavar="PATH", help="Make the folder NAME in PATH; by default here."
)
@reporting
def new(name: str, hook: bool, writer: bool, parent: str) -> None:
    """Begin a plugin: a distribution with tests, ready to install, in a new folder NAME.

    It is named hookline-NAME, and configs name its plugin NAME. What is there is never overwritten.
    """
    from hookline.scaffold import Names, new_plugin, plugin_name

    if not os.path.isdir(parent):  # also of a path that cannot be one, of which pathlib raises
        raise PluginError(str(Problem("--dir", "a folder that exists", parent)))
    kinds = ["hook"] * (hook or not writer) + ["writer"] * writer
    names = Names(plugin_name(name, kinds), kinds)
    _tell(names, Path(parent) / names.plugin, new_plugin(names, Path(parent), __version__))


def _tell(names: Names, folder: Path, files: list[Path]) -> None:
    parts = " and ".join(f"the {kind} {names.plugin!r}" for kind in names.kinds)
    overrides = " ".join(f"{kind}s+={names.plugin}" for kind in names.kinds)
    click.echo(f"Made the distribution {names.distribution} with {parts}:\n")
    for file in files:
        click.echo(f"  {file}")
    click.echo("\nInstall it, test it, use it:\n")
    click.echo(f"  pip install -e {shlex.quote(f'{folder}[dev]')}")
    click.echo(f"  pytest {shlex.quote(str(folder))}")
    click.echo(f"  hookline train run.yaml {overrides}")
