"""Processes in which nothing has run yet."""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Sequence
from typing import Any

__all__ = ["fresh_processes"]

# The fork server listens in the folder of temporary files, as pymp-xxxxxxxx/listener-xxxxxxxx; the path of a
# socket has at most 103 bytes on macOS, 107 on Linux.
_MAX_FOLDER_BYTES = 103 - len("/pymp-xxxxxxxx/listener-xxxxxxxx")


def fresh_processes(preload: Sequence[str]) -> Any:
    """Return the multiprocessing context whose processes start with nothing but ``preload`` imported.

    They are forked from a server that has imported it, and start at once. Where there can be no such server,
    each imports what it needs.

    Args:
        preload: Names of modules. The first context of a process decides.
    """
    has_server = "forkserver" in multiprocessing.get_all_start_methods()
    if not has_server or len(tempfile.gettempdir().encode()) > _MAX_FOLDER_BYTES:
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    return context
