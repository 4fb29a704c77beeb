"""``hookline config``: what a config amounts to, and what an editor needs to help with one."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from hookline.cli.ending import ending_in_order
from hookline.cli.reporting import reporting
from hookline.errors import Problem, RunError

__all__ = ["config"]


class _ShowUnlessNamed(click.Group):
    """A group whose command ``show`` is meant when none is named: ``config run.yaml``."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that the first word names, or else ``show`` with all words."""
        named = args if args[0] in self.commands else ["show", *args]
        return super().resolve_command(ctx, named)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep a missing config an error, as it is to the other commands."""
        return super().parse_args(ctx, args or ["show"])


@click.group(cls=_ShowUnlessNamed, subcommand_metavar="[show] CONFIG [KEY=VALUE …] | schema [CONFIG]")
def config() -> None:
    """Print a config resolved, or the schema that editors check configs with.

    'hookline config CONFIG' is short for 'hookline config show CONFIG'. A config in a file called show or
    schema is ./show or ./schema.
    """


@config.command()
@click.argument("config", type=click.Path())
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE …]")
@reporting
def show(config: str, overrides: tuple[str, ...]) -> None:
    """Print CONFIG resolved, with origins."""
    from hookline.config import load_config, render

    click.echo(render(load_config(config, overrides)), nl=False)


@config.command()
@click.argument("config", type=click.Path(), required=False)
@click.option("-o", "--output", type=click.Path(), metavar="FILE", help="Write it to FILE.")
@reporting
def schema(config: str | None, output: str | None) -> None:
    """Print the JSON Schema of configs, with the sections of every installed plugin.

    With CONFIG also with the options of its targets and local hooks; it may be unfinished. Plugins are
    imported in processes of their own; one that cannot be is left out, and named on standard error.
    """
    from hookline.cli.layout import printable
    from hookline.inspection.schema import describe_config

    if output is not None and (Path(output).is_dir() or not Path(output).parent.is_dir()):
        problem = Problem("--output", "a file in a folder that exists", output)  # before plugins are imported
        raise RunError(str(problem))
    with ending_in_order():
        described = describe_config(Path(config) if config is not None else None)
    for line in described.left_out:
        click.echo(f"hookline: left out {printable(line)}", err=True)
    text = json.dumps(described.schema, indent=2, ensure_ascii=False) + "\n"
    if output is None:
        click.echo(text, nl=False)
        return
    _write(Path(output), text)
    beside = os.path.relpath(output, Path(config).parent) if config is not None else output
    click.echo(f"Begin a config with: # yaml-language-server: $schema={beside}", err=True)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        problem = Problem("--output", "a file that can be written", str(path), str(error.strerror))
        raise RunError(str(problem)) from error
