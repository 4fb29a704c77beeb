"""Histories that learn of an iteration when somebody reads them."""

import math
import random

import numpy as np

from hookline.events import EventStorage, History
from hookline.events.histories import MAX_TAKEN, Histories


def nothing() -> None:
    pass


def test_reading_never_changes_what_is_read_later():
    often, never = EventStorage(), EventStorage()
    alone = {name: History() for name in ("loss", "lr", "odd")}
    draw = random.Random(0)
    for iteration in range(3 * MAX_TAKEN):
        values = {"loss": draw.gauss(0, 1), "lr": 1e-3 / (iteration + 1)}
        if iteration % 3:
            values["odd"] = math.sin(iteration)
        for storage in (often, never):
            storage.put_scalars(values)
        for name, value in values.items():
            alone[name].update(value, iteration)
        if iteration % 7 == 0:
            assert often.history("loss").latest() == values["loss"]
        often.step()
        never.step()
        if iteration % 11 == 0:
            often.latest_with_smoothing_hint()
    for name, history in alone.items():
        np.testing.assert_equal(often.history(name).state_dict(), history.state_dict())
        np.testing.assert_equal(never.history(name).state_dict(), history.state_dict())


def test_a_history_that_somebody_keeps_is_always_up_to_date():
    storage = EventStorage()
    storage.put_scalar("loss", 1.0)
    kept = storage.history("loss")
    storage.put_scalar("loss", 2.0)
    assert kept.latest() == 1.5
    reads = {
        "latest": kept.latest,
        "median": lambda: kept.median(3),
        "avg": lambda: kept.avg(2),
        "global_avg": kept.global_avg,
        "count_since": lambda: kept.count_since(3),
        "values": lambda: kept.values()[-2:],
        "state_dict": lambda: kept.state_dict()["iterations"].tolist(),
    }
    expected = [1.0, 1.5, 2.5, 11.5 / 5, 3, [(5.0, 5), (6.0, 6)], [0, 1, 2, 3, 4, 5, 6, 7]]
    for iteration, (read, value) in enumerate(zip(reads, expected, strict=True), start=1):
        storage.step()
        storage.put_scalar("loss", float(iteration))
        assert reads[read]() == value, read


def test_what_waits_to_be_read_is_bounded():
    histories = Histories(nothing)
    for iteration in range(10 * MAX_TAKEN):
        histories.take(iteration, {"loss": 1.0})
        assert len(histories._taken) < MAX_TAKEN
    histories.sort_in()
    assert histories.by_name["loss"].global_avg() == 1.0


def test_values_of_an_iteration_that_arrive_later_take_their_place():
    histories = Histories(nothing)
    for iteration, values in [(0, {"lr": 0.1}), (1, {"lr": 0.2}), (0, {"loss": 1.0}), (1, {"loss": 2.0})]:
        histories.take(iteration, values)
    histories.take(3, {"loss": 4.0})
    histories.take(2, {"loss": 3.0})
    histories.sort_in()
    assert histories.by_name["loss"].values() == [(1.0, 0), (2.0, 1), (3.0, 2), (4.0, 3)]
    assert histories.by_name["lr"].values() == [(0.1, 0), (0.2, 1)]
