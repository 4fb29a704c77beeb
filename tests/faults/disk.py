"""The job on a disk that is full, or that cannot be written: a small file system in memory, of its own."""

from __future__ import annotations

import ctypes
import os
import traceback
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from calls import said_once
from job import Outcome, Trials, difference, finish, place, reference, runs

from hookline import CheckpointError, checkpoint

__all__ = ["full_disk", "read_only_disk", "unusable", "used_bytes"]

_CLONE_NEWNS, _CLONE_NEWUSER = 0x00020000, 0x10000000
_MS_RDONLY, _MS_REMOUNT, _MS_REC, _MS_PRIVATE = 1, 32, 16384, 1 << 18
_PLENTY = "64m"


@cache
def unusable() -> str:
    """Return why no file system can be mounted here, or nothing."""
    return _on_a_disk(lambda disk: "", _PLENTY)


@cache
def used_bytes() -> int:
    """Return how much disk the whole job takes."""
    with place() as root:
        assert finish(root).code == 0
        return sum(path.lstat().st_blocks * 512 for path in root.rglob("*"))


def full_disk(sizes: Sequence[int], patches: Sequence[str] = ()) -> Trials:
    """Train on disks of so many bytes; then there is room, and the job goes on to its end."""
    done, (wanted, _) = Trials(), reference()
    for size in sizes:
        wrong = _on_a_disk(lambda disk: _fill(disk, wanted, patches), str(size))
        done.trials += 1
        if wrong.startswith("full"):
            done.kills += 1
            wrong = wrong.removeprefix("full")
        if wrong:
            done.failures.append(f"a disk of {size} bytes: {wrong}")
    return done


def read_only_disk() -> str:
    """Return what is wrong when ``run.dir`` cannot be written, or nothing."""
    return _on_a_disk(_read_only, _PLENTY)


def _fill(disk: Path, wanted: Outcome, patches: Sequence[str]) -> str:
    output = disk.parent / "output.txt"  # on another disk: what is printed is to be seen
    ending = finish(disk, patches=patches, output=output)
    wrong = said_once(ending) or (_loads(disk) if ending.code else "")
    _mount(disk, _PLENTY, _MS_REMOUNT)
    if not wrong:
        again = finish(disk, patches=patches, output=output)
        wrong = (
            difference(disk, wanted)
            if again.code == 0
            else f"then exit code {again.code}:\n{again.output[-2000:]}"
        )
    return ("full" if ending.code else "") + wrong


def _loads(disk: Path) -> str:
    """Return why the newest checkpoint cannot be used, where one was complete; or nothing."""
    for run in runs(disk) if (disk / "job").is_dir() else ():
        if any((run / "checkpoints").glob("iter_*")):
            try:
                checkpoint.load(checkpoint.resolve(run))
            except CheckpointError as error:
                return str(error)
    return ""


def _read_only(disk: Path) -> str:
    mark = disk.parent / "began"
    _mount(disk, _PLENTY, _MS_REMOUNT | _MS_RDONLY)
    began = ["before_step", 0, "acts:mark", [str(mark)]]
    ending = finish(disk, acts=[began], output=disk.parent / "output.txt")
    if ending.code != 2 or mark.exists() or str(disk) not in ending.output:
        return f"exit code {ending.code}, an iteration ran: {mark.exists()}:\n{ending.output}"
    return said_once(ending)


def _on_a_disk(act: Callable[[Path], str], size: str) -> str:
    """Return what ``act`` says of a disk of ``size``, in a fork: only there it is mounted."""
    with place() as root:
        disk = root / "disk"
        disk.mkdir()
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                _mount_here(disk, size)
                said = act(disk)
            except BaseException:
                said = traceback.format_exc()
            os.write(write, said.encode()[-4000:] or b"\0")
            os._exit(0)
        os.close(write)
        with open(read, "rb") as pipe:
            said = pipe.read().decode(errors="replace").strip("\0")
        os.waitpid(pid, 0)
        return said


def _mount_here(disk: Path, size: str) -> None:
    user, group = os.getuid(), os.getgid()
    _check(_LIBC.unshare(_CLONE_NEWUSER | _CLONE_NEWNS), "unshare")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    _check(_LIBC.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None), "mount")
    _mount(disk, size)


def _mount(disk: Path, size: str, flags: int = 0) -> None:
    _check(_LIBC.mount(b"tmpfs", bytes(disk), b"tmpfs", flags, f"size={size}".encode()), "mount")


def _check(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
