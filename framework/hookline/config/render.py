"""A config as YAML: as the run directory keeps it, and with the origin of every value for a reader."""

from __future__ import annotations

import sys
from typing import Any

import yaml

from hookline.config.instances import LISTS, by_name
from hookline.config.schema import Config
from hookline.config.source import read_yaml, resolve_floats
from hookline.config.tree import nearest, origins

__all__ = ["render", "to_text", "to_yaml"]

_MAX_ALIGNED = 60


def to_yaml(config: Config) -> str:
    """Return the text of a run's ``config.yaml``: everything filled in, overrides applied.

    `load_config` reads it back as an equal config from any folder: files in targets have absolute paths.
    """
    return to_text(config.to_dict())


def render(config: Config) -> str:
    """Return the config as YAML, each value with its origin as a comment, targets as they were written."""
    text = to_text(config.to_dict(absolute=False))
    comments = _origin_of_lines(text, config)
    rows = [(line, comments.get(number)) for number, line in enumerate(text.splitlines(), 1)]
    width = max(len(line) for line, comment in rows if comment and len(line) <= _MAX_ALIGNED)
    return "".join(f"{line:<{width}}  # {comment}\n" if comment else f"{line}\n" for line, comment in rows)


def to_text(data: Any) -> str:
    """Return plain data as YAML, in its order and one value a line; lists of numbers stay on a line."""
    text = yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=sys.maxsize)
    return str(text)


def _origin_of_lines(text: str, config: Config) -> dict[int, str]:
    """Return the origin of the value on each line, counted from 1; a line that only opens a mapping has none.

    The text is read back, so that the path of each line is found as a reader of the config finds it.
    """
    tree = read_yaml(text, str, "0")
    for section in LISTS:
        tree.value[section], _ = by_name(section, tree.value[section])
    opening = {number for number, line in enumerate(text.splitlines(), 1) if line.endswith(":")}
    return {
        int(line): nearest(config.origins, path) for path, line in origins(tree) if int(line) not in opening
    }


class _Dumper(yaml.SafeDumper):
    """Writes what our loader reads: a string that looks like the number ``1e-3`` is put in quotes."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_list(dumper: _Dumper, data: list[Any]) -> yaml.Node:
    on_a_line = all(isinstance(item, int | float) for item in data)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=on_a_line)


def _represent_str(dumper: _Dumper, data: str) -> yaml.Node:
    # In double quotes a newline is escaped, so every value ends on the line that it begins on.
    style = '"' if data.splitlines() != [data] else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", data, style=style)


resolve_floats(_Dumper)
_Dumper.add_representer(list, _represent_list)
_Dumper.add_representer(str, _represent_str)
