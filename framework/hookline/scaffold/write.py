"""A template becomes a folder, whole or not at all."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from packaging.version import Version

from hookline.errors import PluginError, Problem
from hookline.scaffold.names import Names

__all__ = ["new_plugin"]

_TEMPLATE = Path(__file__).with_name("template")
_SUFFIX = ".tmpl"  # so that no tool takes a file of the template for what it will be
_ONLY = re.compile(r"^(hook|writer)\|(.*\n)", re.MULTILINE)

_SUMMARIES = {
    "hook": "Puts the norm of the weights of a hookline run as a scalar.",
    "writer": "Writes the scalars of a hookline run to a CSV file.",
    "both": "Puts the norm of the weights of a hookline run, and writes its scalars to a CSV file.",
}


def new_plugin(names: Names, parent: Path, version: str) -> list[Path]:
    """Write the distribution that ``names`` describes to ``parent / names.plugin``; return its files.

    Args:
        names: What it is called and has.
        parent: An existing folder.
        version: The version of hookline that it is made for.

    Raises:
        PluginError: If there is something of that name, or it cannot be written; nothing is left behind.
    """
    folder = parent / names.plugin
    contents = rendered(names, version)
    try:
        folder.mkdir()
    except FileExistsError:
        fix = "Choose another name, or another place with --dir"
        problem = Problem("NAME", "a name that nothing has in that folder", str(folder), fix=fix)
        raise PluginError(str(problem)) from None
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        for path, text in contents.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8", newline="\n")
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise _unwritable(folder, error) from error
        raise
    return [folder / path for path in contents]


def rendered(names: Names, version: str) -> dict[Path, str]:
    """Return every file of the distribution by its path in it.

    In the template ``<<x>>`` stands for a value, and a line that begins with ``hook|`` or ``writer|`` is
    there only for a plugin that has one.
    """
    values = _values(names, version)
    files = {}
    for source in sorted(_TEMPLATE.rglob(f"*{_SUFFIX}")):
        path = source.relative_to(_TEMPLATE)
        kind = path.name.removeprefix("test_").partition(".")[0]
        if kind in ("hook", "writer") and kind not in names.kinds:
            continue
        text = _ONLY.sub(lambda line: line[2] if line[1] in names.kinds else "", source.read_text("utf-8"))
        parts = [names.package if part == "package" else part.replace("dot-", ".", 1) for part in path.parts]
        target = Path(*parts).with_suffix("")
        files[target] = re.sub(r"<<(\w+)>>", lambda match: values[match[1]], text)
    return files


def _values(names: Names, version: str) -> dict[str, str]:
    classes = {"hook": names.hook_class, "writer": names.writer_class}
    return {
        "name": names.plugin,
        "distribution": names.distribution,
        "package": names.package,
        "hook_class": names.hook_class,
        "writer_class": names.writer_class,
        "classes": ", ".join(f'"{name}"' for name in sorted(classes[kind] for kind in names.kinds)),
        "summary": _SUMMARIES["both" if len(names.kinds) == 2 else names.kinds[0]],
        "hookline_range": hookline_range(version),
    }


def hookline_range(version: str) -> str:
    """Return the versions that promise to work like ``version``: ``>=0.1,<0.2``, or ``>=1.2,<2``."""
    parsed = Version(version)
    end = f"{parsed.major + 1}" if parsed.major else f"0.{parsed.minor + 1}"
    return f">={parsed.major}.{parsed.minor},<{end}"


def _unwritable(folder: Path, error: OSError) -> PluginError:
    said = error.strerror or str(error)
    return PluginError(str(Problem("--dir", "a folder that can be written to", str(folder.parent), said)))
