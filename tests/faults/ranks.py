"""The job on several ranks, each a fork, ended as a launcher ends them when one has failed."""

from __future__ import annotations

import importlib
import os
import signal
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch.distributed
from job import Attempt, Ending, Outcome, difference, end_with_parent, is_finished, outcome, place, start

__all__ = ["finish_ranks", "ranks_reference", "start_ranks", "wait_ranks", "wrong_end"]

_ALL_END_S = 20.0
"""Within this time the others see that a rank is gone, and say so."""


def start_ranks(root: Path, world_size: int = 2, **how: Any) -> list[Attempt]:
    """Start the job in ``root`` on so many ranks."""
    importlib.import_module("torch._dynamo")  # DDP needs it, and it takes a second: once, here
    port, attempts = _start_store(), []
    for rank in range(world_size):
        numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "MASTER_PORT": port}
        environment = {name: str(number) for name, number in numbers.items()}
        environment.update(MASTER_ADDR="127.0.0.1", TORCHELASTIC_USE_AGENT_STORE="True")
        output = root / f"output-{rank}.txt"
        attempts.append(start(root, environment=environment, output=output, **how))
    return attempts


def wait_ranks(attempts: Sequence[Attempt]) -> list[Ending]:
    """Return how every rank ended; when one has failed, the others get some seconds to end by themselves."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        running = [attempt for attempt in attempts if not attempt.ended(0.002)]
        if not running:
            break
        if len(running) < len(attempts):
            deadline = min(deadline, time.monotonic() + _ALL_END_S)
    endings = [attempt.wait(0) for attempt in attempts]
    for pid in _stores:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    _stores.clear()
    return endings


def finish_ranks(root: Path, world_size: int = 2, **how: Any) -> list[Ending]:
    """Make one more attempt, to its end."""
    return wait_ranks(start_ranks(root, world_size, **how))


@cache
def ranks_reference(world_size: int = 2, overrides: tuple[str, ...] = ()) -> Outcome:
    """Return what the job comes to on so many ranks when nobody disturbs it."""
    with place() as root:
        endings = finish_ranks(root, world_size, overrides=overrides)
        assert not any(ending.code for ending in endings), endings
        return outcome(root)


def wrong_end(root: Path, world_size: int = 2, overrides: Sequence[str] = ()) -> str:
    """Let the job in ``root`` go on to its end, if it is not there; return what is wrong then, or nothing."""
    if not is_finished(root):
        endings = finish_ranks(root, world_size, overrides=overrides)
        if any(ending.code for ending in endings):
            return f"then {endings}"
    return difference(root, ranks_reference(world_size, tuple(overrides)))


def _start_store() -> int:
    """Start what a launcher has for its ranks to meet in, in a process of its own; return its port."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        end_with_parent()
        store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        os.write(write, str(store.port).encode())
        while True:
            signal.pause()
    _stores.append(pid)
    port = int(os.read(read, 10))
    os.close(read)
    os.close(write)
    return port


_stores: list[int] = []
