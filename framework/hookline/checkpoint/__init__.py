"""A run's state on disk, whole or not at all, and the same to the bit when it comes back."""

from hookline.checkpoint.background import in_background
from hookline.checkpoint.codec import decode, encode
from hookline.checkpoint.host_copy import HostCopy
from hookline.checkpoint.loading import load, newest_valid, outline, resolve
from hookline.checkpoint.manifest import Manifest, verify
from hookline.checkpoint.pointers import advance_pointer, read_pointer, write_pointer
from hookline.checkpoint.retention import (
    KEEP_RULE,
    Fence,
    Ledger,
    check_keep,
    discard_newer,
    no_fence,
    retain,
)
from hookline.checkpoint.rng import capture, forked_rng, restore
from hookline.checkpoint.writing import Snapshot, check_state, check_writable, save, snapshot, write

__all__ = [
    "KEEP_RULE",
    "Fence",
    "HostCopy",
    "Ledger",
    "Manifest",
    "Snapshot",
    "advance_pointer",
    "capture",
    "check_keep",
    "check_state",
    "check_writable",
    "decode",
    "discard_newer",
    "encode",
    "forked_rng",
    "in_background",
    "load",
    "newest_valid",
    "no_fence",
    "outline",
    "read_pointer",
    "resolve",
    "restore",
    "retain",
    "save",
    "snapshot",
    "verify",
    "write",
    "write_pointer",
]
