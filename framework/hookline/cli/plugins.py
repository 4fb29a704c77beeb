"""``hookline plugins``: what is installed, whether it is sound, and how to begin one's own."""

from __future__ import annotations

import sys

import click

from hookline.cli.backends import guard_torch
from hookline.cli.new import new
from hookline.cli.reporting import reporting
from hookline.errors import ConfigError, Problem

__all__ = ["plugins"]

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
_config = click.argument("config", required=False, type=click.Path())
_overrides = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE …]")


@click.group()
def plugins() -> None:
    """Find, check and begin plugins."""


@plugins.command("list")
@_config
@_overrides
@_json
@reporting
def list_(config: str | None, overrides: tuple[str, ...], as_json: bool) -> None:
    """List the installed plugins; imports none of them.

    With CONFIG also which of them it turns on, and where it says so.
    """
    from hookline.cli import inspection
    from hookline.inspection.listing import listed

    _need_a_file(config)
    inspection.show_list(listed(config, overrides), named=config is not None, as_json=as_json)


@plugins.command()
@click.argument("name")
@_json
@reporting
def info(name: str, as_json: bool) -> None:
    """Show what a plugin does, its options and how to turn it on.

    NAME is that of an installed plugin, distribution:name or ./file.py:Name. It is imported in a process
    of its own.
    """
    from hookline.catalog import installed_plugins
    from hookline.cli import inspection, plugin_page
    from hookline.inspection.checks import examine
    from hookline.inspection.choose import choose_clear

    among = installed_plugins()
    chosen = choose_clear(name, among)
    with inspection.importing(len(chosen)):
        reports = examine(chosen)
    plugin_page.show_info(list(zip(chosen, reports, strict=True)), among, as_json=as_json)
    sys.exit(1 if any(report.error for report in reports) else 0)


@plugins.command()
@click.argument("names", nargs=-1, metavar="[NAME …]")
@_json
@reporting
def check(names: tuple[str, ...], as_json: bool) -> None:
    """Import and lint plugins as a run would; by default all that are installed.

    NAME is that of an installed plugin, distribution:name or ./file.py:Name. Each is imported in a process
    of its own. The exit code is 1 when something is wrong with one of them.
    """
    from hookline.catalog import installed_plugins
    from hookline.cli import inspection
    from hookline.inspection.checks import examine
    from hookline.inspection.choose import choose

    among = installed_plugins()
    chosen = list(dict.fromkeys(one for name in names for one in choose(name, among))) if names else among
    with inspection.importing(len(chosen)):
        reports = examine(chosen)
    sys.exit(inspection.show_check(reports, as_json=as_json))


@plugins.command()
@_json
@reporting
def doctor(as_json: bool) -> None:
    """Say what is wrong with the plugins of this machine, and how long each takes to import.

    The exit code is 1 when something is wrong.
    """
    from hookline.catalog import installed_plugins
    from hookline.cli import inspection
    from hookline.inspection.doctor import diagnose

    with inspection.importing(len(installed_plugins())):
        diagnosis = diagnose()
    sys.exit(inspection.show_diagnosis(diagnosis, as_json=as_json))


@plugins.command()
@_config
@_overrides
@_json
@reporting
def hooks(config: str | None, overrides: tuple[str, ...], as_json: bool) -> None:
    """Show every hook and who is called in which order, and why.

    CONFIG says which hooks there are; without it, it is those that every run has. Imports them.
    """
    _need_a_file(config)
    guard_torch()
    from hookline.cli import inspection
    from hookline.config import load_config
    from hookline.inspection.order import hook_orders

    orders = hook_orders(load_config(config, overrides) if config is not None else None)
    inspection.show_orders(orders, as_json=as_json)


plugins.add_command(new)


def _need_a_file(config: str | None) -> None:
    """Raise ConfigError when an override stands where the config should."""
    if config is not None and "=" in config and not config.endswith((".yaml", ".yml")):
        raise ConfigError([Problem("CONFIG", "a config before its overrides", config, fix="Name one first")])
