"""Puts into a page what the code says about itself.

Below a line ``<!-- generate: KIND ARGUMENT … -->`` of a page, and down to ``<!-- end -->``, is the text that
the function of that kind returns, in Markdown. So the reference cannot say other than the code;
tests/contract/test_docs_drift.py makes sure that it leaves nothing out and is up to date. Running this file
renews what is in the pages, for those who read them unbuilt.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import click
from docstring_parser import DocstringStyle, parse

import hookline.schedules
from hookline.cli import main
from hookline.config import DEFAULT_HOOKS, Option, describe_options, schema
from hookline.config.rules import rule
from hookline.hookspecs import HookBase, HookSpecs

__all__ = [
    "BLOCK",
    "KINDS",
    "PAGES",
    "built_in_hooks",
    "commands",
    "entry_point",
    "expand",
    "hookspecs",
    "setup",
]

BLOCK = re.compile(
    r"^<!-- generate: (.+) -->$(?:(?:\n(?!<!-- generate: ).*)*?\n<!-- end -->$)?", re.MULTILINE
)
PAGES = sorted((Path(__file__).parents[1] / "reference").glob("*.md"))
_WIDTH = 110


def setup(app: Any) -> dict[str, Any]:
    """Expand every page before it is parsed."""
    app.connect("source-read", lambda _app, _page, source: source.__setitem__(0, expand(source[0])))
    return {"parallel_read_safe": True, "version": "1"}


def expand(text: str) -> str:
    """Return the Markdown of a page with what is below each of its ``generate`` lines as it is now."""

    def generated(match: re.Match[str]) -> str:
        kind, *arguments = match[1].split()
        text = "\n".join(KINDS[kind](*arguments)).strip("\n")
        return f"<!-- generate: {match[1]} -->\n\n{text}\n\n<!-- end -->"

    return BLOCK.sub(generated, text)


def hookspecs() -> dict[str, Callable[..., Any]]:
    """Return the spec of every hook by name, in the order of the class."""
    return {name: spec for name, spec in vars(HookSpecs).items() if not name.startswith("_")}


def built_in_hooks() -> dict[str, EntryPoint]:
    """Return the entry point of every hook that comes with hookline, by name."""
    points = entry_points(group="hookline.hooks")
    return {point.name: point for point in points if point.dist is not None and point.dist.name == "hookline"}


def commands() -> dict[str, click.Command]:
    """Return every command by its full name, such as ``hookline plugins list``."""

    def below(group: click.Group, name: str) -> Iterator[tuple[str, click.Command]]:
        for word, command in sorted(group.commands.items()):
            yield f"{name} {word}", command
            if isinstance(command, click.Group):
                yield from below(command, f"{name} {word}")

    return dict(below(main, "hookline"))


def entry_point(group: str, name: str) -> EntryPoint:
    """Return the one entry point of that name."""
    (point,) = entry_points(group=group, name=name)
    return point


# ---- the kinds


def _hookspecs() -> Iterator[str]:
    """Every hook with the arguments that it offers."""
    for name, spec in hookspecs().items():
        signature = str(inspect.signature(spec)).replace("'", "")
        yield f"### {name}\n"
        yield f"```python\ndef {name}{signature}\n```\n"
        yield _prose(spec) + "\n"


def _traits() -> Iterator[str]:
    """Every class attribute that tells hookline something about a hook plugin."""
    lines = inspect.getsource(HookBase)
    found = re.findall(r'^    (\w+): (.+) = (.+)\n    """(.+)"""$', lines, re.MULTILINE)
    yield from _table(
        ["attribute", "type", "default", "meaning"],
        ([f"`{name}`", f"`{kind}`", f"`{default}`", _inline(text)] for name, kind, default, text in found),
    )


def _built_in_hooks() -> Iterator[str]:
    """Every built-in hook: what it does, its options, what it implements."""
    for name, point in sorted(built_in_hooks().items()):
        cls = point.load()
        yield f"## {name}\n"
        if name in DEFAULT_HOOKS:
            yield "*Every run has it unless its config switches it off.*\n"
        yield _prose(cls) + "\n"
        yield from _options(describe_options(cls), cls)
        implemented = [hook for hook in hookspecs() if getattr(cls, hook) is not getattr(HookBase, hook)]
        links = ", ".join(f"[{hook}](hooks.md#{hook})" for hook in implemented)
        state = " and keeps state in checkpoints" if hasattr(cls, "state_dict") else ""
        yield f"In Python it is `hookline.hooks.{cls.__qualname__}`."
        yield f"It implements {links}{state}.\n"


def _hook(name: str) -> Iterator[str]:
    """What the hook of a plugin does, and its options."""
    cls = entry_point("hookline.hooks", name).load()
    yield _prose(cls) + "\n"
    yield from _options(describe_options(cls), cls)


def _writer(name: str) -> Iterator[str]:
    """The options of a writer."""
    cls = entry_point("hookline.writers", name).load()
    yield from _options(describe_options(cls), cls)


def _section(name: str) -> Iterator[str]:
    """The keys of a section of a config."""
    cls = getattr(schema, name)
    own = [option for option in describe_options(cls) if option.name != "options"]
    yield _prose(cls) + "\n"
    yield from _options(own, cls, head="key")


def _schedules() -> Iterator[str]:
    """Every schedule with its options."""
    for name in hookline.schedules.__all__:
        cls = getattr(hookline.schedules, name)
        if name != "Schedule":
            yield f"### {name}\n"
            yield f"`hookline.schedules:{name}`\n"
            yield _prose(cls) + "\n"
            yield from _options(describe_options(cls), cls)


def _command_line() -> Iterator[str]:
    """Every command with its usage, its arguments and its options; those of a group below it."""
    for name, command in commands().items():
        context = click.Context(command, info_name=name, help_option_names=[], terminal_width=_WIDTH)
        yield f"{'#' * len(name.split())} {name}\n"
        yield f"```text\n{command.get_usage(context).removeprefix('Usage: ')}\n```\n"
        yield inspect.cleandoc(command.help or "") + "\n"
        options = [one for one in command.get_params(context) if isinstance(one, click.Option)]
        records = [option.get_help_record(context) or ("", "") for option in options]
        if records:
            rows = ([f"`{_escaped(flag)}`", _inline(text)] for flag, text in records)
            yield from _table(["option", "meaning"], rows)


KINDS: dict[str, Callable[..., Iterator[str]]] = {
    "hookspecs": _hookspecs,
    "traits": _traits,
    "built-in-hooks": _built_in_hooks,
    "hook": _hook,
    "writer": _writer,
    "section": _section,
    "schedules": _schedules,
    "command-line": _command_line,
}


# ---- how it is written


def _options(options: list[Option], owner: Any, head: str = "option") -> Iterator[str]:
    """A table of options; what a value must be is said in the words of the error messages."""
    if not options:
        yield "It takes no options.\n"
        return
    annotations = inspect.signature(owner, eval_str=True).parameters
    yield from _table(
        [head, "value", "default", "meaning"],
        (
            [
                f"`{option.name}`",
                _inline(rule(annotations[option.name].annotation)),
                "required" if option.required else _default(option.default),
                _inline(option.description),
            ]
            for option in options
        ),
    )


def _default(value: Any) -> str:
    if value is None or value in ([], {}) or dataclasses.is_dataclass(value):
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, dict):
        return ", ".join(f"`{key}: {_escaped(item)}`" for key, item in value.items())
    return f"`{list(value) if isinstance(value, tuple) else value}`"


def _table(head: list[str], rows: Any) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    yield from (f"| {' | '.join(row)} |" for row in rows)
    yield ""


def _inline(text: str) -> str:
    """Return one paragraph of a docstring as Markdown within a table."""
    return _escaped(" ".join(text.split()))


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def _prose(owner: Any) -> str:
    """Return the docstring of ``owner`` before its sections, as Markdown."""
    docstring = parse(inspect.cleandoc(owner.__doc__ or ""), style=DocstringStyle.GOOGLE)
    text = "\n\n".join(filter(None, [docstring.short_description, docstring.long_description]))
    return re.sub(
        r"::\n\n((?:    .*\n?|\n)+)", lambda code: f":\n\n```python\n{_dedented(code[1])}\n```\n", text
    )


def _dedented(code: str) -> str:
    return inspect.cleandoc("\n" + code).rstrip()


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(expand(page.read_text()))
