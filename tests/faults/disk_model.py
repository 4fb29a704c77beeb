"""What a disk may hold after a loss of power, by what POSIX promises and no more.

`Recorder` watches a directory while real code writes in it, and keeps what the system was asked to do.
`crashes` goes through the instants of such a recording and yields trees that may be there after the power
has come back:

* A file's data is durable after an ``fsync`` of that file. Until then each write may be there, or not, or in
  part: a prefix, or the length with zeros for data.
* A name (made, moved or removed) is durable after an ``fsync`` of its directory. Until then any of them may
  be there without the others; a rename is whole or not at all. The ``fsync`` of a file says nothing of its name.
"""

from __future__ import annotations

import builtins
import io
import itertools
import os
import random
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

__all__ = ["Crash", "Mark", "Recorder", "Stage", "crashes"]

ROOT = 0
Tree = dict[str, "bytes | str | None"]
"""Path to content; None is a directory, and a text what a symbolic link leads to."""


@dataclass(frozen=True)
class Link:
    """A file, a directory or a symbolic link, which leads to ``target``, got a name."""

    directory: int
    name: str
    node: int
    is_directory: bool
    target: str | None = None


@dataclass(frozen=True)
class Unlink:
    """A name is gone."""

    directory: int
    name: str


@dataclass(frozen=True)
class Rename:
    """A name was given up for another one."""

    directory: int
    name: str
    to_directory: int
    to_name: str
    node: int
    is_directory: bool


@dataclass(frozen=True)
class Write:
    """Bytes of a file changed, from ``offset`` on."""

    node: int
    offset: int
    data: bytes


@dataclass(frozen=True)
class Truncate:
    """A file was cut."""

    node: int
    size: int


@dataclass(frozen=True)
class Sync:
    """What was asked of this file or directory before is durable."""

    node: int


@dataclass(frozen=True)
class Mark:
    """What the program under test says of itself; changes no disk."""

    label: str
    value: Any = None


Operation = Link | Unlink | Rename | Write | Truncate | Sync | Mark
_NAMES = (Link, Unlink, Rename)
_WATCHED = (
    "open",
    "close",
    "write",
    "pwrite",
    "mkdir",
    "rename",
    "replace",
    "unlink",
    "remove",
    "rmdir",
    "link",
    "symlink",
    "truncate",
    "ftruncate",
    "chmod",
)


@dataclass
class _Seen:
    node: int
    content: bytes | None


class Recorder:
    """Keeps every change of what is in ``root`` while the context lasts, in ``operations``.

    The first ``num_given`` of them make what was there before, which is durable. The recorder looks at the directory after each call of the system that may have changed it, whoever wrote there, and
    notes each ``fsync``. Threads wait for each other's calls.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self.operations: list[Operation] = []
        self.num_given = 0
        self._number = self.root.stat().st_ino
        self._seen: dict[int, _Seen] = {self._number: _Seen(ROOT, None)}
        self._names: dict[tuple[int, str], int] = {}
        self._nodes = itertools.count(1)
        self._patches = ExitStack()
        self._lock = threading.RLock()
        self._open_file = io.open

    def __enter__(self) -> Recorder:
        self._look()
        self.operations += [Sync(seen.node) for seen in self._seen.values()]
        self.num_given = len(self.operations)
        for name in _WATCHED:
            self._patch(os, name, self._watched(getattr(os, name)))
        for name in ("fsync", "fdatasync"):
            self._patch(os, name, self._syncing(getattr(os, name)))
        self._patch(io, "open", self._watched(io.open))
        self._patch(builtins, "open", io.open)
        return self

    def __exit__(self, *error: object) -> None:
        self._patches.close()
        self._look()

    def mark(self, label: str, value: Any = None) -> None:
        """Note that the program has come so far."""
        with self._lock:
            self._look()
            self.operations.append(Mark(label, value))

    def _patch(self, module: Any, name: str, function: Any) -> None:
        self._patches.enter_context(mock.patch.object(module, name, function))

    def _watched(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with self._lock:
                self._look()  # what was done before; what is done now shows at the next look
                return function(*args, **kwargs)

        return call

    def _syncing(self, function: Callable[[Any], None]) -> Callable[[Any], None]:
        def call(file: Any) -> None:
            with self._lock:
                self._look()
                function(file)
                seen = self._seen.get(os.fstat(file if isinstance(file, int) else file.fileno()).st_ino)
                if seen is not None:
                    self.operations.append(Sync(seen.node))

        return call

    def _look(self) -> None:
        """Note what has changed since the last look."""
        entries: dict[tuple[int, str], os.DirEntry[str]] = {}
        self._walk(self.root, self._number, entries)
        self._compare(entries)
        present = {self._number, *self._names.values()}
        self._seen = {number: seen for number, seen in self._seen.items() if number in present}
        for entry in entries.values():
            if entry.is_file(follow_symlinks=False):
                self._read(entry.path, self._seen[entry.inode()])

    def _walk(self, path: Any, number: int, entries: dict[tuple[int, str], os.DirEntry[str]]) -> None:
        for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
            entries[number, entry.name] = entry
            if entry.is_dir(follow_symlinks=False):
                self._walk(entry, entry.inode(), entries)

    def _compare(self, entries: dict[tuple[int, str], os.DirEntry[str]]) -> None:
        names = {place: entry.inode() for place, entry in entries.items()}
        gone = {place: child for place, child in self._names.items() if names.get(place) != child}
        moved = {child: place for place, child in gone.items()}
        for place, child in names.items():
            if self._names.get(place) == child:
                continue
            gone.pop(place, None)  # replaced, which needs no operation of its own
            is_directory = entries[place].is_dir(follow_symlinks=False)
            if child in moved:
                old = moved.pop(child)
                gone.pop(old, None)
                self._add(Rename, old, *self._place(place), self._seen[child].node, is_directory)
            else:
                seen = self._seen.setdefault(child, _Seen(next(self._nodes), None if is_directory else b""))
                target = os.readlink(entries[place]) if entries[place].is_symlink() else None
                self._add(Link, place, seen.node, is_directory, target)
        for place in sorted(gone, reverse=True):
            self._add(Unlink, place)
        self._names = names

    def _add(self, kind: Any, place: tuple[int, str], *rest: Any) -> None:
        self.operations.append(kind(*self._place(place), *rest))

    def _place(self, place: tuple[int, str]) -> tuple[int, str]:
        return self._seen[place[0]].node, place[1]

    def _read(self, path: str, seen: _Seen) -> None:
        with self._open_file(path, "rb") as file:
            content = file.read()
        before = seen.content or b""
        if len(content) < len(before):
            self.operations.append(Truncate(seen.node, len(content)))
            before = before[: len(content)]
        if content != before:
            pairs = enumerate(zip(content, before, strict=False))
            same = next((index for index, (new, old) in pairs if new != old), len(before))
            self.operations.append(Write(seen.node, same, content[same:]))
        seen.content = content


@dataclass(frozen=True)
class Crash:
    """What may be on the disk after a loss of power, and how far the program had come by then.

    Args:
        tree: Path to content; a directory has None.
        marks: Every mark before that instant, in order.
    """

    tree: Tree
    marks: tuple[Mark, ...]


@dataclass
class _Disk:
    """What is durable, and what is asked for and not yet durable."""

    directories: set[int]
    targets: dict[int, str]
    names: dict[int, dict[str, int]] = field(default_factory=lambda: {ROOT: {}})
    data: dict[int, bytes] = field(default_factory=dict)
    pending_names: list[Any] = field(default_factory=list)
    pending_data: dict[int, list[Write | Truncate]] = field(default_factory=dict)

    def do(self, operation: Operation) -> None:
        if isinstance(operation, _NAMES):
            self.pending_names.append(operation)
        elif isinstance(operation, Write | Truncate):
            self.pending_data.setdefault(operation.node, []).append(operation)
        elif isinstance(operation, Sync):
            self._sync(operation.node)

    def _sync(self, node: int) -> None:
        for operation in self.pending_data.pop(node, []):
            self.data[node] = _applied(self.data.get(node, b""), operation)
        durable = [operation for operation in self.pending_names if _touches(operation, node)]
        self.pending_names = [each for each in self.pending_names if each not in durable]
        for operation in durable:
            _rename_in(self.names, operation)

    def tree(self, kept: Sequence[Any], contents: Mapping[int, bytes]) -> Tree:
        """Return the tree in which of the pending names ``kept`` are there, and files have ``contents``."""
        names = {node: dict(entries) for node, entries in self.names.items()}
        for operation in kept:
            _rename_in(names, operation)
        found: Tree = {}
        waiting = [("", ROOT)]
        while waiting:
            prefix, directory = waiting.pop()
            for name, node in sorted(names.get(directory, {}).items()):
                if node in self.directories:
                    found[prefix + name] = None
                    waiting.append((f"{prefix}{name}/", node))
                elif node in self.targets:
                    found[prefix + name] = self.targets[node]
                else:
                    found[prefix + name] = contents.get(node, self.data.get(node, b""))
        return found


def _touches(operation: Any, node: int) -> bool:
    return operation.directory == node or getattr(operation, "to_directory", None) == node


def _rename_in(names: dict[int, dict[str, int]], operation: Any) -> None:
    here = names.setdefault(operation.directory, {})
    if isinstance(operation, Link):
        here[operation.name] = operation.node
    elif isinstance(operation, Unlink):
        here.pop(operation.name, None)
    else:
        for entries in names.values():  # What was moved has one name, whichever of its moves are durable.
            for name in [name for name, node in entries.items() if node == operation.node]:
                del entries[name]
        names.setdefault(operation.to_directory, {})[operation.to_name] = operation.node


def _applied(content: bytes, operation: Write | Truncate) -> bytes:
    if isinstance(operation, Truncate):
        return content[: operation.size]
    padded = content.ljust(operation.offset, b"\0")
    end = operation.offset + len(operation.data)
    return padded[: operation.offset] + operation.data + padded[end:]


def _variants(durable: bytes, pending: Sequence[Write | Truncate]) -> list[bytes]:
    """Return what a file may hold when none, some or all of ``pending`` have reached the disk."""
    found = [durable]
    for operation in pending:
        before = found[-1]
        if isinstance(operation, Write):
            half = replace(operation, data=operation.data[: len(operation.data) // 2])
            zeros = replace(operation, data=bytes(len(operation.data)))
            torn = zeros.data[: len(zeros.data) // 2] + operation.data[len(zeros.data) // 2 :]
            found += [_applied(before, each) for each in (half, zeros, replace(operation, data=torn))]
        found.append(_applied(before, operation))
    return list(dict.fromkeys([found[0], found[-1], *found[1:-1]]))


def crashes(
    operations: Sequence[Operation], limit: int, seed: int = 0, num_given: int = 0, every: int = 1
) -> Iterator[Crash]:
    """Yield what may be there after a loss of power after each of ``operations``, and before the first.

    Args:
        operations: Of a `Recorder`.
        num_given: So many of the first are durable before anything happens.
        every: Yield one state in so many.
        limit: Of the states of one instant, take all if they are so many at most, else the extreme ones and
            so many chosen at random.
        seed: Of that choice.
    """
    generator = random.Random(seed)
    directories = {each.node for each in operations if isinstance(each, Link) and each.is_directory}
    targets = {each.node: each.target for each in operations if isinstance(each, Link) and each.target}
    disk, marks, numbers = _Disk(directories, targets), [], itertools.count()
    for operation in operations[:num_given]:
        disk.do(operation)
    for operation in [Mark("start"), *operations[num_given:]]:
        if isinstance(operation, Mark):
            marks.append(operation)
        else:
            disk.do(operation)
        choices = {node: _variants(disk.data.get(node, b""), ops) for node, ops in disk.pending_data.items()}
        for kept, contents in _choices(disk.pending_names, choices, limit, generator):
            if next(numbers) % every == 0:
                yield Crash(disk.tree(kept, contents), tuple(marks))


def _choices(
    names: Sequence[Any], choices: dict[int, list[bytes]], limit: int, generator: random.Random
) -> Iterator[tuple[list[Any], dict[int, bytes]]]:
    nodes = list(choices)
    num_states = 2 ** len(names)
    for variants in choices.values():
        num_states *= len(variants)
    if num_states <= limit:
        for flags in itertools.product((False, True), repeat=len(names)):
            kept = list(itertools.compress(names, flags))
            for contents in itertools.product(*choices.values()):
                yield kept, dict(zip(nodes, contents, strict=True))
        return
    none = {node: variants[0] for node, variants in choices.items()}
    every = {node: variants[1] if len(variants) > 1 else variants[0] for node, variants in choices.items()}
    for kept in ([], names, *([name] for name in names), *(_without(names, name) for name in names)):
        yield list(kept), none
        yield list(kept), every
    for _ in range(limit):
        yield (
            [name for name in names if generator.random() < 0.6],
            {node: generator.choice(variants) for node, variants in choices.items()},
        )


def _without(names: Sequence[Any], name: Any) -> list[Any]:
    return [each for each in names if each is not name]


class Stage:
    """A directory that becomes one tree after the other; only what differs is written."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._tree: Tree = {}

    @contextmanager
    def showing(self, tree: Tree) -> Iterator[Path]:
        """Make the directory hold ``tree`` and nothing else; yield its path."""
        self.path.mkdir(exist_ok=True, parents=True)
        for name in sorted(self._tree.keys() - tree.keys(), reverse=True):
            self._remove(self.path / name)
        for name, content in tree.items():  # a directory comes before what is in it
            if name in self._tree and self._tree[name] == content:
                continue
            if name in self._tree and {type(content), type(self._tree[name])} != {bytes}:
                self._remove(self.path / name)
            self._write(self.path / name, content)
        self._tree = tree
        yield self.path

    def clear(self) -> None:
        """Begin anew, after something else has written in the directory."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._tree = {}

    def _write(self, path: Path, content: bytes | str | None) -> None:
        if content is None:
            path.mkdir(exist_ok=True)
            return
        if isinstance(content, str):
            path.symlink_to(content)
            return
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            os.write(descriptor, content)
        finally:
            os.close(descriptor)

    def _remove(self, path: Path) -> None:
        with suppress(FileNotFoundError):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
