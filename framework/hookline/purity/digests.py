"""Digests of data: two are equal exactly when every bit is, on whatever device it lies."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["digests"]

_PLAIN = (bool, int, float, str, type(None))
_CHUNK = 1 << 24  # bytes at a time, so that a digest needs little memory of the device


def digests(values: Mapping[str, Any]) -> dict[str, str]:
    """Return a digest of each value; what is on a CUDA device is summed up there and read at once."""
    sums: list[Tensor] = []
    found = {}
    with torch.no_grad():
        for part, value in values.items():
            digest, start = hashlib.blake2b(digest_size=8), len(sums)
            _update(digest, value, sums)
            found[part] = (digest, start, len(sums))
        read = torch.stack([s.to(sums[0].device) for s in sums]).tolist() if sums else []
    for digest, start, end in found.values():
        digest.update(repr(read[start:end]).encode())
    return {part: digest.hexdigest() for part, (digest, _, _) in found.items()}


def _update(digest: hashlib.blake2b, value: Any, sums: list[Tensor]) -> None:
    """Add ``value`` to ``digest``, all of it that is data; objects by their type alone."""
    if isinstance(value, Tensor):
        _update_tensor(digest, value, sums)
    elif isinstance(value, np.ndarray):
        digest.update(f"{value.dtype}{value.shape}".encode() + value.tobytes())
    elif isinstance(value, Mapping):
        digest.update(f"{{{len(value)}".encode())
        for key, item in value.items():
            digest.update(repr(key).encode())
            _update(digest, item, sums)
    elif isinstance(value, (list, tuple)) and not all(isinstance(item, _PLAIN) for item in value):
        digest.update(f"[{len(value)}".encode())
        for item in value:
            _update(digest, item, sums)
    elif isinstance(value, (*_PLAIN, list, tuple, bytes, set, frozenset, torch.dtype, np.generic)):
        digest.update(repr(value).encode())
    else:
        digest.update(type(value).__name__.encode())


def _update_tensor(digest: hashlib.blake2b, tensor: Tensor, sums: list[Tensor]) -> None:
    tensor = tensor.detach()
    if hasattr(tensor, "to_local"):  # DTensor: each rank is asked for its own share
        tensor = tensor.to_local()
    digest.update(f"{tensor.dtype}{tuple(tensor.shape)}{tensor.device}{tensor.layout}".encode())
    if tensor.layout != torch.strided:
        sparse: Tensor = tensor.to_sparse_coo().coalesce()  # type: ignore[no-untyped-call]
        for part in (sparse.indices(), sparse.values()):
            _update_tensor(digest, part, sums)
        return
    if tensor.is_meta:
        return
    digest.update(repr(tensor.stride()).encode())
    data = tensor.resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8)
    if data.device.type == "cuda":
        sums.append(_sum_on_device(data))
    else:
        digest.update(data.cpu().numpy().data)


def _sum_on_device(data: Tensor) -> Tensor:
    """Return a 0-D int64 that changes with every byte of ``data`` and its place, without a copy to the host.

    A sum of words, each times an odd number of its own: one changed word always shows, and several
    cancel out once in 2**64.
    """
    total = torch.zeros((), dtype=torch.int64, device=data.device)
    for start in range(0, data.numel(), _CHUNK):
        chunk = data[start : start + _CHUNK]
        if chunk.numel() % 8:
            chunk = torch.cat([chunk, chunk.new_zeros(-chunk.numel() % 8)])
        words = chunk.clone().view(torch.int64)  # a view needs memory that begins at a multiple of 8 bytes
        places = torch.arange(start // 8 + 1, start // 8 + 1 + words.numel(), device=data.device)
        factors = places * 0x1E3779B97F4A7C15  # spreads neighbours over all 64 bits
        factors = (factors ^ (factors >> 29)) * 0x3F58476D1CE4E5B9
        total += (words * ((factors ^ (factors >> 32)) | 1)).sum()
    return total
