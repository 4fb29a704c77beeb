"""The writer: which events it sends, and how a resumed run goes on."""

from __future__ import annotations

import json
import logging
import shlex
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from hookline import Events, EventWriter, PeriodReducer, Run

__all__ = ["WandbWriter"]

# W&B uploads every 15 s, and only while this process lives.
UPLOAD_S = 60.0

logger = logging.getLogger("hookline")


class WandbWriter(EventWriter):
    """Sends scalars, images, histograms, texts, hyper-parameters and the config to Weights & Biases.

    What is left out of the first six options comes from W&B's own environment variables and settings.

    Args:
        project: Project at W&B; without any, the name of the run.
        entity: User or team at W&B.
        mode: ``online``, ``offline`` (to disk, without a network, for ``wandb sync``) or ``disabled``.
        name: Name of the run at W&B; without any, its id there.
        tags: Tags of the run.
        group: Group of runs that it belongs to.
        every_value: Send every value of every scalar, instead of one point per period.
        init_timeout_s: Longest wait for W&B at the start, seconds.
    """

    def __init__(
        self,
        *,
        project: str | None = None,
        entity: str | None = None,
        mode: Literal["online", "offline", "disabled"] | None = None,
        name: str | None = None,
        tags: Sequence[Annotated[str, Field(min_length=1, max_length=64)]] = (),
        group: str | None = None,
        every_value: bool = False,
        init_timeout_s: Annotated[float, Field(gt=0)] = 15.0,
    ) -> None:
        self._options = {
            "project": project,
            "entity": entity,
            "mode": mode,
            "name": name,
            "tags": tuple(tags),
            "group": group,
        }
        self._every_value = every_value
        self._init_timeout_s = init_timeout_s
        self._state: Mapping[str, Any] = {}
        self._wandb_run: Any = None
        self._offline: Path | None = None
        # What was handed to W&B and may not be there yet: time, iteration, and the events, packed.
        self._recent: deque[tuple[float, int, Any]] = deque()
        # Every iteration up to this one is at W&B, or on its way.
        self._sent = -1

    def open(self, run: Run) -> None:
        """Start the run at W&B or go on with it; after a failed write, go on with the one that is started."""
        is_first = run.writer in ("", "wandb", type(self).__name__)
        own_id = run.id if is_first else f"{run.id}-{run.writer}"
        self._id: str = self._state.get("id", own_id)
        self._attempt = run.generation
        self._reducer = PeriodReducer(0 if self._every_value else run.period, run.start_iter)
        if self._state:
            self._reducer.load_state_dict(self._state["reducer"])
        if self._wandb_run is None and self._options["mode"] != "disabled":
            self._start(run)
        self._log([_unpacked(entry) for entry in self._state.get("recent", ())])

    def write(self, events: Sequence[Events]) -> None:
        """Hand the events of the periods that are complete to W&B, which sends them on its own."""
        self._log(self._reducer.reduce(events))

    def state_dict(self) -> dict[str, Any]:
        """Return the id at W&B, the last iteration that is safe there, and all that followed it."""
        if self._wandb_run is not None:
            self._forget_what_is_safe()
        return {
            "id": self._id,
            "sent": self._recent[0][1] - 1 if self._recent else self._sent,
            "recent": [entry for _, _, entry in self._recent],
            "reducer": self._reducer.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the position that ``open`` goes on from."""
        self._state = state

    def close(self, status: str) -> None:
        """Send the unfinished period, unless the run is only paused, and wait for the uploads."""
        if self._wandb_run is None:
            return
        if status != "paused":
            self._log(self._reducer.flush())
        self._session.finish(self._wandb_run, exit_code=1 if status == "failed" else 0)

    def view_command(self) -> str | None:
        """Return the command that uploads an offline run, all processes of it; None for others."""
        return (
            None if self._offline is None else f"wandb sync {shlex.quote(str(self._offline))}/offline-run-*"
        )

    def _start(self, run: Run) -> None:
        from hookline_wandb import rows, session

        self._rows, self._session = rows, session
        self._wandb_run = session.start(run, self._id, self._options, self._init_timeout_s)
        for name in ("iteration", "attempt"):
            self._wandb_run.define_metric(name, hidden=True)
        self._wandb_run.define_metric("*", step_metric="iteration", step_sync=False)
        if self._wandb_run.offline:
            self._sent = self._state.get("sent", -1)
            self._offline = run.dir / "wandb"
            logger.info("wandb: this run is offline, in %s", run.dir / "wandb")
        else:
            self._sent = session.last_iteration(self._wandb_run)
            logger.info("wandb: this run is %s", self._wandb_run.url)

    def _log(self, events: Sequence[Events]) -> None:
        for event in events:
            if self._wandb_run is None or event.iteration <= self._sent:
                continue
            if event.hparams:
                self._wandb_run.config.update(self._rows.utf8(dict(event.hparams)), allow_val_change=True)
            self._wandb_run.log(self._rows.row(event, self._attempt))
            self._sent = event.iteration
            self._recent.append((time.monotonic(), event.iteration, _packed(event)))

    def _forget_what_is_safe(self) -> None:
        """Forget of the recent events those that W&B keeps even if this process is killed now."""
        if self._wandb_run.offline and self._recent:
            self._session.wait_for_disk(self._wandb_run)
            self._recent.clear()
        while self._recent and self._recent[0][0] < time.monotonic() - UPLOAD_S:
            self._recent.popleft()


def _packed(event: Events) -> Any:
    """Return ``event`` as one string, and its arrays if it has any: a position is copied often."""
    state = event.to_state()
    arrays = {kind: state.pop(kind) for kind in ("images", "histograms")}
    return [json.dumps(state), arrays] if any(arrays.values()) else json.dumps(state)


def _unpacked(entry: Any) -> Events:
    text, arrays = (entry, {"images": {}, "histograms": {}}) if isinstance(entry, str) else entry
    return Events.from_state({**json.loads(text), **arrays})
