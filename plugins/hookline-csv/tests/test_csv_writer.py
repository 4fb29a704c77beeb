"""The table: what is in it, and that nothing which happens to a run shows."""

import csv
import errno
import json
import math
import os
import random
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hookline import Delivery, Events, EventStorage, Run, RunError, Scalar
from hookline_csv import CSVWriter


def run_in(folder: Path) -> Run:
    return Run(folder, "test", "1", period=5)


def scalars(iteration: int, **values: float) -> Events:
    return Events(iteration, 1.0, {name: Scalar(value) for name, value in values.items()})


def training(num_iters=60, seed=0):
    """Scalars that come up early and late, an iteration with none, awkward names and numbers."""
    chance, storage, events = random.Random(seed), EventStorage(), []
    for i in range(num_iters):
        if i % 9 != 5:
            storage.put_scalar("total_loss", math.sin(i) * 10.0 ** (i % 30 - 15))
            storage.put_scalar("time", 0.5, volatile=True)
        if i % 7 == 3:
            storage.put_scalar('eval, "quoted"\r\nloss', (math.nan, math.inf, -math.inf, -0.0)[i % 4])
        if i > 20 and chance.random() < 0.1:
            storage.put_scalar(f"late-{chance.randrange(5)}", i)
        if i % 11 == 5:
            storage.put_text("note", "words")
        events += storage.step()
    return events


def write(folder, events, position=None, **options):
    writer = CSVWriter(**options)
    if position is not None:
        writer.load_state_dict(json.loads(json.dumps(position)))
    writer.open(run_in(folder))
    if events:
        writer.write(events)
    position = writer.state_dict()
    writer.close("finished")
    return position


def rows(path):
    with open(path, newline="") as file:
        return list(csv.reader(file))


def test_there_is_a_row_for_each_iteration_and_a_column_for_each_scalar(tmp_path):
    write(tmp_path, [scalars(0, b=1.0, a=0.1), scalars(3, a=2.0), scalars(4, c=5.0, a=1e300)])
    text = (tmp_path / "metrics.csv").read_bytes()
    assert text == b"iteration,a,b,c\n0,0.1,1.0,\n3,2.0,,\n4,1e+300,,5.0\n"


def test_columns_stand_in_the_order_in_which_they_come_up(tmp_path):
    write(tmp_path, [scalars(0, z=1.0), scalars(1, m=1.0, b=1.0), scalars(2, a=1.0, z=1.0)])
    assert rows(tmp_path / "metrics.csv")[0] == ["iteration", "z", "b", "m", "a"]


def test_numbers_are_exact_and_pandas_reads_those_that_are_not_finite(tmp_path):
    numbers = [0.1, 1e-310, 2.0**53, 1.7976931348623157e308, -math.inf, math.inf, math.nan]
    write(tmp_path, [scalars(i, a=number) for i, number in enumerate(numbers)])
    found = pd.read_csv(tmp_path / "metrics.csv")["a"]
    np.testing.assert_array_equal(found.to_numpy(), numbers)
    assert [row[1] for row in rows(tmp_path / "metrics.csv")[5:]] == ["-Infinity", "Infinity", "NaN"]


def test_any_name_can_be_read_back(tmp_path):
    names = ['a,"b"', "line\nbreak", "carriage\rreturn", "é", "%s", ""]
    write(tmp_path, [scalars(0, first=1.0), Events(1, 0.0, {name: Scalar(2.0) for name in names})])
    header, first, second = rows(tmp_path / "metrics.csv")
    assert header == ["iteration", "first", *sorted(names)]
    assert (first, second) == (["0", "1.0"] + [""] * 6, ["1", ""] + ["2.0"] * 6)


def test_what_is_no_text_at_all_does_not_end_a_run(tmp_path):
    write(tmp_path, [Events(0, 0.0, {"\ud800": Scalar(1.0)})])
    assert (tmp_path / "metrics.csv").read_text() == "iteration,\\ud800\n0,1.0\n"


def test_a_scalar_named_iteration_gives_way(tmp_path):
    write(tmp_path, [Events(7, 0.0, {"iteration": Scalar(3.0), "a": Scalar(1.0)})])
    assert rows(tmp_path / "metrics.csv") == [["iteration", "a"], ["7", "1.0"]]


def test_only_scalars_are_written(tmp_path):
    image = np.zeros((1, 2, 2), np.uint8)
    write(
        tmp_path,
        [Events(0, 1.0, {}, {"image": image}, {}, {"note": "words"}, {"lr": 0.1}), scalars(1, a=1.0)],
    )
    assert rows(tmp_path / "metrics.csv") == [["iteration", "a"], ["1", "1.0"]]


def test_a_run_without_scalars_has_an_empty_table(tmp_path):
    write(tmp_path, [Events(0, 1.0, texts={"note": "words"})])
    assert rows(tmp_path / "metrics.csv") == [["iteration"]]


def test_files_have_the_name_asked_for_or_that_of_the_instance(tmp_path):
    write(tmp_path, [scalars(0, a=1.0)], file="tables/a.csv")
    for name in ("csv", "again"):
        writer = CSVWriter()
        writer.open(replace(run_in(tmp_path), writer=name))
        writer.close("finished")
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.csv")} == {
        "tables/a.csv",
        "metrics.csv",
        "again.csv",
    }


def test_it_is_installed_under_its_name():
    (entry,) = entry_points(group="hookline.writers", name="csv")
    assert entry.load() is CSVWriter


def test_it_is_told_by_a_delivery(tmp_path):
    storage = EventStorage()
    with Delivery(storage, {"csv": CSVWriter()}, run_in(tmp_path)) as delivery:
        for _ in range(25):
            storage.put_scalar("a", storage.iter)
            storage.step()
            if storage.iter % 7 == 0:
                delivery.flush()
    assert delivery.gaps == []
    assert rows(tmp_path / "metrics.csv") == [["iteration", "a"], *([str(i), f"{i}.0"] for i in range(25))]


def test_columns_and_rows_that_follow_the_position_are_cut(tmp_path):
    position = write(tmp_path, [scalars(0, a=1.0), scalars(1, b=1.0)])
    before = (tmp_path / "metrics.csv").read_bytes()
    write(tmp_path, [scalars(2, a=2.0), Events(3, 0.0, {'new "one"\n': Scalar(1.0)})], position)
    write(tmp_path, [], position)
    assert (tmp_path / "metrics.csv").read_bytes() == before


def test_a_table_that_is_there_without_a_position_is_put_aside(tmp_path):
    for name in "abc":
        write(tmp_path, [scalars(0, **{name: 1.0})])
    found = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert found == {
        "metrics.orphaned-0.csv": "iteration,a\n0,1.0\n",
        "metrics.orphaned-0-2.csv": "iteration,b\n0,1.0\n",
        "metrics.csv": "iteration,c\n0,1.0\n",
    }


def test_a_table_without_rows_is_not_kept(tmp_path):
    for _ in range(2):
        write(tmp_path, [])
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


@pytest.mark.parametrize(
    ("damage", "got"),
    [
        ("cut", "4 rows"),
        ("gone", "no file"),
        ("names", "0 rows"),
        ("edited", "other ones"),
        ("header", "other ones"),
    ],
)
def test_a_table_that_changed_before_the_position_is_refused_and_left_as_it_is(tmp_path, damage, got):
    position = write(tmp_path, [scalars(i, a=1.0) for i in range(5)])
    path = tmp_path / "metrics.csv"
    text = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        edits = {
            "names": b'"iterat',
            "cut": text[: text.rindex(b"4,")],
            "edited": text.replace(b"1.0", b"1.5", 1),
            "header": b"x" + text,
        }
        path.write_bytes(text := edits[damage])
        if damage == "header":
            path.write_bytes(text := text.replace(b"1.0", b"2.0"))
    rule = f"metrics.csv: expected the 5 rows that the checkpoint knows of, got '{got}'"
    with pytest.raises(
        RunError, match=rf"{rule}.* leave the writer out: writers-=csv plugins\.on_change=warn"
    ):
        write(tmp_path, [], position)
    assert not list(tmp_path.glob(".tmp-*"))
    assert damage == "gone" or path.read_bytes() == text


def test_a_call_that_failed_half_way_leaves_no_trace(tmp_path, monkeypatch):
    monkeypatch.setattr("hookline.delivery.worker.BACKOFF_S", 0.001)
    real, numbers = os.write, iter(range(1000))

    def torn(descriptor, data):
        if next(numbers) == 2:
            real(descriptor, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data[:100])

    monkeypatch.setattr(os, "write", torn)
    storage = EventStorage()
    with Delivery(storage, {"csv": CSVWriter()}, run_in(tmp_path)) as delivery:
        for _ in range(15):
            storage.put_scalar("a", storage.iter)
            storage.step()
            if storage.iter % 5 == 0:
                delivery.flush()
    assert [row[0] for row in rows(tmp_path / "metrics.csv")[1:]] == [str(i) for i in range(15)]


@pytest.mark.parametrize("seed", range(10))
def test_every_row_is_there_once_wherever_the_run_is_cut_and_killed(tmp_path, seed, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda number: None)
    chance = random.Random(seed)
    events = training(seed=seed)
    write(tmp_path / "whole", events)
    saved = [(0, None)]
    for attempt in range(6):
        done, position = chance.choice(saved)
        saved = [each for each in saved if each[0] <= done]
        writer = CSVWriter()
        if position is not None:
            writer.load_state_dict(json.loads(json.dumps(position)))
        writer.open(run_in(tmp_path / "run"))
        stop = len(events) if attempt == 5 else chance.randrange(done, len(events) + 1)
        while done < stop:
            size = min(chance.randrange(1, 20), stop - done)
            writer.write(events[done : done + size])
            done += size
            if chance.random() < 0.4:  # else it is killed before a checkpoint has its position
                saved.append((done, writer.state_dict()))
        if chance.random() < 0.5 or attempt == 5:
            writer.close("failed")
        elif chance.random() < 0.5:
            with (tmp_path / "run/metrics.csv").open("ab") as file:
                file.write(b"17,0.")  # and in the middle of a row
            (tmp_path / "run/.tmp-metrics.csv").write_bytes(b"iterat")
    assert (tmp_path / "run/metrics.csv").read_bytes() == (tmp_path / "whole/metrics.csv").read_bytes()
    left = {path.name for path in (tmp_path / "run").iterdir() if "orphaned" not in path.name}
    assert left == {"metrics.csv"}
