"""Processes of a command: fresh ones to run things in, and those of a launcher that this may be one of."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = ["end_with_launcher", "fresh_processes", "launch_command", "seconds_since_launch", "sessions"]

_PR_SET_PDEATHSIG = 1  # Source: prctl(2).
_START_TIME = 22 - 3  # Source: proc(5), field 22 of `stat`; its second is the name, which may hold spaces.

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


def end_with_launcher() -> None:
    """From here on this process is sent SIGTERM when its launcher dies: nobody else would end it.

    Does nothing where no launcher of torch started it.
    """
    if sys.platform == "linux" and "TORCHELASTIC_RUN_ID" in os.environ:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def seconds_since_launch() -> float:
    """Return how long ago the launcher of torch that started this process was started; 0 where none did.

    It may have started the process anew since, and its time is what a batch system limits.
    """
    if sys.platform == "linux" and "TORCHELASTIC_RUN_ID" in os.environ:
        with suppress(OSError, ValueError, IndexError):
            fields = Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2].split()
            start_s = int(fields[_START_TIME]) / os.sysconf("SC_CLK_TCK")
            return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - start_s)
    return 0.0


def sessions() -> list[int]:
    """Return the processes started from here that lead a session, as a launcher's ranks do; Linux only."""
    children = [
        int(pid) for file in Path("/proc/self/task").glob("*/children") for pid in file.read_text().split()
    ]
    return [pid for pid in children if os.getsid(pid) == pid]


def launch_command() -> list[str]:
    """Return the words that start ``hookline train`` in as many processes as this one is of."""
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    on_each = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
    if world_size == 1:
        return ["hookline", "train"]
    if on_each == world_size:
        return ["hookline", "train", "--nproc", str(world_size)]
    machines = ["--nnodes", str(world_size // on_each), "--nproc-per-node", str(on_each)]
    # The port that torchrun chose is free again by then, and no other is known.
    meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"{os.environ.get('MASTER_ADDR')}:29400"]
    return ["torchrun", *machines, *meeting, "-m", "hookline", "train"]
