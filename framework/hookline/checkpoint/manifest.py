"""What a checkpoint says about itself, and whether that is true."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hookline.checkpoint.codec import MAX_NODES
from hookline.errors import CheckpointError, Problem

__all__ = [
    "CHECKPOINT_NAME",
    "COMPONENT_NAME",
    "FORMAT",
    "MANIFEST",
    "MAX_JSON_BYTES",
    "Manifest",
    "checkpoints",
    "damage",
    "iteration_of",
    "num_values",
    "parsed",
    "read_file",
    "read_manifest",
    "sealed",
    "verify",
]

FORMAT = 2
MANIFEST = "manifest.json"
MAX_JSON_BYTES = 256 * 2**20
MAX_MANIFEST_BYTES = 2**20

# The second form is a checkpoint that a save of the same iteration is about to replace; as good as the first.
CHECKPOINT_NAME = re.compile(r"iter_(\d{7,})(\.old-[0-9a-f]{8})?")
COMPONENT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_FILE_NAME = re.compile(rf"{COMPONENT_NAME.pattern}\.(json|safetensors)")


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint says about itself.

    Args:
        iteration: The last iteration that the state includes.
        save_id: Differs between any two saves.
        generation: That of the process which saved it, see `RunDir.held`; 0 without a run directory.
        world_size: How many processes trained together.
        files: Size in bytes and SHA-256 of every other file, by name.
    """

    iteration: int
    save_id: str
    generation: int
    world_size: int
    files: dict[str, tuple[int, str]]

    @property
    def components(self) -> list[str]:
        """Names of the parts of the state."""
        return [name.removesuffix(".json") for name in self.files if name.endswith(".json")]


def verify(path: Path) -> Manifest:
    """Return the manifest of the checkpoint at ``path`` after reading every file: each is as it was written.

    Raises:
        CheckpointError: If anything is damaged, missing, too much, or a link.
    """
    path = Path(path)
    manifest = read_manifest(path)
    try:
        present = {entry.name for entry in os.scandir(path)} - {MANIFEST}
        if missing := manifest.files.keys() - present:
            raise damage(path, f"no {', '.join(sorted(missing))}")
        if additional := present - manifest.files.keys():
            raise damage(path, f"{', '.join(sorted(additional))} as well")
        for name, written in manifest.files.items():
            _check_size(path / name, written[0])
            if _fingerprint(path / name) != written:
                raise _changed(path / name)
    except OSError as error:
        raise _unreadable(path, error) from error
    return manifest


def read_manifest(path: Path) -> Manifest:
    """Return the manifest of the checkpoint at ``path``, which is as it was written; no other file is read.

    Raises:
        CheckpointError: If it is damaged, of another format or that of another checkpoint.
    """
    try:
        _check_size(path / MANIFEST, at_most=MAX_MANIFEST_BYTES)
        raw = (path / MANIFEST).read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error
    try:
        data = json.loads(raw)
        del data["sha256"]
        whole = sealed(data) == raw
    except (ValueError, TypeError, KeyError, RecursionError):
        whole = False
    if not whole:
        raise damage(path, f"a {MANIFEST} that its own checksum does not match")
    if data.get("format") != FORMAT:
        fix = "Use the hookline that wrote it"
        raise CheckpointError(
            str(Problem(f"checkpoint {path}", f"format {FORMAT}", data.get("format"), fix=fix))
        )
    manifest = _of_right_types(path, data)
    if strange := [name for name in manifest.files if not _FILE_NAME.fullmatch(name)]:
        raise damage(path, f"a {MANIFEST} that names {strange[0]!r}")
    place = path.absolute()
    if CHECKPOINT_NAME.fullmatch(place.name) and iteration_of(place) != manifest.iteration:
        raise damage(path, f"the checkpoint of iteration {manifest.iteration}")
    return manifest


def read_file(path: Path, name: str, manifest: Manifest) -> bytes:
    """Return the content of the JSON file ``name``, which is as it was written.

    Raises:
        CheckpointError: If it is not.
    """
    size, checksum = manifest.files[name]
    try:
        _check_size(path / name, size, at_most=MAX_JSON_BYTES)
        raw = (path / name).read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error
    if hashlib.sha256(raw).hexdigest() != checksum:
        raise _changed(path / name)
    return raw


def parsed(raw: bytes) -> Any:
    """Return the data that the JSON in ``raw`` describes.

    Raises:
        ValueError: If it is no JSON, is nested too deeply, or has more values than a state may hold.
    """
    if num_values(raw) > MAX_NODES:
        raise ValueError(f"more than {MAX_NODES} values")
    try:
        return json.loads(raw)
    except RecursionError as error:
        raise ValueError("too many levels") from error


def num_values(raw: bytes) -> int:
    """Return how many values the JSON in ``raw`` holds at most; commas in its texts count, too."""
    return 1 + raw.count(b",") + raw.count(b"[") + raw.count(b"{")


def sealed(manifest: dict[str, Any]) -> bytes:
    """Return the text of ``manifest`` with its own checksum in it."""
    checksum = hashlib.sha256(json.dumps(manifest, allow_nan=False).encode()).hexdigest()
    return json.dumps({**manifest, "sha256": checksum}, indent=1, allow_nan=False).encode()


def iteration_of(path: Path) -> int:
    """Return the iteration that the name of the checkpoint ``path`` says."""
    return int(path.name.removeprefix("iter_").partition(".")[0])


def checkpoints(root: Path) -> list[Path]:
    """Return the directories in ``root`` named as checkpoints, highest iteration first; links are none."""
    try:
        found = [path for path in root.iterdir() if CHECKPOINT_NAME.fullmatch(path.name)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    found = [path for path in found if path.is_dir() and not path.is_symlink()]
    return sorted(found, key=lambda path: (iteration_of(path), not path.suffix, path.name), reverse=True)


def damage(path: Path, got: str) -> CheckpointError:
    """Return the error that names a damaged checkpoint and what was found in it."""
    return CheckpointError(f"checkpoint {path}: expected every file as it was written, got {got}.")


def _of_right_types(path: Path, data: dict[str, Any]) -> Manifest:
    try:
        files = {name: (size, checksum) for name, (size, checksum) in data["files"].items()}
        numbers = [data[key] for key in ("iteration", "generation", "world_size")]
        if not all(type(number) is int for number in (*numbers, *(size for size, _ in files.values()))):
            raise TypeError("whole numbers")
        iteration, generation, world_size = numbers
        return Manifest(iteration, str(data["save_id"]), generation, world_size, files)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise damage(path, f"a {MANIFEST} without {error}") from error


def _fingerprint(path: Path) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    with open(path, "rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
            size += len(chunk)
    return size, digest.hexdigest()


def _check_size(path: Path, written: int | None = None, *, at_most: int | None = None) -> None:
    """Raise unless a file is at ``path``, of the size given: before it is read, lest it floods the memory."""
    status = os.lstat(path)
    if not stat.S_ISREG(status.st_mode):
        raise damage(path.parent, f"{path.name} that is a link or no file")
    limit = _memory_bytes() if at_most is None else at_most
    if status.st_size > limit:
        raise damage(path.parent, f"{path.name} of {status.st_size} bytes, more than {limit}")
    if written is not None and status.st_size != written:
        raise damage(path.parent, f"{path.name} of {status.st_size} bytes instead of {written}")


def _memory_bytes() -> int:
    """Return how much memory the machine has: no file of a checkpoint that can be used is larger."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _changed(file: Path) -> CheckpointError:
    return damage(file.parent, f"{file.name} with other content (its checksum does not match)")


def _unreadable(path: Path, error: OSError) -> CheckpointError:
    # A failed read, other than a failed open, does not say of what.
    return damage(path, f"{Path(str(error.filename or path)).name}: {error.strerror}")
