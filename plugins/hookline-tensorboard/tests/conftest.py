"""A small run whose values are known, written as a trainer would."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hookline import Events, EventStorage, EventWriter, Run

NUM_ITERS = 55
PERIOD = 10


def training(num_iters: int = NUM_ITERS) -> list[Events]:
    """A loss, an lr and a time in every iteration; every 20 an evaluation and one of all other kinds."""
    events: list[Events] = []
    with EventStorage() as storage:
        storage.put_hparams({"lr": 0.1, "batch_size": 4, "nesterov": True, "model": "mlp"})
        for i in range(num_iters):
            storage.put_scalar("total_loss", float(i))
            storage.put_scalar("lr", i / 10, smoothing_hint=False)
            storage.put_scalar("time", 0.25, volatile=True)
            if i % 20 == 19:
                storage.put_scalar("eval/loss", 100.0 + i, smoothing_hint=False)
                storage.put_image("sample", np.full((3, 2, 4), i, np.uint8))
                storage.put_histogram("weights", np.arange(8.0), bins=4)
                storage.put_text("note", f"iteration **{i}**")
            events += storage.step()
    return events


def deliver(writer: EventWriter, events: Iterable[Events], size: int = 7) -> None:
    """Write ``events``, ``size`` at a time."""
    events = list(events)
    for i in range(0, len(events), size):
        writer.write(events[i : i + size])


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    return Run(run_dir, "char-gpt", "20261122-abc", period=PERIOD)


@pytest.fixture
def write_run(run: Run) -> Callable[..., None]:
    """Write a whole run; with ``cut``, one that fails some iterations after the checkpoint at ``cut``."""

    def write(make: Callable[[], EventWriter], cut: int | None = None, status: str = "finished") -> None:
        events = training()
        writer = make()
        writer.open(run)
        state: dict[str, Any] | None = None
        if cut is not None:
            deliver(writer, events[:cut])
            state = writer.state_dict()
            deliver(writer, events[cut : cut + 17])
            writer.close("failed")
            writer = make()
            assert state is not None
            writer.load_state_dict(state)
            writer.open(Run(run.dir, run.name, run.id, start_iter=cut, period=PERIOD))
        deliver(writer, events[cut or 0 :])
        writer.close(status)

    return write


HOUR_S = 3600.0


@pytest.fixture
def write_jumping(run: Run) -> Callable[[Callable[[], EventWriter]], None]:
    """Write a whole run in three attempts, with a clock that goes back an hour, and then forth two."""

    def write(make: Callable[[], EventWriter]) -> None:
        state: dict[str, Any] | None = None
        start = 0
        for saved, stop, clock_s in ((20, 30, 0.0), (33, 45, -HOUR_S), (NUM_ITERS, NUM_ITERS, HOUR_S)):
            events = [replace(event, time_s=event.time_s + clock_s) for event in training()[start:stop]]
            writer = make()
            if state is not None:
                writer.load_state_dict(state)
            writer.open(Run(run.dir, run.name, run.id, start_iter=start, period=PERIOD))
            deliver(writer, events[: saved - start])
            state = writer.state_dict()
            deliver(writer, events[saved - start :])
            writer.close("finished" if stop == NUM_ITERS else "failed")
            start = saved

    return write


@pytest.fixture(name="training")
def _training() -> Callable[..., list[Events]]:
    return training
