"""Keep what is needed to run an iteration that went wrong once more."""

from __future__ import annotations

import logging
import math
import os
import shlex
import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field

from hookline import capsules, checkpoint, distributed
from hookline.data import Loader
from hookline.errors import NonFiniteError, PluginError, RunError, add_note
from hookline.events import Events, EventStorage
from hookline.hookspecs import HookBase
from hookline.rundir import RunDir

__all__ = ["Capsule"]

_log = logging.getLogger(__name__)

_LEAST_KEPT = 4


@dataclass
class _Begun:
    """What an iteration began with; batches by reference, as the loader gave them."""

    iteration: int
    rng: dict[str, Any]
    is_drawn: bool
    batches: Sequence[Any] = ()
    position: Mapping[str, int] | None = None


class Capsule(HookBase):
    """Keeps the batch of an iteration that went wrong, and all else that ``hookline replay`` needs to run it.

    That is one whose loss or gradients are not finite, also where ``train.max_skips`` lets the run go on, and
    one whose total loss is a spike. Of several such iterations in a row the first is kept. Each process keeps
    its own, in ``capsules/iter_<iteration>`` of the run directory; those of rank R in ``capsules/rank_<R>``.
    What cannot be written is told in a warning, and the run goes on.

    It holds the batches of the iterations whose values have not arrived yet: on a CPU those of one, on CUDA
    those of up to two log periods, where the loader put them. A model must not change its batch in place.

    Args:
        spike: How many times the median of the last ``window`` total losses is a spike; 0 looks for none.
        window: How many losses that median is of; there is no spike before so many.
        keep: How many capsules to keep, the newest; at least 2.
        dir: Where; by default ``capsules`` in the run directory.
    """

    observer = True
    graph_safe = True

    def __init__(
        self,
        spike: Annotated[float, Field(ge=0)] = 0.0,
        window: Annotated[int, Field(ge=2)] = 50,
        keep: Annotated[int, Field(ge=2)] = 5,
        dir: str | None = None,
    ) -> None:
        self.spike, self.window, self.keep, self.dir = spike, window, keep, dir
        self._losses: deque[float] = deque(maxlen=window)
        self._last_bad = -2
        self._ledger = checkpoint.Ledger()
        self._begun: deque[_Begun] = deque()
        self._is_told = False
        self._storage: EventStorage | None = None
        self._folder = Path()
        self._checkpoint: Path | None = None
        self._written: Path | None = None

    def before_train(self) -> None:
        """Begin to look at what is measured."""
        trainer: Any = self.trainer
        self._folder = self._own_folder()
        # Values arrive when a period has ended, and the host may be another one ahead of its device.
        self._begun = deque(maxlen=max(3 * trainer.log_period, _LEAST_KEPT))
        self._is_told, self._written = False, None
        if hasattr(trainer, "on_drawn"):
            trainer.on_drawn.append(self._on_drawn)
        trainer.storage.attach(self._look)
        self._storage = trainer.storage

    def before_step(self) -> None:
        """Note the random generators, where nobody tells when the batches are drawn."""
        if not self._is_told:
            self._begin(is_drawn=False)

    def after_step(self) -> None:
        """Note the batches."""
        trainer: Any = self.trainer
        batches = getattr(trainer, "microbatches", ())
        if not batches:
            raise PluginError(
                f"{self.name}: expected a trainer that shows its batches, got {type(trainer).__name__}. "
                "Set self.microbatches to a list of them in run_step."
            )
        begun, loader = self._begun[-1], getattr(trainer, "data_loader", None)
        begun.batches = batches
        if isinstance(loader, Loader):
            begun.position = loader.state_dict()

    def after_save(self, path: Path) -> None:
        """Note the newest checkpoint."""
        self._checkpoint = path

    def after_load(self, path: Path) -> None:
        """Note the checkpoint that the run goes on from."""
        self._checkpoint = path

    def on_error(self, error: BaseException) -> None:
        """Say, with an error about what is not finite, how to run that iteration again."""
        if isinstance(error, NonFiniteError) and self._written is not None:
            which = "Its" if error.num_skipped == 1 else "The first one's"
            add_note(error, f"{which} batch is kept. Look into it with: {_command(self._written)}")

    def after_train(self) -> None:
        """Look no more."""
        trainer: Any = self.trainer
        if self._storage is not None:
            self._storage.detach(self._look)
            self._storage = None
        if self._on_drawn in getattr(trainer, "on_drawn", ()):
            trainer.on_drawn.remove(self._on_drawn)
        self._begun.clear()

    def state_dict(self) -> dict[str, Any]:
        """Return the last losses, and the last iteration that went wrong."""
        return {"losses": list(self._losses), "last_bad": self._last_bad}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on comparing with these."""
        self._losses = deque(state["losses"], maxlen=self.window)
        self._last_bad = state["last_bad"]

    def _own_folder(self) -> Path:
        """Return the folder that holds the capsules of this process."""
        rank = distributed.rank()
        if self.dir is not None:
            return Path(self.dir) / f"rank_{rank}" if rank else Path(self.dir)
        if self.trainer.run_dir is None:
            raise RunError(
                f"{self.name}: expected a folder for capsules, got a trainer without a run directory. "
                "Set the option 'dir', or trainer.run_dir."
            )
        return capsules.folder_of(self.trainer.run_dir, rank)

    def _on_drawn(self) -> None:
        self._is_told = True
        self._begin(is_drawn=True)

    def _begin(self, is_drawn: bool) -> None:
        iteration = self.trainer.iter
        if self._begun and self._begun[-1].iteration == iteration:
            self._begun.pop()
        self._begun.append(_Begun(iteration, checkpoint.capture(), is_drawn))

    def _look(self, events: Sequence[Events]) -> None:
        """Judge what has arrived, and let go of what nothing more will be asked of."""
        for event in events:
            self._judge(event)
            while self._begun and self._begun[0].iteration <= event.iteration:
                self._begun.popleft()

    def _judge(self, event: Events) -> None:
        loss, norm = event.values.get("total_loss", 0.0), event.values.get("grad_norm", 0.0)
        # An infinite norm is ordinary: with fp16 the scale is lowered then, and training goes on.
        is_bad = math.isnan(norm) or not math.isfinite(loss)
        median = self._exceeded_median(loss)
        if math.isfinite(loss) and "total_loss" in event.values:
            self._losses.append(loss)
        if not is_bad and median is None:
            return
        is_first = event.iteration != self._last_bad + 1
        self._last_bad = event.iteration
        if is_first:
            self._keep(event, None if is_bad else median)

    def _exceeded_median(self, loss: float) -> float | None:
        """Return the median that ``loss`` is a spike over, or None where it is none."""
        if not self.spike or len(self._losses) < self.window:
            return None
        median = statistics.median(self._losses)
        return median if 0 < self.spike * median < loss < math.inf else None

    def _keep(self, event: Events, median: float | None) -> None:
        shown = ", ".join(f"{name}={value:g}" for name, value in _measured(event).items())
        self._written = None
        try:
            self._written = self._write(event, median)
            checkpoint.retain(self._folder, self.keep, fence=self._fence, ledger=self._ledger)
        except Exception as error:  # To look into an iteration is worth less than the run that goes on.
            _log.warning("Iteration %d (%s) could not be kept: %s", event.iteration, shown, error)
            return
        _log.warning("Iteration %d (%s) is kept: %s", event.iteration, shown, _command(self._written))

    def _write(self, event: Events, median: float | None) -> Path:
        trainer: Any = self.trainer
        begun = next((one for one in self._begun if one.iteration == event.iteration), None)
        if begun is None:
            raise RunError(f"{self.name}: expected its batch to be at hand, got its values too late.")
        # Only the kernel tells of a norm that is NaN, and then it has not touched the weights.
        is_clean = math.isnan(event.values.get("grad_norm", 0.0)) and trainer.iter == event.iteration
        is_enough = is_clean and _has_only_a_model(trainer)
        run_dir: Path | None = trainer.run_dir
        capsule = capsules.Capsule(
            iteration=event.iteration,
            why="non-finite" if median is None else "spike",
            values=_measured(event),
            median=median,
            max_iter=trainer.max_iter,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
            generation=trainer.generation,
            config=_config_in(run_dir),
            checkpoint=self._newest_checkpoint(run_dir),
            is_drawn=begun.is_drawn,
            samples=_samples(getattr(trainer, "data_loader", None), begun),
            batches=list(begun.batches),
            rng=begun.rng,
            # All ranks have the same ones.
            weights=trainer.model.state_dict() if is_enough and distributed.is_main() else None,
            versions={"hookline": version("hookline"), "torch": str(torch.__version__)},
        )
        path = capsules.write(self._folder, capsule, self._fence, self._ledger)
        if capsule.weights is None and self._checkpoint is not None and distributed.is_main():
            # What a pointer names is not deleted with the old ones.
            checkpoint.write_pointer(self._checkpoint.parent, "capsule", self._checkpoint)
        return path

    def _fence(self) -> None:
        trainer = self.trainer
        if trainer.run_dir is not None and trainer.generation:
            RunDir(trainer.run_dir).check_generation(trainer.generation)

    def _newest_checkpoint(self, run_dir: Path | None) -> str | None:
        path = self._checkpoint
        if run_dir is not None and not distributed.is_main():  # Only rank 0 is told of what is saved.
            path = checkpoint.read_pointer(run_dir / "checkpoints", "latest") or path
        if path is None:
            return None
        is_within = self.dir is None and run_dir is not None and path.is_relative_to(run_dir)
        return str(path.relative_to(run_dir) if is_within and run_dir is not None else path.absolute())


def _has_only_a_model(trainer: Any) -> bool:
    """Return whether losses depend on the weights of ``trainer.model`` alone: whoever has more saves more."""
    module: str = type(trainer).state_dict.__module__
    return module.partition(".")[0] == "hookline"


def _measured(event: Events) -> dict[str, float]:
    """Return what the kernel measured: the losses, the gradient norm and the loss scale."""
    return {
        name: scalar.value
        for name, scalar in event.scalars.items()
        if not scalar.volatile and "/" not in name and ("loss" in name or name == "grad_norm")
    }


def _samples(loader: Any, begun: _Begun) -> list[dict[str, Any]] | None:
    """Return epoch, number and sample indices of each batch, back from where the loader was after them.

    None where nobody knows.
    """
    if begun.position is None or not begun.is_drawn:
        return None  # A run_step of somebody's own may make batches of what it has drawn.
    epoch, number = begun.position["epoch"], begun.position["batch"]
    found: list[dict[str, Any]] = []
    for _ in begun.batches:
        if number == 0:
            epoch, number = epoch - 1, begun.position["num_batches"]
        number -= 1
        found.append({"epoch": epoch, "batch": number, "indices": loader.indices_of(epoch, number)})
    return found[::-1]


def _config_in(run_dir: Path | None) -> str | None:
    file = run_dir / "config.yaml" if run_dir is not None else None
    return file.read_text("utf-8") if file is not None and file.is_file() else None


def _command(path: Path) -> str:
    here = Path.cwd()
    shown = path.relative_to(here) if path.is_relative_to(here) else path
    return shlex.join(["hookline", "replay", os.fspath(shown)])
