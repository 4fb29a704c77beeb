"""Files that do harm, and the manifest that vouches for them: forged by somebody who knows the format."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from hookline.checkpoint import manifest

__all__ = ["CONFIGS", "damages", "forgeries", "payload", "reseal"]

CANARY = "canary"


class _Runs:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.canary),)


def payload(canary: Path) -> bytes:
    """Return a pickle that makes ``canary`` when it is loaded."""
    return pickle.dumps(_Runs(canary))


def reseal(path: Path, change: Callable[[dict[str, Any]], None] = lambda data: None) -> None:
    """Make the manifest of the checkpoint ``path`` vouch for what is there, then ``change`` it."""
    data = json.loads((path / manifest.MANIFEST).read_text())
    del data["sha256"]
    others = [file for file in sorted(path.iterdir()) if file.name != manifest.MANIFEST and file.is_file()]
    data["files"] = {
        file.name: [len(content := file.read_bytes()), hashlib.sha256(content).hexdigest()] for file in others
    }
    change(data)
    (path / manifest.MANIFEST).write_bytes(manifest.sealed(data))


def _torch_zip(canary: Path) -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save({"model": _Runs(canary)}, buffer)
    return buffer.getvalue()


@cache
def _zip_bomb() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("archive/data.pkl", bytes(64 * 2**20))
    return buffer.getvalue()


def _safetensors(header: bytes | Mapping[str, Any], size: int | None = None, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + data


def _tensor(shape: Any, offsets: Any, dtype: str = "F32") -> dict[str, Any]:
    return {"weight": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


@cache
def tensor_files(canary: Path) -> dict[str, bytes]:
    """Return contents for a ``.safetensors`` file."""
    return {
        "a pickle": payload(canary),
        "a file of torch.save": _torch_zip(canary),
        "a zip bomb": _zip_bomb(),
        "a header of 2^60 bytes": _safetensors(b"{}", size=2**60),
        "a header of 2^63 bytes": _safetensors(b"{}", size=2**63),
        "a deep header": _safetensors(b'{"weight":' * 50_000),
        "a header that is no JSON": _safetensors(b"\xff" * 100),
        "data beyond the end": _safetensors(_tensor([2**40], [0, 2**42])),
        "a shape whose product overflows": _safetensors(_tensor([2**62, 8], [0, 0])),
        "offsets backwards": _safetensors(_tensor([1], [4, 0]), data=bytes(4)),
        "an unknown dtype": _safetensors(_tensor([1], [0, 4], "F33"), data=bytes(4)),
        "other names": _safetensors({"evil": _tensor([1], [0, 4])["weight"]}, data=bytes(4)),
        "nothing": b"",
    }


@cache
def json_files(canary: Path) -> dict[str, bytes]:
    """Return contents for a ``.json`` file."""
    counter = b'{"$counter":'
    return {
        "a pickle": payload(canary),
        "deep nesting": b"[" * 100_000,
        "nesting that just parses": b"[" * 900 + b"]" * 900,
        "tags in tags": counter * 300 + b"{}" + b"}" * 300,
        "a number of a million digits": b"1" * 1_000_000,
        "a huge exponent": b"1e999999999",
        "hexadecimal without end": b'{"$int": "' + b"f" * 3_000_000 + b'"}',
        "a class to make": b'{"$object": ["os", "system", "touch canary"]}',
        "bytes that are none": b'{"$bytes": "%%%"}',
        "an array of 2^60 numbers": b'{"$array": ["weight", "<f8", [1152921504606846976]]}',
        "strides out of the file": b'{"$tensor": ["weight", null, [4], [1152921504606846976]]}',
        "a tensor that is not there": b'{"$tensor": "evil"}',
        "a key that cannot be one": b'{"$dict": [[[1], 2]]}',
        "an empty list": b"[]",
        "a string": b'"evil"',
        "no Unicode": b'"\xff\xfe"',
        "zeros": bytes(5000),
        "nothing": b"",
    }


def forgeries(checkpoint: Path, canary: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yield the name of each forgery of files, and what does it; the manifest vouches for all of them."""
    kinds = {".safetensors": tensor_files(canary), ".json": json_files(canary)}
    for file in sorted(checkpoint.iterdir()):
        if file.name == manifest.MANIFEST:
            continue
        for name, content in kinds[file.suffix].items():
            if (file.name, name) == ("plugins.json", "an empty list"):
                continue  # says what no file says: that nobody knows the plugins, which is no error
            yield f"{file.name}: {name}", lambda file=file, content=content: _forge(file, content)


def _forge(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    reseal(file.parent)


def damages(checkpoint: Path, canary: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yield what else may be wrong with a checkpoint, and what does it."""
    weights, elsewhere = checkpoint / "model.safetensors", checkpoint.parent.parent / "elsewhere"
    file = checkpoint / manifest.MANIFEST

    def named(name: str) -> Callable[[], None]:
        return lambda: reseal(checkpoint, lambda data: data["files"].update({name: [1, "0" * 64]}))

    def instead(make: Callable[[], Any], path: Path = weights) -> Callable[[], None]:
        return lambda: (path.unlink(), make())

    for name in (
        "../evil.json",
        "/etc/passwd",
        "..",
        "a/b.json",
        "evil.pkl",
        "manifest.json",
        "x" * 5000 + ".json",
    ):
        yield f"a manifest that names {name[:20]!r}", named(name)
    yield (
        "a manifest that names 100,000 files",
        lambda: reseal(
            checkpoint,
            lambda data: data["files"].update({f"part{number}.json": [1, ""] for number in range(100_000)}),
        ),
    )
    yield "a manifest of a pickle", lambda: file.write_bytes(payload(canary))
    yield "a manifest that is nested", lambda: file.write_bytes(b"[" * 1_000_000)
    yield "a manifest of 300 MB", lambda: os.truncate(file, 300 * 2**20)
    yield "a manifest of 200 MB", lambda: os.truncate(file, 200 * 2**20)
    yield "a manifest of another format", lambda: reseal(checkpoint, lambda data: data.update(format=99))
    yield "a manifest of no format", lambda: reseal(checkpoint, lambda data: data.pop("format"))
    yield (
        "a manifest of a huge iteration",
        lambda: reseal(checkpoint, lambda data: data.update(iteration=10**4000)),
    )
    yield "a link to a file elsewhere", lambda: (weights.rename(elsewhere), weights.symlink_to(elsewhere))
    yield "a link to /dev/zero", instead(lambda: weights.symlink_to("/dev/zero"))
    yield "a link to itself", instead(lambda: weights.symlink_to(weights))
    yield "a manifest that is a link", lambda: (file.rename(elsewhere), file.symlink_to(elsewhere))
    yield "a pipe", instead(lambda: os.mkfifo(weights))
    yield "a manifest that is a pipe", instead(lambda: os.mkfifo(file), file)
    yield "a directory", instead(weights.mkdir)
    yield "a manifest that is a directory", instead(file.mkdir, file)
    yield "a file that nobody named", lambda: (checkpoint / "evil.pkl").write_bytes(payload(canary))
    for component in ("model", "optimizer", "trainer", "rng", "hooks"):
        yield f"no {component}", lambda component=component: _without(checkpoint, component)


def _without(checkpoint: Path, component: str) -> None:
    for file in checkpoint.glob(f"{component}.*"):
        file.unlink()
    reseal(checkpoint)


def _aliases() -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    return "\n".join([*lines, *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12))])


CONFIGS = {
    "a bomb of aliases": _aliases(),
    "a bomb of merges": "a0: &a0 {x: 1}\n"
    + "\n".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 50)}]}}" for i in range(1, 9)),
    "an alias in itself": "run: &a {name: *a}",
    "3,000 brackets": "[" * 3000,
    "100,000 brackets": "[" * 100_000,
    "3,000 braces": "{a: " * 3000,
    "3,000 dashes": "- " * 3000,
    "a key twice": "run: {name: a}\nrun: {name: b}",
    "a function to call": "run: !!python/object/apply:os.mkdir [canary]",
    "a class to make": "run: !!python/object/new:os.mkdir {args: [canary]}",
    "a number of 100,000 digits": f"train: {{max_iter: {'1' * 100_000}}}",
    "a number with colons": "train: {max_iter: 1" + ":59" * 2000 + "}",
    "a date that is none": "run: {name: 2024-99-99}",
    "no UTF-8": b"run: \xff\xfe",
    "zeros": bytes(5000),
    "a pickle": pickle.dumps({"run": 1}),
    "a megabyte of one key": "a" * 1_000_000,
    "100,000 keys": "\n".join(f"k{i}: 1" for i in range(100_000)),
    "two documents": "run: {name: a}\n---\nrun: {name: b}",
    "nothing": "",
}
"""Configs that are none."""
