"""What ``hookline verify-plugins`` and ``hookline verify-resume`` do; imports torch."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hookline.cli.ending import ending_in_order
from hookline.cli.layout import printable
from hookline.purity import described
from hookline.verification import PluginReport, ResumeVerification, Verification, verify, verify_resume

__all__ = ["resume", "verify_plugins"]

_STYLES = {
    "pure": "green",
    "impure": "bold red",
    "unknown": "yellow",
    "not called": "yellow",
    "same": "green",
    "different": "bold red",
}


def verify_plugins(config: str, overrides: Sequence[str], num_iters: int, as_json: bool) -> None:
    """Print what each observer of ``config`` changes, and exit with the verdict."""
    # Where nobody watches, in silence.
    with ending_in_order(), Console(stderr=True).status("") as status:
        found = verify(config, overrides, num_iters, lambda text: status.update(f"verify-plugins: {text}"))
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=2))
    else:
        _show(found)
    sys.exit(found.exit_code)


def resume(config: str, overrides: Sequence[str], num_iters: int, at: Sequence[int], as_json: bool) -> None:
    """Print where a resumed run of ``config`` is first not the same, and exit with the verdict."""
    # Where nobody watches, in silence.
    with ending_in_order(), Console(stderr=True).status("") as status:
        found = verify_resume(
            config, overrides, num_iters, at, lambda text: status.update(f"verify-resume: {text}")
        )
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=2))
    else:
        _show_resume(found)
    sys.exit(found.exit_code)


def _show_resume(found: ResumeVerification) -> None:
    console = Console(highlight=False)
    lines = found.difference.lines() if found.difference is not None else []
    for word, text in [*lines, *(("note", note) for note in found.notes)]:
        console.print(printable(f"{word:<8}{text}."), markup=False, soft_wrap=True)
    console.print(_of_resume(found), style=_STYLES[found.verdict], markup=False, soft_wrap=True)


def _of_resume(found: ResumeVerification) -> str:
    num_iters, cuts = found.num_iters, " and ".join(map(str, sorted(found.stopped_after)))
    if not found.is_repeatable:
        return "Cannot tell: two equal runs, neither of them stopped, are not the same."
    if not found.stopped_after:
        return "Cannot tell: no run was long enough to be stopped. Lower --iters, or give an earlier --at."
    if found.difference is not None:
        return (
            f"Different: a run of {num_iters} iterations that is stopped after "
            f"{found.difference.stopped_after} and resumed is not the same."
        )
    return f"Same: {num_iters} iterations in one go, and stopped after {cuts} and resumed, to the bit."


def _show(found: Verification) -> None:
    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False)
    table.add_column("plugin")
    table.add_column("calls", justify="right")
    table.add_column("verdict", no_wrap=True)
    table.add_column("from")
    for plugin in found.plugins:
        calls = str(sum(plugin.calls.values())) if plugin.calls else ""
        verdict = plugin.verdict if plugin.observer else "no observer"
        table.add_row(plugin.name, calls, Text(verdict, _STYLES.get(plugin.verdict, "dim")), plugin.source)
    with console.capture() as capture:
        console.print(table)
    for line in capture.get().splitlines():
        click.echo(line.rstrip())  # the last column is filled up with blanks
    for line in _remarks(found):
        console.print(printable(line), markup=False, soft_wrap=True)
    console.print(_conclusion(found), style=_STYLES[found.verdict], markup=False, soft_wrap=True)


def _remarks(found: Verification) -> Iterator[str]:
    for plugin in found.plugins:
        yield from (f"{plugin.name}: {text}." for text in _about(plugin, found.num_iters))
    if found.together is not None:
        yield f"All observers together: {found.together.sentence()}."


def _about(plugin: PluginReport, num_iters: int) -> Iterator[str]:
    for finding in plugin.findings:
        called = "" if finding.hook else f" (called: {', '.join(plugin.calls) or 'none'})"
        yield finding.sentence(plugin.calls.get(finding.hook, 0)) + called
    yield from plugin.notes
    if plugin.period is not None:
        own, used = plugin.period
        due = f"so that something is due in {num_iters} iterations"
        yield f"checked with a period of {used}, not {own}, {due}"
    if plugin.never_called:
        yield f"not called in {num_iters} iterations: {', '.join(plugin.never_called)}"


def _conclusion(found: Verification) -> str:
    if found.unrepeatable is not None:
        what, first = described(found.unrepeatable.parts), found.unrepeatable.iteration
        return (
            f"Cannot tell: two runs without any observer differ in {what} from iteration {first} on. "
            "On a GPU set train.deterministic=true; else look for what draws its seed from elsewhere."
        )
    names = {
        verdict: [plugin.name for plugin in found.plugins if plugin.verdict == verdict]
        for verdict in ("pure", "not called", "impure", "unknown")
    }
    if names["impure"]:
        return (
            f"Impure: {', '.join(names['impure'])}. An observer must change nothing that training depends on."
        )
    if found.together is not None:
        return "Impure: each observer changes nothing alone, but all together do."
    if names["unknown"]:
        return f"Cannot tell: {', '.join(names['unknown'])} could not be checked."
    num = len(names["pure"]) + len(names["not called"])
    if not num:
        return "The config has no observer: there is nothing to check."
    return f"Pure: {num} observers, {found.num_iters} iterations, every bit the same with each, all and none."
