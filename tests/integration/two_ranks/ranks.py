"""Processes that are ranks without a launcher: forked from one that has imported torch, so they start at once."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import torch.distributed as dist

TIMEOUT_S = 60

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["hookline.cli.training", "torch._dynamo"])


def run_ranks(
    arguments: Sequence[str], outputs: Path, world_size: int = 2
) -> tuple[list[int | None], list[str]]:
    """Run ``hookline *arguments`` on every rank; return exit codes and what each printed, in rank order."""
    # As a launcher does: the store is there before the ranks, and outlives them.
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    files = [outputs / f"rank{rank}.out" for rank in range(world_size)]
    processes = [
        _context.Process(target=be_rank, args=(rank, world_size, store.port, arguments, file))
        for rank, file in enumerate(files)
    ]
    for process in processes:
        process.start()
    try:
        deadline = time.monotonic() + TIMEOUT_S
        for process in processes:
            process.join(max(deadline - time.monotonic(), 0))
        return [process.exitcode for process in processes], [file.read_text() for file in files]
    finally:
        for process in processes:
            process.kill()
            process.join()


def start_launcher(arguments: Sequence[str], output: Path) -> tuple[multiprocessing.Process, Connection]:
    """Start a process that starts two ranks; return it, and a connection that ends when the last of them does."""
    mine, theirs = multiprocessing.Pipe(duplex=False)
    process = _context.Process(target=be_launcher, args=(arguments, output, theirs))
    process.start()
    theirs.close()
    return process, mine


def be_launcher(arguments: Sequence[str], output: Path, alive: Connection) -> None:
    os.environ["TORCHELASTIC_RUN_ID"] = "test"
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for rank in range(2):
        if os.fork() == 0:
            be_rank(rank, 2, store.port, arguments, output)
    os.wait()


def be_rank(rank: int, world_size: int, port: int, arguments: Sequence[str], output: Path) -> None:
    from hookline.cli import main

    os.setsid()
    multiprocessing.set_start_method("fork", force=True)  # of data workers, as in a process of the shell's
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        TORCHELASTIC_USE_AGENT_STORE="True",
        PYTHONWARNINGS="error",
    )
    with open(output, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    main(list(arguments), prog_name="hookline")
