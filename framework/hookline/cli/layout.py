"""Tables and texts on standard output: for a terminal of any width, for a pipe, or as JSON."""

from __future__ import annotations

import json
import os
import textwrap
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import click
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

__all__ = [
    "counted",
    "duration",
    "echo",
    "echo_json",
    "echo_rows",
    "echo_unfolded",
    "plain",
    "printable",
    "table_of",
    "yaml_text",
]

_ENOUGH = 40
_UNFOLDED = 10_000
# Control characters, those without a picture (the marks of direction among them), halves of a pair,
# separators of lines and paragraphs.
_STEERING = ("Cc", "Cf", "Cs", "Zl", "Zp")


def echo(*parts: RenderableType) -> None:
    """Print ``parts`` one after the other, folded at the width of the terminal."""
    for part in parts:
        _echo(part)


def echo_unfolded(text: Text) -> None:
    """Print ``text`` as it is, for a terminal to fold and a person to copy."""
    _echo(text, soft_wrap=True)


def echo_json(data: Any) -> None:
    """Print ``data`` for a program."""
    click.echo(json.dumps(data, indent=2))


def echo_rows(head: list[str], rows: Sequence[Sequence[Text]], indent: int = 0) -> None:
    """Show a table; where there is no room for it, the last cell of each row on lines of its own.

    A table of rich would do, but takes a millisecond a row, and hundreds of plugins may be installed.
    """
    width = _console().width
    lines = [[Text(name, style="dim") for name in head], *rows]
    widths = [max(line[i].cell_len for line in lines) + 2 for i in range(len(head) - 1)]
    used = indent + sum(widths)
    is_wide = width - used >= _ENOUGH
    shown = []
    for line in lines if is_wide else [lines[0][:-1], *rows]:
        text = Text(" " * indent)
        for cell, cell_width in zip(line, widths, strict=False):
            text.append(cell).append(" " * (cell_width - cell.cell_len))
        if len(line) == len(head):
            left = used if is_wide else indent + 4
            text.append("" if is_wide or not line[-1] else "\n" + " " * left)
            text.append(_folded(line[-1], left, width))
        shown.append(text)
    echo_unfolded(Text("\n").join(shown))


def table_of(head: Sequence[str] = ()) -> Table:
    """Return a table without lines; without ``head``, only the rows."""
    table = Table(box=None, show_header=bool(head), padding=(0, 2, 0, 0), pad_edge=False)
    for name in head:
        table.add_column(name, header_style="dim", overflow="fold")
    return table


def yaml_text(value: Any) -> str:
    """Return ``value`` as a config writes it."""
    return json.dumps(value, ensure_ascii=False)  # which is YAML, too


def duration(seconds: float) -> str:
    """Return ``seconds`` as a person reads them."""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"


def plain(text: str) -> str:
    """Return a docstring without its marks of code."""
    return text.replace("``", "")


def printable(text: str) -> str:
    """Return ``text`` without what steers a terminal or turns its reading direction, lines kept."""
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) not in _STEERING)


def counted(number: int, word: str) -> str:
    """Return ``1 plugin`` or ``2 plugins``."""
    return f"{number} {word}{'' if number == 1 else 's'}"


def _folded(text: Text, left: int, width: int) -> Text:
    """Return ``text`` in lines that fit right of the column ``left``."""
    if text.cell_len <= width - left:
        return text
    lines = textwrap.wrap(text.plain, max(width - left, 20), break_long_words=False, break_on_hyphens=False)
    return Text(("\n" + " " * left).join(lines), style=text.style)


def _console() -> Console:
    """Return a console on standard output; what goes into a pipe is not folded."""
    console = Console(markup=False, highlight=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(markup=False, highlight=False, emoji=False, width=_UNFOLDED)
    return console


@dataclass(frozen=True)
class _Printable:
    """What strangers wrote, without what steers the terminal."""

    part: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self.part, options):
            yield Segment(printable(segment.text), segment.style, segment.control)


def _echo(part: RenderableType, soft_wrap: bool = False) -> None:
    """Print without the blanks that fill the last column of a table."""
    console = _console()
    with console.capture() as capture:
        console.print(_Printable(part), soft_wrap=soft_wrap)
    lines = [line.rstrip(" ") for line in capture.get().splitlines()]
    click.echo("\n".join(lines), color=True)
