"""A small run whose every value is known, and writers of it that are killed."""

import math
import random
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from hookline import Events, EventStorage, Run
from hookline_json import JSONWriter


def training(num_iters: int = 40) -> list[Events]:
    """Scalars of every kind, some now and then, texts, an iteration without anything, one with times alone."""
    storage, events = EventStorage(), []
    for i in range(num_iters):
        if i % 17 != 5:
            if i % 13 != 4:
                storage.put_scalar("total_loss", math.sin(i) * 10.0 ** (i % 30 - 15))
                storage.put_scalar("lr", 0.1 * 0.9**i, smoothing_hint=False)
            storage.put_scalars(time=0.25 + i, data_time=1 / 3, volatile=True)
            if i % 7 == 3:
                storage.put_scalar(
                    "eval/loss", (math.nan, math.inf, -math.inf, -0.0)[i % 4], smoothing_hint=False
                )
            if i % 11 == 6:
                storage.put_text("note", ("NaN", 'é "quoted" \u2028\n', "Infinity")[i % 3])
        for event in storage.step():
            vars(event)["time_s"] = 1000.0 + i
            events.append(event)
    return events


def tell(
    folder: Path,
    events: Sequence[Events],
    position: Mapping[str, Any] | None = None,
    generation: int = 0,
    end: str | None = "paused",
) -> dict[str, Any]:
    """Tell a writer of ``events``, as a process of that generation does; without ``end`` it is left open."""
    writer = JSONWriter()
    if position is not None:
        writer.load_state_dict(position)
    writer.open(Run(folder, "test", "1", period=5, generation=generation))
    if events:
        writer.write(events)
    position = writer.state_dict()
    if end:
        writer.close(end)
    return position


def portions(events: Sequence[Events], chance: random.Random) -> list[Sequence[Events]]:
    """Cut ``events`` anywhere."""
    cuts = sorted({0, len(events), *(chance.randrange(len(events) + 1) for _ in range(9))})
    return [events[start:end] for start, end in pairwise(cuts)]


@pytest.fixture(name="training")
def _training():
    return training


@pytest.fixture(name="tell")
def _tell():
    return tell


@pytest.fixture(name="portions")
def _portions():
    return portions
