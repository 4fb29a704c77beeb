"""``hookline export``: the journal of a run through another writer."""

from __future__ import annotations

import os
from pathlib import Path

import click

from hookline.cli.reporting import reporting

__all__ = ["export"]

_MAX_FILES = 3


@click.command()
@click.argument("run", metavar="RUN")
@click.argument("options", nargs=-1, metavar="[KEY=VALUE …]")
@click.option("--to", required=True, metavar="NAME", help="The writer to tell, as a config names it.")
@click.option("--out", metavar="DIR", help="A new or empty folder; by default one in RUN/export.")
@reporting
def export(run: str, options: tuple[str, ...], to: str, out: str | None) -> None:
    """Tell a writer what the journal of RUN holds, in a folder of its own.

    KEY=VALUE are options of the writer, such as every_value=true or period=100; where the config of the run
    has the writer, too, its options hold but for these. RUN may be going on. Nothing of it is changed.
    """
    from rich.console import Console

    from hookline.console import show_logs
    from hookline.export import export as exported

    show_logs()
    with Console(stderr=True).status("") as status:  # where nobody watches, in silence
        found = exported(
            run,
            to,
            None if out is None else Path(out),
            options,
            lambda iteration: status.update(f"export: up to iteration {iteration}"),
        )
    iterations = f"{found.num_iters} iterations, {found.first_iteration} to {found.last_iteration}"
    lines = [
        ("run", _shown(found.run)),
        (found.journal, iterations),
        (found.writer, _shown(found.folder)),
        ("files", _files(found.folder)),
        *([("look", found.command)] if found.command else []),
    ]
    width = max(len(name) for name, _ in lines)
    for name, text in lines:
        click.echo(f"{name.ljust(width)}  {text}")


def _shown(path: Path) -> str:
    """Return ``path`` as short as it can be typed here."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _files(folder: Path) -> str:
    files = sorted(os.path.relpath(path, folder) for path in folder.rglob("*") if path.is_file())
    if len(files) > _MAX_FILES:
        places = dict.fromkeys(f"{file.partition('/')[0]}{'/' * ('/' in file)}" for file in files)
        return f"{len(files)} in {', '.join(places)}"
    return ", ".join(files) or "none here"
