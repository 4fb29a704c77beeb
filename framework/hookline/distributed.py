"""The other processes of a run: who this one is, and what they tell each other on the host."""

from __future__ import annotations

import atexit
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from hookline.errors import HooklineError, RankError, RunError, add_note

__all__ = [
    "broadcast",
    "first_failure",
    "from_main",
    "gather",
    "is_main",
    "join",
    "largest",
    "leave",
    "local_rank",
    "rank",
    "reduce_metrics",
    "share",
    "together",
    "world_size",
]

_TIMEOUT = timedelta(minutes=30)  # Others wait so long for a rank that evaluates or saves.
_FAILURE = "hookline/failure"  # In the store: rank, exit code and message of the first failure.
_FAILURE_TIMEOUT = timedelta(seconds=5)
_MAIN_SPEAKS_FIRST_S = 1.0
# After its last work a thread of gloo takes the interpreter's lock once more, and aborts if that is gone.
# Seen in 3 of 48 runs on a busy machine (torch 2.13); destroying the group does not wait for the thread.
_REST_S = 0.2

Result = TypeVar("Result")

_store: Any = None  # a torch.distributed.Store; torch hides the name from type checkers


def rank() -> int:
    """Return this process's number among all, 0 where there is only one."""
    return dist.get_rank() if _active() else int(os.environ.get("RANK", 0))


def world_size() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if _active() else int(os.environ.get("WORLD_SIZE", 1))


def local_rank() -> int:
    """Return this process's number on its own machine, which is also its GPU's."""
    return int(os.environ.get("LOCAL_RANK", 0))


def is_main() -> bool:
    """Return whether this process writes files, logs and metrics."""
    return rank() == 0


def join(device: torch.device) -> None:
    """Join the processes that ``torchrun`` started; alone, or when that is done, do nothing.

    Raises:
        RunError: If the others cannot be reached.
    """
    if world_size() == 1 or _active():
        return
    try:
        # Gloo carries what hosts tell each other, NCCL what GPUs hold: neither waits for the other.
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            store=_connected(_TIMEOUT),
            rank=rank(),
            world_size=world_size(),
            timeout=_TIMEOUT,
        )
    except (RuntimeError, ValueError) as error:
        raise RunError(
            f"rank {rank()}: expected to join {world_size()} processes, got: {error}. "
            "Start them with torchrun, or with 'hookline train --nproc N'."
        ) from error
    atexit.register(time.sleep, _REST_S)


def leave() -> None:
    """Leave the other processes after a run that ended well.

    After a failure a process must not: the others may be in a collective, which only its death ends.
    """
    if _active():
        dist.destroy_process_group()


@contextmanager
def together() -> Iterator[None]:
    """Make a command's ranks end as one: they leave each other, or one of them tells of the failure for all.

    Raises:
        SystemExit: In place of an exception that another rank tells of, with the exit code that goes with it.
    """
    try:
        yield
    except Exception as error:
        if world_size() > 1:
            _outlast_the_launcher()
            first = _first_word(error)
            if first.rank != rank() and (_follows(error) or first.cause == _cause(error)):
                sys.exit(first.exit_code)
            if not is_main():
                add_note(error, f"On rank {rank()}.")
        raise
    except BaseException:  # A signal or a time limit paused all of them.
        _outlast_the_launcher()
        leave()
        raise
    else:
        _outlast_the_launcher()
        leave()


def first_failure(error: BaseException) -> BaseException:
    """Leave word to the other ranks that ``error`` ends this one; return what is really to blame.

    That is ``error``, unless another rank failed first and it may be no more than that rank's silence.
    """
    if world_size() == 1 or isinstance(error, RankError):
        return error
    first = _first_word(error)
    if first.rank == rank() or not _follows(error):
        return error
    first.__cause__ = error
    return first


def gather(value: Any) -> list[Any]:
    """Return every rank's ``value``, in rank order, on every rank; waits for all hosts."""
    if not _active():
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def broadcast(value: Any) -> Any:
    """Return rank 0's ``value`` on every rank; waits for rank 0's host."""
    if not _active():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def from_main(call: Callable[[], Result]) -> Result:
    """Return on every rank what ``call`` returns on rank 0, where alone it is called; waits for its host.

    Raises:
        HooklineError: On every rank, what ``call`` raised.
    """
    if not _active():
        return call()
    outcome: tuple[Any, HooklineError | None] = None, None
    if is_main():
        try:
            outcome = call(), None
        except HooklineError as raised:
            outcome = None, raised
    value, error = broadcast(outcome)
    if error is not None:
        raise error
    found: Result = value
    return found


def largest(*values: int) -> list[int]:
    """Return each of ``values`` as it is on the rank where it is largest; waits for hosts, for no device."""
    if not _active():
        return list(values)
    found = torch.tensor(values, dtype=torch.int64)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return [int(value) for value in found.tolist()]


def share(tensors: Iterable[torch.Tensor]) -> None:
    """Give ``tensors`` the values that rank 0 has; their device is not waited for."""
    if _active():
        for tensor in tensors:
            dist.broadcast(tensor.detach(), src=0)


def reduce_metrics(
    means: Mapping[str, torch.Tensor], maxima: Mapping[str, float]
) -> dict[str, torch.Tensor | float]:
    """Return the mean of each of ``means`` and the maximum of each of ``maxima`` over ranks.

    Every rank must give the same names. One gather, on the tensors' device; the host does not wait for it.

    Args:
        means: 0-D tensors, all on one device.
        maxima: Numbers of the host; one process gets them back as they are.
    """
    if not _active():
        return {**means, **maxima}
    device = next(iter(means.values())).device
    # A number is filled in on the device: a copy of it would wait.
    on_device = [torch.full((), value, dtype=torch.float64, device=device) for value in maxima.values()]
    values_N = torch.stack([*(value.detach().double() for value in means.values()), *on_device])
    all_RN = values_N.new_empty((world_size(), len(values_N)))
    dist.all_gather(list(all_RN.unbind()), values_N)
    reduced_N = torch.cat([all_RN[:, : len(means)].mean(0), all_RN[:, len(means) :].amax(0)])
    return dict(zip((*means, *maxima), reduced_N, strict=True))


def _outlast_the_launcher() -> None:
    """Let this rank end by itself: the launcher ends all when it misses one, and exit codes would be lost."""
    if world_size() > 1 and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _active() -> bool:
    return dist.is_available() and dist.is_initialized()


def _connected(timeout: timedelta) -> Any:
    """Return the store in which ranks can leave word also when they are not in a collective."""
    from torch.distributed.rendezvous import rendezvous

    global _store
    if _store is None:
        shared, _, _ = next(rendezvous("env://", timeout=timeout))
        # Ranks that torchrun starts anew may be given the store of those before them, with their words in it.
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        _store = dist.PrefixStore(f"hookline/attempt_{attempt}", shared)  # type: ignore[attr-defined]
    return _store


def _first_word(error: BaseException) -> RankError:
    """Return what the rank that failed first says; that is this one if no other did before."""
    mine = rank(), _cause(error), getattr(error, "exit_code", 1)
    try:
        store = _connected(_FAILURE_TIMEOUT)
        store.set_timeout(_FAILURE_TIMEOUT)
        deadline = time.monotonic() + _MAIN_SPEAKS_FIRST_S
        # What was asked for wrongly is wrong for every rank alike: then it is rank 0 that says so.
        while isinstance(error, HooklineError) and not is_main() and time.monotonic() < deadline:
            if store.check([_FAILURE]):
                break
            time.sleep(0.02)
        return RankError(*json.loads(store.compare_set(_FAILURE, "", json.dumps(mine))))
    except (RuntimeError, ValueError):  # There is no store, or it has ended with rank 0.
        return RankError(*mine)


def _cause(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _follows(error: BaseException) -> bool:
    """Return whether ``error`` may be what a rank gets to see of another one's failure."""
    # A collective with a rank that is gone raises a RuntimeError, and says little more.
    return isinstance(error, (RuntimeError, RankError))
