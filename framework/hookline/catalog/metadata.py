"""What the metadata of a distribution says, as far as it can be read."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from importlib_metadata import EntryPoint, distributions

__all__ = ["HOOKS", "WRITERS", "Metadata", "all_metadata", "normalized"]

HOOKS = "hookline.hooks"
WRITERS = "hookline.writers"

_T = TypeVar("_T")
_HEADER = re.compile(r"^([\w-]+):[ \t]*(.*(?:\n[ \t]+.*)*)", re.MULTILINE)
_SITES = ("site-packages", "dist-packages")


def normalized(distribution: str) -> str:
    """Return the name of a distribution as indexes compare it: ``Hookline_EMA`` is ``hookline-ema``."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def all_metadata() -> Iterator[Metadata]:
    """Yield the metadata of every distribution on `sys.path`, in its order, each folder once."""
    seen: set[str] = set()
    for distribution in distributions():
        metadata = Metadata(distribution)
        place = str(metadata.path.resolve()) if metadata.path is not None else ""
        if place not in seen or not place:
            seen.add(place)
            yield metadata


class Metadata:
    """The metadata of one distribution, read when asked for; what cannot be read is noted, never raised.

    Args:
        distribution: As `importlib_metadata` found it; None says nothing.
    """

    def __init__(self, distribution: Any) -> None:
        self.distribution = distribution
        path = getattr(distribution, "_path", None)
        self.path: Path | None = path if isinstance(path, Path) else None
        """Its ``.dist-info`` or ``.egg-info``; None where a finder keeps it elsewhere."""
        self.faults: list[str] = []
        """Which of its files could not be read so far, and why."""

    @property
    def name(self) -> str:
        """The distribution's name; where METADATA is gone, the one in the name of its folder."""
        return self.header("Name") or self.folder_name or "unknown"

    @property
    def version(self) -> str:
        """The distribution's version; where METADATA is gone, the one in the name of its folder."""
        return self.header("Version") or self._stem[1]

    @property
    def folder_name(self) -> str:
        """The name in the name of its folder; may be empty."""
        return self._stem[0]

    @property
    def is_left_over(self) -> bool:
        """True for the folder that an interrupted pip left behind, which begins with ``~``."""
        return self.folder_name.startswith("~")

    @property
    def is_complete(self) -> bool:
        """False where the file that says name and version is gone or empty."""
        return bool(self.header("Name"))

    @cached_property
    def requirements(self) -> list[str]:
        """What the distribution requires, as its metadata writes it."""
        listed = self._headers.get("Requires-Dist")
        distribution = self.distribution
        if listed is None and distribution is not None and self.text("requires.txt"):
            listed = self._read("requires.txt", lambda: distribution.requires)
        return listed or []

    @cached_property
    def entry_points(self) -> list[EntryPoint]:
        """Its entry points in hookline's groups; of several of one name and group, the last."""
        return list({(point.group, point.name): point for point in self.all_entry_points}.values())

    @cached_property
    def all_entry_points(self) -> list[EntryPoint]:
        """Every entry point that it writes down in hookline's groups."""
        distribution = self.distribution
        if distribution is None or "hookline." not in (self.text("entry_points.txt") or ""):
            return []
        points = self._read("entry_points.txt", lambda: list(distribution.entry_points)) or ()
        return [point for point in points if point.group in (HOOKS, WRITERS)]

    @cached_property
    def hidden(self) -> str:
        """Why its entry points cannot be read, whosever they are; empty where they can be."""
        if self.distribution is None:
            return ""
        text = self.text("entry_points.txt")
        if text is None:
            return self._fault_of("entry_points.txt") or self._forbidden("entry_points.txt")
        # importlib.metadata gives up on a line like this, and so does torch, which looks for its own.
        section = ""
        for i, line in enumerate(map(str.strip, text.splitlines()), 1):
            section = line if line.startswith("[") and line.endswith("]") else section
            if line and line != section and section and not line.startswith("#") and "=" not in line:
                return f"entry_points.txt: line {i}, {line!r}, is no 'name = module:Name'"
        self._read("entry_points.txt", lambda: list(self.distribution.entry_points))
        return self._fault_of("entry_points.txt")

    @cached_property
    def editable_source(self) -> Path | None:
        """The folder that an editable installation points at; None for an ordinary one."""
        source = self._read("direct_url.json", lambda: _source(self.text("direct_url.json") or "{}"))
        if source is not None:
            return source
        is_link = self.path is not None and self.path.suffix == ".egg-info"
        return self.path.parent if is_link and self.path and self.path.parent.name not in _SITES else None

    @property
    def may_bring_plugins(self) -> bool:
        """Whether its entry points, readable or not, have a group of hookline in them."""
        if self.path is None:
            return bool(self.entry_points)
        with suppress(OSError):
            return b"hookline." in (self.path / "entry_points.txt").read_bytes()
        return False

    def header(self, name: str) -> str:
        """Return the first header of that name as one line; may be empty."""
        return " ".join(self._headers.get(name, [""])[0].split())

    def text(self, file: str) -> str | None:
        """Return the text of one of its files, or None where there is none that can be read."""
        distribution = self.distribution
        return self._read(file, lambda: distribution.read_text(file)) if distribution is not None else None

    @cached_property
    def _headers(self) -> dict[str, list[str]]:
        # The last is an .egg-info that is a file, as distutils wrote it.
        text = self.text("METADATA") or self.text("PKG-INFO") or self.text("") or ""
        text = text.replace("\r\n", "\n")
        headers: dict[str, list[str]] = {}
        for name, value in _HEADER.findall(text.partition("\n\n")[0]):  # what follows is the README
            headers.setdefault(name, []).append(value)
        return headers

    @property
    def _stem(self) -> tuple[str, str]:
        name, _, version = (self.path.stem if self.path is not None else "").partition("-")
        return name, version.partition("-")[0]

    def _fault_of(self, file: str) -> str:
        return next((fault for fault in self.faults if fault.startswith(f"{file}: ")), "")

    def _forbidden(self, file: str) -> str:
        """Return a fault for a file that is there, and that a reader is told is not."""
        is_there = self.path is not None and os.path.isfile(self.path / file)
        return f"{file}: it may not be read" if is_there else ""

    def _read(self, file: str, read: Callable[[], _T]) -> _T | None:
        try:
            return read()
        except Exception as error:  # it is a stranger's file: it may be anything
            fault = f"{file}: {type(error).__name__}: {error}"
            self.faults += [fault] if fault not in self.faults else []
            return None


def _source(text: str) -> Path | None:
    """Return the folder that a ``direct_url.json`` points at, where it tells of an editable installation."""
    origin = json.loads(text)
    info = origin.get("dir_info") if isinstance(origin, dict) else None
    if not isinstance(info, dict) or not info.get("editable"):
        return None
    path = unquote(urlsplit(str(origin.get("url", ""))).path)
    return Path(path.lstrip("/") if os.name == "nt" else path)
