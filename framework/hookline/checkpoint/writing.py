"""How a checkpoint is written: aside, synced, read back, and only then given its name.

A checkpoint is a directory ``iter_0000499`` with a ``<component>.json`` for each part of the state, a
``<component>.safetensors`` where that has tensors, and ``manifest.json`` with size and SHA-256 of each file.
It is written under a hidden name that nobody loads; what has the final name is complete and durable, unless
the disk failed. One process at a time writes there; a fence keeps out one that was forgotten.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hookline import distributed
from hookline.checkpoint import tensors
from hookline.checkpoint.attempts import refused, twice
from hookline.checkpoint.codec import MAX_NODES, encode
from hookline.checkpoint.host_copy import HostCopy
from hookline.checkpoint.manifest import (
    COMPONENT_NAME,
    FORMAT,
    MANIFEST,
    MAX_JSON_BYTES,
    num_values,
    sealed,
    verify,
)
from hookline.checkpoint.pointers import write_pointer
from hookline.checkpoint.retention import Fence, Ledger, discard, no_fence, remove, remove_leftovers
from hookline.durable import make_directory, sync_directory, write_new
from hookline.errors import CheckpointError, HooklineError, Problem

__all__ = ["Snapshot", "check_state", "check_writable", "save", "snapshot", "write"]

_INTACT = "Earlier checkpoints are intact; free space or mend the disk, then resume"


@dataclass(frozen=True)
class Snapshot:
    """A state as it is to be written.

    Args:
        iteration: The last iteration that it includes.
        generation: That of the process, see `RunDir.held`.
        components: By name, the JSON tree and the tensors of each part, as `encode` returns them.
    """

    iteration: int
    generation: int
    components: Mapping[str, tuple[Any, Mapping[str, torch.Tensor]]]


def save(
    root: Path,
    iteration: int,
    state: Mapping[str, Any],
    *,
    generation: int = 0,
    fence: Fence = no_fence,
    ledger: Ledger | None = None,
) -> Path:
    """Write ``state`` as the checkpoint of ``iteration`` in ``root``, durably, and point ``latest`` at it.

    Whenever the process or the machine stops, every checkpoint that was complete before is still there, also
    that of the same iteration, which is replaced. Waits for the device and the disk. What fails is abandoned
    and written once more.

    Args:
        root: Directory of checkpoints; made where it is missing.
        iteration: The last iteration that ``state`` includes; >= 0.
        state: Each component's state by its name; a name is that of its files.
        generation: That of the process, see `RunDir.held`; 0 without a run directory.
        fence: Called before anything is committed or deleted; what it raises ends the attempt.
        ledger: Is told of the new checkpoint, which was read back.

    Returns:
        The checkpoint's directory.

    Raises:
        CheckpointError: If ``state`` holds what a checkpoint cannot, or the disk refuses.
    """
    return write(root, snapshot(iteration, state, generation=generation), fence=fence, ledger=ledger)


def snapshot(
    iteration: int, state: Mapping[str, Any], *, generation: int = 0, to_host: HostCopy | None = None
) -> Snapshot:
    """Return ``state`` in the form in which it is written; no file is touched.

    Args:
        iteration: The last iteration that ``state`` includes; >= 0.
        state: Each component's state by its name; a name is that of its files.
        generation: That of the process, see `RunDir.held`.
        to_host: Copies the tensors, where ``state`` may change before it is written; waits for the device.

    Raises:
        CheckpointError: If ``state`` holds what a checkpoint cannot.
    """
    if type(iteration) is not int or iteration < 0:
        raise CheckpointError(str(Problem("checkpoint: iteration", "a whole number >= 0", iteration)))
    _check_names(state)
    if to_host is None:
        return Snapshot(iteration, generation, {name: encode(state[name], component=name) for name in state})
    to_host.begin()
    components = {name: encode(state[name], component=name, to_host=to_host) for name in state}
    to_host.wait()
    return Snapshot(iteration, generation, components)


def check_state(state: Mapping[str, Any]) -> None:
    """Return if a checkpoint can hold ``state``, of which no tensor is copied.

    Raises:
        CheckpointError: If it cannot: better to know after the first iteration than at the first save.
    """
    _check_names(state)
    for name in state:
        encode(state[name], component=name, to_host=lambda tensor: torch.empty(0))


def write(root: Path, snapshot: Snapshot, *, fence: Fence = no_fence, ledger: Ledger | None = None) -> Path:
    """Write ``snapshot`` as a checkpoint in ``root``, durably, point ``latest`` at it, and return its path.

    What fails is abandoned and written once more.

    Args:
        root: Directory of checkpoints; made where it is missing.
        snapshot: What to write.
        fence: Called before anything is committed or deleted; what it raises ends the attempt.
        ledger: Is told of the new checkpoint, which was read back.

    Raises:
        CheckpointError: If there is too much of it, or the disk refuses.
    """
    root, texts = Path(root), _texts(snapshot)
    final = root / f"iter_{snapshot.iteration:07d}"
    try:
        save_id, replaced = twice(lambda: _attempt(root, final, snapshot, texts, fence), final)
    except OSError as error:
        raise refused(final, error, _INTACT) from error
    except CheckpointError as error:
        raise CheckpointError(f"{error} {_INTACT}.") from error
    if ledger is not None:
        ledger.add(final, save_id)
    fence()
    write_pointer(root, "latest", final)
    discard(replaced, fence)
    return final


def check_writable(root: Path) -> None:
    """Return if checkpoints can be written in ``root``, which is made where it is missing.

    Raises:
        CheckpointError: If they cannot: better to know before the first iteration than at the first save.
    """
    probe = Path(root) / f".tmp-probe-{secrets.token_hex(4)}"
    try:
        make_directory(Path(root))
        write_new(probe, [])
        probe.unlink()
    except OSError as error:
        raise refused(root, error, "Choose another folder with the option 'dir', or run.dir") from error


def _check_names(state: Mapping[str, Any]) -> None:
    seen = {"manifest"}
    for name in state:
        # File names: some file systems do not tell upper from lower case.
        if not isinstance(name, str) or not COMPONENT_NAME.fullmatch(name) or name.lower() in seen:
            expected = "unique names of letters, digits, _ and -, other than manifest"
            raise CheckpointError(str(Problem("checkpoint: components", expected, name)))
        seen.add(name.lower())


def _texts(snapshot: Snapshot) -> dict[str, bytes]:
    """Return the JSON of each component; what could not be read again is refused before it is written."""
    texts = {}
    for name, (tree, named) in snapshot.components.items():
        texts[name] = text = json.dumps(tree, allow_nan=False).encode()
        for expected, limit, got in (
            ("bytes of plain data", MAX_JSON_BYTES, len(text)),
            ("values of plain data", MAX_NODES, num_values(text)),
            ("bytes to name its tensors", tensors.MAX_HEAD_BYTES, len(tensors.head(named))),
        ):
            if got > limit:
                fix = "Keep large data in tensors or arrays, and few of them"
                where = f"checkpoint: {name}"
                raise CheckpointError(str(Problem(where, f"at most {limit} {expected}", got, fix=fix)))
    return texts


def _attempt(
    root: Path, final: Path, snapshot: Snapshot, texts: Mapping[str, bytes], fence: Fence
) -> tuple[str, list[Path]]:
    """Write the checkpoint and give it its name; return its save id, and what it has replaced."""
    save_id = secrets.token_hex(4)
    temporary = root / f".tmp-{final.name}-{save_id}"
    try:
        fence()  # what is in the directory may be another process's work
        make_directory(root)
        remove_leftovers(root)
        _write_files(temporary, snapshot, texts, save_id)
        verify(temporary)
        fence()
        return save_id, _put_in_place(temporary, final)
    except (OSError, HooklineError):
        remove(temporary)
        raise


def _write_files(directory: Path, snapshot: Snapshot, texts: Mapping[str, bytes], save_id: str) -> None:
    os.mkdir(directory)
    files = {}
    for name, text in texts.items():
        parts: dict[str, Iterable[bytes | memoryview]] = {f"{name}.json": [text]}
        if named := snapshot.components[name][1]:
            parts[f"{name}.safetensors"] = tensors.pieces(named)
        for file, pieces in parts.items():
            files[file] = write_new(directory / file, pieces)
    manifest = {
        "format": FORMAT,
        "save_id": save_id,
        "generation": snapshot.generation,
        "iteration": snapshot.iteration,
        "world_size": distributed.world_size(),
        "files": dict(sorted(files.items())),
    }
    write_new(directory / MANIFEST, [sealed(manifest)])
    sync_directory(directory)


def _put_in_place(temporary: Path, final: Path) -> list[Path]:
    """Give ``temporary`` its final name, durably; return what had it before, under a name still found."""
    aside = []
    if os.path.lexists(final):
        aside = [final.with_name(f"{final.name}.old-{secrets.token_hex(4)}")]
        os.rename(final, aside[0])
    try:
        os.rename(temporary, final)
        sync_directory(final.parent)
    except OSError:
        # What may not be durable must not be found; what it was to replace is.
        with suppress(OSError):
            os.rename(final, temporary)
        for path in aside:
            with suppress(OSError):
                os.rename(path, final)
        raise
    return aside
