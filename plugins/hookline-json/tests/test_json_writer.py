"""The journal: what is in it, and that nothing which happens to a run shows."""

import io
import json
import math
import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from hookline import Delivery, Events, EventStorage, Run, RunError, Scalar, WriterError
from hookline.checkpoint import decode, encode
from hookline_json import JSONWriter


def run_in(path: Path, period: int = 5) -> Run:
    return Run(dir=path, name="test", id="1", period=period)


def scalars(iteration: int, **values: float) -> Events:
    return Events(iteration, 1.0, {name: Scalar(value) for name, value in values.items()})


def train(storage: EventStorage, num_iters: int) -> None:
    for _ in range(num_iters):
        storage.put_scalars(total_loss=math.sin(storage.iter), lr=0.1)
        storage.put_scalars(data_time_s=torch.rand(()).item(), volatile=True)
        if storage.iter % 3 == 0:
            storage.put_scalar("eval/accuracy", storage.iter / 7, smoothing_hint=False)
        storage.step()


def strict(line: str) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(line, parse_constant=refuse)


def lines_of(path: Path) -> list[dict[str, Any]]:
    text = path.read_text()
    assert text == "" or text.endswith("\n")
    return [strict(line) for line in text.splitlines()]


def write(path: Path, events: list[Events], position: Mapping[str, Any] | None = None) -> dict[str, Any]:
    writer = JSONWriter()
    if position is not None:
        writer.load_state_dict(position)
    writer.open(run_in(path))
    writer.write(events)
    position = writer.state_dict()
    writer.close("finished")
    return position


@pytest.fixture
def writer(tmp_path):
    writer = JSONWriter()
    writer.open(run_in(tmp_path))
    yield writer
    writer.close("finished")


# -- what is in it ---------------------------------------------------------------------------------


def test_every_value_of_every_iteration_is_one_line_with_sorted_keys(tmp_path):
    with EventStorage() as storage, Delivery(storage, {"json": JSONWriter()}, run_in(tmp_path)):
        train(storage, 13)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [strict(line)["iteration"] for line in lines] == list(range(13))
    assert lines[3] == json.dumps(
        {"eval/accuracy": 3 / 7, "iteration": 3, "lr": 0.1, "total_loss": math.sin(3)}, sort_keys=True
    )
    assert strict(lines[4]).keys() == {"iteration", "lr", "total_loss"}


def test_volatile_scalars_go_to_the_timings(tmp_path, writer):
    writer.write([Events(4, 12.5, {"a": Scalar(1.0), "time": Scalar(0.25, volatile=True)})])
    writer.write([Events(5, 13.5, {"a": Scalar(2.0)})])
    assert lines_of(tmp_path / "metrics.jsonl") == [{"a": 1.0, "iteration": 4}, {"a": 2.0, "iteration": 5}]
    assert lines_of(tmp_path / "timings.jsonl") == [{"iteration": 4, "time": 0.25, "wall_time_s": 12.5}]


def test_texts_are_written_and_other_kinds_are_not(tmp_path, writer):
    image = np.zeros((1, 2, 2), np.uint8)
    writer.write([Events(0, 1.0, {}, {"image": image}, {}, {"note": 'a "b"\n\u2028ü\ud800'}, {"lr": 0.1})])
    writer.write([Events(1, 1.0, {}, {"image": image}, {}, {}, {"lr": 0.1})])
    assert lines_of(tmp_path / "metrics.jsonl") == [{"iteration": 0, "note": 'a "b"\n\u2028ü\ud800'}]


def test_numbers_that_are_not_finite_are_valid_json(tmp_path, writer):
    writer.write([scalars(0, a=math.nan, b=math.inf, c=-math.inf, d=1.0)])
    (line,) = lines_of(tmp_path / "metrics.jsonl")
    assert line == {"a": "NaN", "b": "Infinity", "c": "-Infinity", "d": 1.0, "iteration": 0}


def expected(events: list[Events]) -> tuple[str, str]:
    """Return the text of both files, each line made on its own."""
    files: tuple[list[str], list[str]] = ([], [])
    for event in events:
        for file, volatile, always in zip(
            files, (False, True), (event.texts, {"wall_time_s": event.time_s}), strict=True
        ):
            numbers = {name: each.value for name, each in event.scalars.items() if each.volatile is volatile}
            words = {name: WORDS.get(str(number), number) for name, number in numbers.items()}
            if words or (not volatile and event.texts):
                line = {**always, **words, "iteration": event.iteration}
                file.append(json.dumps(line, sort_keys=True) + "\n")
    return "".join(files[0]), "".join(files[1])


WORDS = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


def test_lines_are_those_that_json_makes_whatever_is_put(tmp_path):
    storage, events = EventStorage(), []
    names = ("total_loss", "100 % of %s", '"quoted" é\n', "zebra")
    for i in range(60):
        for index, name in enumerate(names[: 2 + i // 20]):
            storage.put_scalar(name, math.sin(i * 10.0 ** (index * 7)))
        storage.put_scalar("moody", i, volatile=i % 9 == 0)
        if i % 11 == 3:
            storage.put_scalar("zebra", (math.nan, math.inf, -math.inf, 1e308)[i // 11 % 4])
            storage.put_scalar("huge", 1e308)
        if i % 13 == 5:
            storage.put_text("note", 'a "%d" text')
        if i % 16 == 2:
            storage.put_timings({"plugin_s/a": 0.25, "wall_time_s": 1.5})
        events += storage.step()
    write(tmp_path, events)
    metrics, timings = expected(events)
    assert (tmp_path / "metrics.jsonl").read_text() == metrics
    assert (tmp_path / "timings.jsonl").read_text() == timings


def test_it_makes_no_end_of_layouts(tmp_path, writer, monkeypatch):
    monkeypatch.setattr("hookline_json.lines.MAX_LAYOUTS", 3)
    flags = {f"s{i}": (True, False) for i in range(40)}
    writer.write([Events.of_values(i, 0.0, {f"s{i}": 1.0}, flags) for i in range(40)])
    assert [list(line) for line in lines_of(tmp_path / "metrics.jsonl")] == [
        ["iteration", f"s{i}"] for i in range(40)
    ]


def test_numbers_are_exact(tmp_path, writer):
    numbers = [0.1, 1e-310, 2**53 + 0.0, -0.0, torch.tensor(0.1).item(), 1.7976931348623157e308]
    writer.write([scalars(i, a=number) for i, number in enumerate(numbers)])
    got = [line["a"] for line in lines_of(tmp_path / "metrics.jsonl")]
    assert list(map(repr, got)) == list(map(repr, numbers))


def test_pandas_reads_it_with_its_numbers(tmp_path, writer):
    writer.write(
        [scalars(0, a=1.5), scalars(1, a=math.nan), scalars(2, a=math.inf), scalars(3, a=-math.inf, b=2)]
    )
    frame = pd.read_json(io.StringIO((tmp_path / "metrics.jsonl").read_text()), lines=True)
    np.testing.assert_array_equal(frame["a"].to_numpy(), [1.5, math.nan, math.inf, -math.inf])
    assert frame["a"].dtype == np.float64
    assert frame["iteration"].tolist() == [0, 1, 2, 3]


def test_two_equal_runs_write_equal_metrics(tmp_path):
    for name in "ab":
        with EventStorage() as storage, Delivery(storage, {"json": JSONWriter()}, run_in(tmp_path / name)):
            train(storage, 30)
    first, second = ((tmp_path / name / "metrics.jsonl").read_bytes() for name in "ab")
    assert first == second
    assert first.count(b"\n") == 30


def test_files_have_the_names_asked_for(tmp_path):
    writer = JSONWriter(file="logs/m.jsonl", timings="t.jsonl")
    writer.open(run_in(tmp_path))
    writer.write([Events(0, 1.0, {"a": Scalar(1.0), "b": Scalar(1.0, volatile=True)})])
    writer.close("finished")
    assert len(lines_of(tmp_path / "logs/m.jsonl")) == len(lines_of(tmp_path / "t.jsonl")) == 1


def test_the_two_files_differ():
    with pytest.raises(ValueError, match="timings: expected another file than that of the metrics"):
        JSONWriter(file="a.jsonl", timings="./a.jsonl")


def test_it_is_the_journal_and_installed_under_its_name():
    assert JSONWriter.journal
    (entry,) = entry_points(group="hookline.writers", name="json")
    assert entry.load() is JSONWriter


# -- going on from a position ----------------------------------------------------------------------


def test_a_torn_last_line_is_cut(tmp_path):
    position = write(tmp_path, [scalars(0, a=1.0)])
    for name in ("metrics", "timings"):
        with (tmp_path / f"{name}.jsonl").open("a") as file:
            file.write('{"a": 1.0, "iter')
    write(tmp_path, [scalars(1, a=2.0)], position)
    assert [line["iteration"] for line in lines_of(tmp_path / "metrics.jsonl")] == [0, 1]
    assert lines_of(tmp_path / "timings.jsonl") == []


@pytest.mark.parametrize("name", ["metrics.jsonl", "timings.jsonl"])
@pytest.mark.parametrize("damage", ["cut", "gone", "edited"])
def test_files_that_changed_before_the_position_are_refused(tmp_path, name, damage):
    events = [Events(i, 1.0, {"a": Scalar(1.0), "t": Scalar(2.0, volatile=True)}) for i in range(3)]
    position = json.loads(json.dumps(write(tmp_path, events)))
    path = tmp_path / name
    text = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(text[:-1] if damage == "cut" else text.replace(b"1", b"7", 1))
    writer = JSONWriter()
    writer.load_state_dict(position)
    got = {"cut": f"{len(text) - 1} bytes", "gone": "no file", "edited": "other ones"}[damage]
    rule = f"{name}: expected the {len(text)} bytes that the checkpoint knows of, got '{got}'"
    with pytest.raises(
        RunError, match=rf"{rule}.* leave the writer out: writers-=json plugins\.on_change=warn"
    ):
        writer.open(run_in(tmp_path))
    writer.close("failed")
    assert {path.name for path in tmp_path.iterdir()} <= {
        "metrics.jsonl",
        "timings.jsonl",
        "metrics.hints.json",
    }
    if damage == "edited":
        assert path.stat().st_size == len(text)


def test_opening_again_frees_what_the_last_one_held(tmp_path, monkeypatch):
    closed = []
    monkeypatch.setattr(
        os, "close", lambda descriptor, close=os.close: (closed.append(descriptor), close(descriptor))
    )
    position = write(tmp_path, [scalars(0, a=1.0)])
    del closed[:]
    writer = JSONWriter()
    for _ in range(2):
        writer.load_state_dict(position)
        writer.open(run_in(tmp_path))
    writer.close("finished")
    writer.close("finished")
    # Two files and their directory twice, at each of two opens.
    assert len(closed) == 2 * (2 + 2)


def test_a_position_is_that_of_the_files(tmp_path):
    position = write(tmp_path, [scalars(0, a=1.0)])
    position = write(tmp_path, [scalars(1, a=1.0)], position)
    assert position == write(tmp_path / "other", [scalars(0, a=1.0), scalars(1, a=1.0)])


@pytest.mark.parametrize("flushed", [0, 6, 12])
def test_a_run_killed_and_resumed_writes_the_same_bytes(tmp_path, flushed):
    with EventStorage() as storage, Delivery(storage, {"json": JSONWriter()}, run_in(tmp_path / "whole")):
        train(storage, 40)

    storage = EventStorage()
    killed = Delivery(storage, {"json": JSONWriter()}, run_in(tmp_path / "killed"))
    killed.open()
    train(storage, flushed)
    killed.flush()
    train(storage, 12 - flushed)
    storage.put_scalar("note", 1.0)
    delivery_state, storage_state = decode(*encode(killed.state_dict())), storage.state_dict()
    train(storage, 9)
    killed.flush()

    resumed = EventStorage()
    resumed.load_state_dict(storage_state)
    delivery = Delivery(resumed, {"json": JSONWriter()}, run_in(tmp_path / "killed"))
    delivery.load_state_dict(delivery_state)
    with delivery:
        train(resumed, 28)
    killed.close("failed")
    whole, got = (
        (tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("whole", "killed")
    )
    assert strict(got[12]).pop("note") == 1.0
    assert got[:12] + got[13:] == whole[:12] + whole[13:]


def test_a_call_that_failed_half_way_leaves_no_trace(tmp_path, monkeypatch):
    monkeypatch.setattr("hookline.delivery.worker.BACKOFF_S", 0.001)
    real, numbers = os.write, iter(range(1000))

    def torn(descriptor: int, data: bytes) -> int:
        number = next(numbers)
        if number == 2:
            real(descriptor, data[: len(data) // 2])
            raise OSError(28, "No space left on device")
        # Also a short write, which is no error.
        return real(descriptor, data[:100])

    monkeypatch.setattr(os, "write", torn)
    storage = EventStorage()
    with Delivery(storage, {"json": JSONWriter()}, run_in(tmp_path)) as delivery:
        for _ in range(3):
            train(storage, 5)
            delivery.flush()
    for name, num_lines in (("metrics", 15), ("timings", 15)):
        assert [line["iteration"] for line in lines_of(tmp_path / f"{name}.jsonl")] == list(range(num_lines))


def test_a_full_disk_fails_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr("hookline.delivery.worker.BACKOFF_S", 0.001)

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    storage = EventStorage()
    delivery = Delivery(storage, {"json": JSONWriter()}, run_in(tmp_path))
    delivery.open()
    train(storage, 1)
    with pytest.raises(WriterError, match=r"writers.json at iteration 0: .*No space left.*the run's journal"):
        delivery.close("finished")


def test_a_killed_process_loses_at_most_the_last_period(tmp_path):
    script = textwrap.dedent("""
        import os, sys, time
        from pathlib import Path
        from hookline import Delivery, EventStorage, Run
        from hookline.delivery import worker
        from hookline_json import JSONWriter

        worker.MIN_INTERVAL_S = 0.0
        path = Path(sys.argv[1])
        storage = EventStorage()
        delivery = Delivery(storage, {"json": JSONWriter()}, Run(dir=path, name="a", id="1", period=5))
        delivery.open()
        for _ in range(23):
            storage.put_scalar("a", storage.iter)
            storage.step()
        deadline = time.monotonic() + 20
        while (path / "metrics.jsonl").read_bytes().count(b"\\n") < 20 and time.monotonic() < deadline:
            time.sleep(0.005)
        os._exit(9)
    """)
    process = subprocess.run([sys.executable, "-c", script, str(tmp_path)], timeout=60, check=False)
    assert process.returncode == 9
    assert [line["iteration"] for line in lines_of(tmp_path / "metrics.jsonl")] == list(range(20))
