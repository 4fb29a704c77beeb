"""Tensors as a file of the safetensors format: written one after the other, read by the library."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open

__all__ = ["MAX_HEAD_BYTES", "head", "native_name", "pieces", "read"]

MAX_HEAD_BYTES = 100_000_000
"""The library reads no file with a longer head."""


def head(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """Return what a file of ``tensors`` begins with: names, types, shapes and places."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in _in_order(tensors):
        tensor, start = tensors[name], end
        end = start + tensor.nbytes
        entries[name] = {
            "dtype": native_name(tensor.dtype),
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def pieces(tensors: Mapping[str, torch.Tensor]) -> Iterator[memoryview]:
    """Yield the content of a file of ``tensors``, contiguous ones on the CPU; none of them is copied."""
    yield memoryview(head(tensors))
    for name in _in_order(tensors):
        yield tensors[name].reshape(-1).view(torch.uint8).numpy().data


def read(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors in a file, as copies: what the library returns is a view of the file."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118


@cache
def native_name(dtype: torch.dtype) -> str | None:
    """Return what the format calls ``dtype``; None where the installed library does not hold it as it is."""
    one = torch.zeros(1, dtype=dtype)
    try:
        raw = safetensors.torch.save({"one": one})
        back = safetensors.torch.load(raw)["one"]
    except (KeyError, SafetensorError):
        return None
    entry = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])["one"]
    is_same = (back.dtype, back.shape, entry["shape"]) == (dtype, one.shape, [1])
    return entry["dtype"] if is_same else None


def _in_order(tensors: Mapping[str, torch.Tensor]) -> list[str]:
    # As the library orders them: the largest elements first, so that each tensor is aligned.
    return sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
