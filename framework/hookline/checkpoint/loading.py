"""How a checkpoint is found and read: nothing in it is believed before it has been checked."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any

from hookline.checkpoint import tensors
from hookline.checkpoint.codec import decode
from hookline.checkpoint.manifest import (
    CHECKPOINT_NAME,
    MANIFEST,
    Manifest,
    checkpoints,
    damage,
    parsed,
    read_file,
    read_manifest,
    verify,
)
from hookline.checkpoint.pointers import read_pointer
from hookline.errors import CheckpointError, Problem

__all__ = ["load", "newest_valid", "outline", "resolve"]

_log = logging.getLogger(__name__)


def load(path: Path, components: Collection[str] | None = None) -> dict[str, Any]:
    """Return the state saved at ``path``, all of it or the named components, with tensors on the CPU.

    The whole checkpoint is verified first. Reads data only: there is no code in a checkpoint to run.

    Raises:
        CheckpointError: If the checkpoint is damaged or has no such component.
    """
    path, manifest = Path(path), verify(Path(path))
    available = manifest.components
    chosen = available if components is None else list(components)
    if missing := [name for name in chosen if name not in available]:
        exists = f"It has {', '.join(available)}"
        raise CheckpointError(str(Problem(f"checkpoint {path}", "a component it has", missing[0], exists)))
    return {name: _component(path, name, manifest) for name in chosen}


def outline(path: Path, component: str) -> Any:
    """Return the JSON of a component as it is stored, in which tensors are only named; None if there is none.

    Raises:
        CheckpointError: If it is damaged.
    """
    manifest = read_manifest(Path(path))
    return _tree(Path(path), component, manifest) if component in manifest.components else None


def newest_valid(root: Path) -> tuple[Path, list[str]]:
    """Return the undamaged checkpoint of the highest iteration, and what is wrong with those above it.

    Raises:
        CheckpointError: If there is none; names each damaged one.
    """
    messages = []
    for path in checkpoints(Path(root)):
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
        places = (path.parent, path.parent / "checkpoints")
        place = next((place for place in places if checkpoints(place)), path.parent)
        names = ", ".join(found.name for found in checkpoints(place))
        exists = f"{place} has {names or 'no checkpoints'}"
        expected, is_file = "a run, its checkpoints or one of them", path.is_file()
        got = "a file" if is_file else None
        raise CheckpointError(
            str(Problem(f"checkpoint {spec}", expected, got, exists=exists, missing=not is_file))
        )
    newest, messages = newest_valid(path / "checkpoints" if (path / "checkpoints").is_dir() else path)
    for message in messages:
        _log.warning("passed over a damaged checkpoint: %s", message)
    return newest


def _component(path: Path, name: str, manifest: Manifest) -> Any:
    tree, named = _tree(path, name, manifest), {}
    file = f"{name}.safetensors"
    if file in manifest.files:
        try:
            named = tensors.read(path / file)
        except Exception as error:  # what a library makes of a stranger's file may be anything
            raise _unreadable(path, name, error) from error
    return decode(tree, named, component=f"{path.name}/{name}")


def _tree(path: Path, name: str, manifest: Manifest) -> Any:
    try:
        return parsed(read_file(path, f"{name}.json", manifest))
    except ValueError as error:
        raise _unreadable(path, name, error) from error


def _unreadable(path: Path, name: str, error: Exception) -> CheckpointError:
    return damage(path, f"{name} that cannot be read ({type(error).__name__}: {error})")
