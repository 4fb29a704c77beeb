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

from hookline.checkpoint.codec import decode
from hookline.errors import CheckpointError, Problem

__all__ = [
    "CHECKPOINT_NAME",
    "COMPONENT_NAME",
    "FORMAT",
    "MANIFEST",
    "MAX_JSON_BYTES",
    "Manifest",
    "damage",
    "fingerprint",
    "iteration_of",
    "read_small",
    "sealed",
    "verify",
]

FORMAT = 1
MANIFEST = "manifest.json"
MAX_JSON_BYTES = 256 * 2**20

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
        extra: The data given to `save`.
        files: Size in bytes and SHA-256 of every other file, by name.
    """

    iteration: int
    save_id: str
    extra: dict[str, Any]
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
    try:
        manifest = _read_manifest(path)
        present = {entry.name for entry in os.scandir(path)} - {MANIFEST}
        if missing := manifest.files.keys() - present:
            raise damage(path, f"no {', '.join(sorted(missing))}")
        if additional := present - manifest.files.keys():
            raise damage(path, f"{', '.join(sorted(additional))} as well")
        for name, written in manifest.files.items():
            _check_file(path / name, written)
    except OSError as error:
        raise damage(path, f"{Path(str(error.filename)).name}: {error.strerror}") from error
    return manifest


def fingerprint(path: Path) -> tuple[int, str]:
    """Return the size in bytes and the SHA-256 of the file at ``path``; reads it in pieces."""
    digest, size = hashlib.sha256(), 0
    with open(path, "rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
            size += len(chunk)
    return size, digest.hexdigest()


def sealed(manifest: dict[str, Any]) -> bytes:
    """Return the text of ``manifest`` with its own checksum in it."""
    checksum = hashlib.sha256(json.dumps(manifest, allow_nan=False).encode()).hexdigest()
    return json.dumps({**manifest, "sha256": checksum}, indent=1, allow_nan=False).encode()


def iteration_of(path: Path) -> int:
    """Return the iteration that the name of the checkpoint ``path`` says."""
    return int(path.name.removeprefix("iter_").partition(".")[0])


def _read_manifest(path: Path) -> Manifest:
    raw = read_small(path / MANIFEST)
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
    try:
        files = {name: (size, digest) for name, (size, digest) in data["files"].items()}
        extra = decode(data["extra"], {}, component="extra")
        manifest = Manifest(int(data["iteration"]), str(data["save_id"]), extra, files)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise damage(path, f"a {MANIFEST} without {error}") from error
    if strange := [name for name in files if not _FILE_NAME.fullmatch(name)]:
        raise damage(path, f"a {MANIFEST} that names {strange[0]!r}")
    place = path.absolute()
    if CHECKPOINT_NAME.fullmatch(place.name) and iteration_of(place) != manifest.iteration:
        raise damage(path, f"the checkpoint of iteration {manifest.iteration}")
    return manifest


def _check_file(path: Path, written: tuple[int, str]) -> None:
    size = _size(path)
    if size != written[0]:
        raise damage(path.parent, f"{path.name} of {size} bytes instead of {written[0]}")
    if fingerprint(path) != written:
        raise damage(path.parent, f"{path.name} with other content (its checksum does not match)")


def _size(path: Path) -> int:
    status = os.lstat(path)
    if not stat.S_ISREG(status.st_mode):
        raise damage(path.parent, f"{path.name} that is a link or no file")
    return status.st_size


def read_small(path: Path) -> bytes:
    """Return the content of a checkpoint's JSON file; its size is limited, so that no parser is flooded."""
    if (size := _size(path)) > MAX_JSON_BYTES:
        raise damage(path.parent, f"{path.name} of {size} bytes, more than {MAX_JSON_BYTES}")
    return path.read_bytes()


def damage(path: Path, got: str) -> CheckpointError:
    """Return the error that names a damaged checkpoint and what was found in it."""
    return CheckpointError(f"checkpoint {path}: expected every file as it was written, got {got}.")
