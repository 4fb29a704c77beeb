"""A run's state on disk, whole or not at all, and the same to the bit when it comes back."""

from hookline.checkpoint.codec import decode, encode
from hookline.checkpoint.manifest import Manifest, verify
from hookline.checkpoint.rng import capture, forked_rng, restore
from hookline.checkpoint.store import (
    discard_newer,
    load,
    newest_valid,
    outline,
    read_pointer,
    resolve,
    retain,
    save,
    write_pointer,
)

__all__ = [
    "Manifest",
    "capture",
    "decode",
    "discard_newer",
    "encode",
    "forked_rng",
    "load",
    "newest_valid",
    "outline",
    "read_pointer",
    "resolve",
    "restore",
    "retain",
    "save",
    "verify",
    "write_pointer",
]
