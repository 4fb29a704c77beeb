"""Find what makes the host wait for the device within an iteration: whose call it was, and which line."""

from __future__ import annotations

import linecache
import logging
import os
import sys
import sysconfig
import threading
import warnings
import weakref
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from traceback import walk_stack, walk_tb
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch

from hookline.errors import RunError
from hookline.plugins import HookCall

if TYPE_CHECKING:
    from hookline.trainer.base import TrainerBase

__all__ = ["SyncCheck", "SyncCheckMode", "checking"]

SyncCheckMode = Literal["off", "warn", "error"]

# Source: c10/cuda/CUDAFunctions.cpp, warn_or_error_on_sync; a warning has its place in C++ after it.
_WAITED = "called a synchronizing CUDA operation"
# Source: torch/csrc/cuda/Module.cpp, THCPModule_cudaSetSyncDebugMode; the docs say what is not found.
_NOTICE = "Synchronization debug mode is a prototype"
_EVERY_ITERATION = ("before_step", "after_backward", "after_step")

_LOOP = str(Path(__file__).with_name("base.py"))
_HOOKLINE = str(Path(__file__).parents[1]) + os.sep
_TORCH = str(Path(torch.__file__).parent) + os.sep
_STANDARD = sysconfig.get_path("stdlib") + os.sep
_INSTALLED = ("site-packages", "dist-packages")  # They may lie within the standard library's folder.

_log = logging.getLogger(__name__)


@contextmanager
def checking(trainer: TrainerBase) -> Iterator[SyncCheck | None]:
    """Check ``trainer``'s iterations as its ``sync_check`` says; None where nothing is checked.

    Raises:
        RunError: If it says something else.
    """
    if trainer.sync_check not in get_args(SyncCheckMode):
        raise RunError(f"sync_check: expected one of off, warn, error, got {trainer.sync_check!r}.")
    if trainer.sync_check == "off":
        yield None
        return
    device = getattr(trainer, "device", None)
    if device.type != "cuda" if device is not None else not torch.cuda.is_available():
        _log.warning("train.sync_check: there is nothing to check, since no CUDA device is used.")
        yield None
        return
    check = SyncCheck(trainer, trainer.sync_check)
    trainer.hooks.watch(check)
    try:
        with check.listening():
            yield check
    finally:
        trainer.hooks.unwatch(check)


class SyncCheck:
    """Switches CUDA's debug mode on around calls, and says of a wait whose call it was, and where.

    The mode is that of the process: another thread that waits for a device meanwhile is found as well. The
    first iteration is not checked, because what is done in it once, such as compiling, may wait.

    Args:
        trainer: Whose calls they are.
        mode: ``warn`` logs each place once, ``error`` ends the run at the first.
    """

    def __init__(self, trainer: TrainerBase, mode: SyncCheckMode) -> None:
        self._trainer = weakref.ref(trainer)
        self._sources = trainer.hooks.sources
        self._mode = mode
        self._thread = threading.get_ident()
        self._callers: list[str] = []
        self._told: set[tuple[str, str, int]] = set()

    def __call__(self, call: HookCall) -> AbstractContextManager[None]:
        """Return what checks ``call``, if it is one within an iteration."""
        if call.hook not in _EVERY_ITERATION:
            return nullcontext()
        return self._checked(f"{call.hook} of plugin {call.plugin!r} ({self._sources[call.plugin]})")

    def run_step(self) -> AbstractContextManager[None]:
        """Return what checks ``run_step``: data, model and update."""
        return self._checked("run_step")

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the warnings of a wait for the time of a run; all others go where they went before.

        For the time of a run, and not of each call, because changed filters make Python repeat what it has
        warned of already.
        """
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=_NOTICE)
            warnings.filterwarnings("always", message=_WAITED)
            former = warnings.showwarning

            def show(message: Warning | str, *others: Any, **more: Any) -> None:
                if self._callers and _WAITED in str(message):
                    self._warn(_place(walk_stack(sys._getframe(1))))
                else:
                    former(message, *others, **more)

            warnings.showwarning = show
            yield

    @contextmanager
    def _checked(self, caller: str) -> Iterator[None]:
        trainer = self._trainer()
        if trainer is None or trainer.iter == trainer.start_iter:
            yield
            return
        former = torch.cuda.get_sync_debug_mode()
        self._callers.append(caller)
        torch.cuda.set_sync_debug_mode(self._mode)
        try:
            yield
        except RuntimeError as error:
            if _WAITED not in str(error):
                raise
            frames = reversed(list(walk_tb(error.__traceback__)))
            raise RunError(self._described(caller, _place(frames))) from error
        finally:
            torch.cuda.set_sync_debug_mode(former)
            self._callers.pop()

    def _warn(self, place: tuple[str, int, str]) -> None:
        is_ours = threading.get_ident() == self._thread
        caller = self._callers[-1] if is_ours else f"thread {threading.current_thread().name!r}"
        file, line, _ = place
        if (caller, file, line) not in self._told:
            self._told.add((caller, file, line))
            _log.warning("%s", self._described(caller, place))

    def _described(self, caller: str, place: tuple[str, int, str]) -> str:
        file, line, function = place
        code = linecache.getline(file, line).strip()
        where = f"{file}:{line}, in {function}" + (f": {code}" if code else "")
        trainer = self._trainer()
        return (
            "train.sync_check: expected an iteration that never waits for the device, got a wait in "
            f"{caller}, iteration {trainer.iter if trainer else '?'}. It is at {where}. "
            "Keep the value on the device: storage.put_scalar takes a tensor as it is."
        )


def _place(frames: Iterable[tuple[FrameType, int]]) -> tuple[str, int, str]:
    """Return file, line and function of the innermost of ``frames`` that is neither torch's nor ours.

    If there is none, because hookline itself waited, of the innermost of ours.

    Args:
        frames: Innermost first; none outside of the loop is looked at.
    """
    ours = None
    for frame, line in frames:
        file = frame.f_code.co_filename
        if file == _LOOP:
            break
        place = file, line, frame.f_code.co_name
        if file.startswith(_HOOKLINE):
            ours = ours or place
        elif not _is_torchs_or_pythons(file):
            return place
    return ours or ("unknown", 0, "unknown")


def _is_torchs_or_pythons(file: str) -> bool:
    if file.startswith((_TORCH, "<frozen ")):
        return True
    return file.startswith(_STANDARD) and not any(folder in file for folder in _INSTALLED)
