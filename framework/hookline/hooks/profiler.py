"""Where the time of a few iterations goes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field

from hookline import distributed
from hookline.errors import PluginError, RunError
from hookline.hookspecs import HookBase

__all__ = ["Profiler"]

_log = logging.getLogger(__name__)


class Profiler(HookBase):
    """Records ``num_iters`` iterations with torch's profiler, into ``profile/`` of the run directory.

    The file opens in a browser (``chrome://tracing`` or Perfetto) and in TensorBoard's profile plugin.

    Args:
        start: Iterations, from the first of this process, before recording begins.
        num_iters: Iterations to record, after one to warm the profiler up.
        record_shapes: Record the shapes of operators' inputs.
        profile_memory: Record allocations.
        with_stack: Record the Python lines that called each operator; slower.
        dir: Where; by default ``profile`` in the run directory.
    """

    observer = True
    graph_safe = True

    def __init__(
        self,
        start: Annotated[int, Field(ge=0)] = 10,
        num_iters: Annotated[int, Field(ge=1)] = 3,
        record_shapes: bool = False,
        profile_memory: bool = False,
        with_stack: bool = False,
        dir: str | None = None,
    ) -> None:
        self.start, self.num_iters, self.dir = start, num_iters, dir
        self._options: dict[str, Any] = {
            "record_shapes": record_shapes,
            "profile_memory": profile_memory,
            "with_stack": with_stack,
        }
        self._profile: torch.profiler.profile | None = None
        self.folder = Path()

    def before_train(self) -> None:
        """Start the profiler; it records nothing yet."""
        others = [plugin.name for plugin in self.trainer.hooks.get_plugins() if isinstance(plugin, Profiler)]
        if len(others) > 1:  # two at once end the process with a segmentation fault (torch 2.13)
            raise PluginError(
                f"{self.name}: expected one profiler in a run, got {', '.join(sorted(others))}. "
                "Remove all but one: torch can record only one profile at a time."
            )
        self.folder = Path(self.dir) if self.dir is not None else self._default_dir()
        handler = torch.profiler.tensorboard_trace_handler(str(self.folder), f"rank{distributed.rank()}")
        schedule = torch.profiler.schedule(wait=self.start, warmup=1, active=self.num_iters, repeat=1)
        self._profile = torch.profiler.profile(schedule=schedule, on_trace_ready=handler, **self._options)
        self._profile.start()

    def after_step(self) -> None:
        """Move the profiler on; stop it when it has what it needs."""
        if self._profile is None:
            return
        self._profile.step()
        if self.trainer.iter + 1 - self.trainer.start_iter >= self.start + 1 + self.num_iters:
            self._stop()

    def after_train(self) -> None:
        """Stop the profiler if the run was shorter than what was to be recorded."""
        self._stop()

    def _stop(self) -> None:
        if self._profile is not None:
            self._profile.stop()
            self._profile = None
            _log.info("Profile written to %s", self.folder)

    def _default_dir(self) -> Path:
        if self.trainer.run_dir is None:
            raise RunError(
                f"{self.name}: expected a folder for the profile, got a trainer without a run directory. "
                "Set the option 'dir', or trainer.run_dir."
            )
        return self.trainer.run_dir / "profile"
