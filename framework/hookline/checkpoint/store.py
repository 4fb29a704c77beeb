"""Checkpoints on disk: written whole or not at all, checked before anything in them is believed.

A checkpoint is a directory ``iter_0000499`` with a ``<component>.json`` for each part of the state, a
``<component>.safetensors`` where that has tensors, and ``manifest.json`` with size and SHA-256 of every file.
It is written under a hidden name, synced, and renamed: what has the final name is complete, unless the disk
failed. One process at a time writes in a directory of checkpoints.
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import shutil
import stat
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open

from hookline.checkpoint.codec import decode, encode
from hookline.checkpoint.manifest import (
    CHECKPOINT_NAME,
    COMPONENT_NAME,
    FORMAT,
    MANIFEST,
    MAX_JSON_BYTES,
    damage,
    fingerprint,
    iteration_of,
    read_small,
    sealed,
    verify,
)
from hookline.errors import CheckpointError, Problem
from hookline.rundir import make_directory, replace_file, sync_directory

__all__ = [
    "discard_newer",
    "load",
    "newest_valid",
    "outline",
    "read_pointer",
    "resolve",
    "retain",
    "save",
    "write_pointer",
]

_LEFTOVER = re.compile(r"\.tmp-[\w.-]+-[0-9a-f]{8}")
_Encoded = dict[str, tuple[bytes, dict[str, torch.Tensor]]]

_log = logging.getLogger(__name__)


def save(root: Path, iteration: int, state: Mapping[str, Any], *, extra: Mapping[str, Any] = {}) -> Path:
    """Write ``state`` as the checkpoint of ``iteration`` in ``root``, durably, and point ``latest`` at it.

    Whenever the process or the machine stops, every checkpoint that was complete before is still there, also
    that of the same iteration, which is replaced. Waits for the device and the disk.

    Args:
        root: Directory of checkpoints; made where it is missing.
        iteration: The last iteration that ``state`` includes; >= 0.
        state: Each component's state by its name; a name is that of its files.
        extra: Plain data for the manifest, such as the number of ranks.

    Returns:
        The checkpoint's directory.

    Raises:
        CheckpointError: If ``state`` holds what a checkpoint cannot, or the disk refuses.
    """
    root = Path(root)
    if type(iteration) is not int or iteration < 0:
        raise CheckpointError(str(Problem("checkpoint: iteration", "a whole number >= 0", iteration)))
    # All of it is encoded first: a state that is refused touches no file.
    components = _encoded(state)
    said, arrays = encode(dict(extra), component="extra")
    if arrays:
        raise CheckpointError(str(Problem("checkpoint: extra", "no tensors or arrays", list(arrays))))
    header = {"format": FORMAT, "save_id": secrets.token_hex(4), "iteration": iteration, "extra": said}
    final = root / f"iter_{iteration:07d}"
    temporary = root / f".tmp-{final.name}-{header['save_id']}"
    try:
        make_directory(root)
        _remove_leftovers(root)
        _write(temporary, components, header)
        replaced = _put_in_place(temporary, final)
    except (OSError, SafetensorError) as error:
        # Nothing is tried twice: after a failed fsync the system may have dropped what it could not write.
        shutil.rmtree(temporary, ignore_errors=True)
        fix = "Earlier checkpoints are intact; free space or mend the disk, then resume"
        raise _refused(final, error, fix) from error
    write_pointer(root, "latest", final)
    _discard(replaced)
    return final


def load(path: Path, components: Collection[str] | None = None) -> dict[str, Any]:
    """Return the state saved at ``path``, all of it or the named components, with tensors on the CPU.

    The whole checkpoint is verified first. Reads data only: there is no code in a checkpoint to run.

    Raises:
        CheckpointError: If the checkpoint is damaged or has no such component.
    """
    path, available = Path(path), verify(path).components
    chosen = available if components is None else list(components)
    if missing := [name for name in chosen if name not in available]:
        exists = f"It has {', '.join(available)}"
        raise CheckpointError(str(Problem(f"checkpoint {path}", "a component it has", missing[0], exists)))
    return {name: _read_component(path, name) for name in chosen}


def outline(path: Path, component: str) -> Any:
    """Return the JSON of a component as it is stored, in which tensors are only named; None if there is none.

    Raises:
        CheckpointError: If it cannot be read.
    """
    file = Path(path) / f"{component}.json"
    try:
        return json.loads(read_small(file)) if file.exists() else None
    except (OSError, ValueError) as error:
        raise damage(Path(path), f"{component} that cannot be read ({error})") from error


def newest_valid(root: Path) -> tuple[Path, list[str]]:
    """Return the undamaged checkpoint of the highest iteration, and what is wrong with those above it.

    Raises:
        CheckpointError: If there is none; names each damaged one.
    """
    messages = []
    for path in _checkpoints(Path(root)):
        try:
            verify(path)
        except CheckpointError as error:
            messages.append(str(error))
        else:
            return path, messages
    exists = "Every one is damaged" if messages else "There is none"
    problem = Problem(str(root), "an undamaged checkpoint", missing=True, exists=exists)
    raise CheckpointError("\n  ".join([str(problem), *messages]))


def resolve(spec: Path) -> Path:
    """Return the checkpoint that ``spec`` means: the newest good one of a run, a pointer's target, or itself.

    A checkpoint passed over because it is damaged is logged as a warning.

    Raises:
        CheckpointError: If nothing is there, or the checkpoint that ``spec`` names is damaged.
    """
    path = Path(spec)
    if path.is_file() and (target := read_pointer(path.parent, path.name)):
        path = target
    if (path / MANIFEST).exists() or (path.is_dir() and CHECKPOINT_NAME.fullmatch(path.name)):
        try:
            verify(path)
        except CheckpointError as error:
            raise CheckpointError(f"{error} Name the run instead to use its newest undamaged one.") from error
        return path
    if not path.is_dir():
        names = ", ".join(found.name for found in _checkpoints(path.parent))
        exists = f"{path.parent} has {names or 'no checkpoints'}"
        expected = "a run, its checkpoints or one of them"
        raise CheckpointError(str(Problem(f"checkpoint {spec}", expected, missing=True, exists=exists)))
    newest, messages = newest_valid(path / "checkpoints" if (path / "checkpoints").is_dir() else path)
    for message in messages:
        _log.warning("passed over a damaged checkpoint: %s", message)
    return newest


def write_pointer(root: Path, name: str, target: Path) -> None:
    """Make the file ``name`` in ``root`` hold the name of the checkpoint ``target``, atomically.

    Raises:
        CheckpointError: If ``name`` is not a plain name, or the file cannot be written.
    """
    if not COMPONENT_NAME.fullmatch(name) or CHECKPOINT_NAME.fullmatch(name):
        raise CheckpointError(str(Problem("checkpoint pointer", "a name of letters, digits, _ and -", name)))
    try:
        replace_file(Path(root) / name, f"{Path(target).name}\n".encode())
    except OSError as error:
        raise _refused(Path(root) / name, error) from error


def read_pointer(root: Path, name: str) -> Path | None:
    """Return the checkpoint that the pointer ``name`` names, or None where it names none that is there."""
    with suppress(OSError, UnicodeDecodeError):
        with open(Path(root) / name, encoding="utf-8") as file:
            target = file.read(100).strip()
        if CHECKPOINT_NAME.fullmatch(target) and (Path(root) / target).is_dir():
            return Path(root) / target
    return None


def retain(root: Path, keep: int, protected: Collection[str] = ()) -> list[Path]:
    """Delete all but the ``keep`` newest checkpoints in ``root``; return those deleted, oldest first.

    Looks at the disk, so it also counts what a process before this one saved. What a pointer in ``root``
    names, ``latest``, ``best`` or any other, is kept in addition.

    Args:
        root: Directory of checkpoints.
        keep: How many; 0 keeps all.
        protected: Directory names to keep besides, such as a checkpoint being read.
    """
    root = Path(root)
    old = [path for path in _checkpoints(root) if (path / MANIFEST).is_file()][keep:]
    if keep < 1 or not old:
        return []
    pointed = [target.name for file in root.iterdir() if (target := read_pointer(root, file.name))]
    return _discard([path for path in reversed(old) if path.name not in {*pointed, *protected}])


def discard_newer(root: Path, iteration: int) -> list[Path]:
    """Delete the checkpoints after ``iteration``, and return them.

    For a run that goes on from an earlier one: otherwise `newest_valid` finds the future that it has left.
    """
    return _discard([path for path in _checkpoints(Path(root)) if iteration_of(path) > iteration])


def _encoded(state: Mapping[str, Any]) -> _Encoded:
    seen = {"manifest"}
    for name in state:
        # File names: some file systems do not tell upper from lower case.
        if not isinstance(name, str) or not COMPONENT_NAME.fullmatch(name) or name.lower() in seen:
            expected = "unique names of letters, digits, _ and -, other than manifest"
            raise CheckpointError(str(Problem("checkpoint: components", expected, name)))
        seen.add(name.lower())
    encoded = {}
    for name, part in state.items():
        tree, tensors = encode(part, component=name)
        text = json.dumps(tree, allow_nan=False).encode()
        if len(text) > MAX_JSON_BYTES:
            expected = f"at most {MAX_JSON_BYTES} bytes of plain data"
            fix = "Keep large data in tensors or arrays"
            raise CheckpointError(str(Problem(f"checkpoint: {name}", expected, len(text), fix=fix)))
        encoded[name] = text, tensors
    return encoded


def _write(directory: Path, components: _Encoded, header: dict[str, Any]) -> None:
    os.mkdir(directory)
    for name, (text, tensors) in components.items():
        _write_file(directory / f"{name}.json", text)
        if tensors:
            _write_tensors(directory / f"{name}.safetensors", tensors, directory / f"{name}.json")
    files = {path.name: fingerprint(path) for path in sorted(directory.iterdir())}
    _write_file(directory / MANIFEST, sealed({**header, "files": files}))
    sync_directory(directory)


def _write_file(path: Path, data: bytes) -> None:
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _write_tensors(path: Path, tensors: dict[str, torch.Tensor], sibling: Path) -> None:
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})
    # safetensors lets nobody but the owner read; for the other files the user's umask decides.
    os.chmod(path, stat.S_IMODE(sibling.stat().st_mode))
    with open(path, "r+b") as file:
        os.fsync(file.fileno())


def _put_in_place(temporary: Path, final: Path) -> list[Path]:
    """Give ``temporary`` its final name, durably; return what had it before, under a name still found."""
    aside = []
    if os.path.lexists(final):
        aside = [final.with_name(f"{final.name}.old-{secrets.token_hex(4)}")]
        os.rename(final, aside[0])
    try:
        os.rename(temporary, final)
    except OSError:
        for path in aside:
            os.rename(path, final)
        raise
    sync_directory(final.parent)
    return aside


def _remove_leftovers(root: Path) -> None:
    """Remove what a save or a deletion that was killed left in ``root``."""
    for path in list(root.iterdir()):
        if _LEFTOVER.fullmatch(path.name):
            _remove(path)
    for path in _checkpoints(root):
        successor = path.with_suffix("")
        if path.suffix and not os.path.lexists(successor):
            os.rename(path, successor)
        elif path.suffix and _is_valid(successor):
            _discard([path])


def _discard(paths: Collection[Path]) -> list[Path]:
    for path in paths:
        trash = path.with_name(f".tmp-{path.name}-{secrets.token_hex(4)}")
        try:
            # Renamed first: a deletion that is interrupted must not leave what looks like a checkpoint.
            os.rename(path, trash)
            sync_directory(path.parent)
        except OSError as error:
            raise _refused(path, error) from error
        _remove(trash)
    return list(paths)


def _remove(path: Path) -> None:
    """Remove ``path``, as far as it can be, without following links; the next save tries again."""
    if path.is_symlink() or not path.is_dir():
        with suppress(OSError):
            path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def _is_valid(path: Path) -> bool:
    try:
        verify(path)
    except CheckpointError:
        return False
    return True


def _checkpoints(root: Path) -> list[Path]:
    """Return the directories in ``root`` named as checkpoints, highest iteration first; links are none."""
    try:
        found = [path for path in root.iterdir() if CHECKPOINT_NAME.fullmatch(path.name)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    found = [path for path in found if path.is_dir() and not path.is_symlink()]
    return sorted(found, key=lambda path: (iteration_of(path), not path.suffix, path.name), reverse=True)


def _read_component(path: Path, name: str) -> Any:
    weights, tensors = path / f"{name}.safetensors", {}
    try:
        tree = json.loads(read_small(path / f"{name}.json"))
        if weights.exists():
            with safe_open(weights, framework="pt") as file:
                # Copies: what the library returns may be a view of the file, which retention will delete.
                tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
    except (OSError, ValueError, KeyError, AttributeError, RuntimeError, SafetensorError) as error:
        raise damage(path, f"{name} that cannot be read ({type(error).__name__}: {error})") from error
    return decode(tree, tensors, component=name)


def _refused(path: Path, error: Exception, fix: str = "") -> CheckpointError:
    got = getattr(error, "strerror", None) or str(error)
    return CheckpointError(str(Problem(f"checkpoint {path}", "a disk that takes it", got, fix=fix)))
