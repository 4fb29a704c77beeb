"""From the files back to events: exact, a line at a time, and whatever state they are in."""

import math
import struct
import tracemalloc

import pytest

from hookline import Events, Run, RunError, Scalar
from hookline_json import JSONWriter

NAMES = ("metrics.jsonl", "timings.jsonl")


def bits(number):
    return struct.pack("<d", number).hex()


def plain(event):
    """All of ``event`` that a journal keeps, NaN equal to itself, scalars by name."""
    scalars = {name: (bits(value), *flags) for name, (value, *flags) in sorted(event.scalars.items())}
    return event.iteration, scalars, event.texts


def read(folder, **options):
    return list(JSONWriter(**options).read(folder))


def write(folder, text, name="metrics.jsonl"):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    return folder


def test_every_value_flag_and_text_comes_back_as_it_was_put(tmp_path, training, tell):
    events = training(80)
    tell(tmp_path, events)
    assert [plain(event) for event in read(tmp_path)] == [plain(event) for event in events]


def test_the_wall_time_is_the_last_one_known_and_before_that_the_first(tmp_path):
    writer = JSONWriter()
    writer.open(Run(tmp_path, "a", "1"))
    times = {1: 11.5, 2: 12.5, 4: 14.5}
    for i in range(6):
        timed = {"time": Scalar(0.5, volatile=True)} if i in times else {}
        writer.write([Events(i, times.get(i, 99.0), {"a": Scalar(1.0), **timed})])
    writer.close("finished")
    assert [event.time_s for event in read(tmp_path)] == [11.5, 11.5, 12.5, 12.5, 14.5, 14.5]


def test_without_any_timings_there_is_no_wall_time(tmp_path):
    assert [event.time_s for event in read(write(tmp_path, '{"a": 1.0, "iteration": 0}\n'))] == [0.0]


def test_what_was_read_and_is_written_again_is_the_same_bytes(tmp_path, training, tell):
    tell(tmp_path / "one", training(80))
    tell(tmp_path / "two", read(tmp_path / "one"))
    for name in (*NAMES, "metrics.hints.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_line_at_a_time_is_in_memory(tmp_path):
    write(tmp_path, "".join(f'{{"a": 1.0, "iteration": {i}}}\n' for i in range(4000)))
    events = JSONWriter().read(tmp_path)
    next(events)
    tracemalloc.start()
    try:
        assert sum(1 for _ in events) == 3999
        assert tracemalloc.get_traced_memory()[1] < 50_000
    finally:
        tracemalloc.stop()


def test_reading_changes_nothing(tmp_path, training, tell):
    tell(tmp_path, training(10))
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.iterdir()}
    read(tmp_path)
    assert before == {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.iterdir()}


@pytest.mark.parametrize("name", NAMES)
def test_a_torn_last_line_is_left_out(tmp_path, training, tell, name):
    events = training(20)
    tell(tmp_path, events)
    path = tmp_path / name
    whole = path.read_bytes()
    for size in (len(whole) - 1, len(whole) - 20):
        path.write_bytes(whole[:size])
        found = read(tmp_path)
        is_stable = name == "metrics.jsonl"
        lost = [plain(event) for event in found] != [plain(event) for event in events]
        assert lost
        assert [plain(event) for event in found[:-1]] == [plain(event) for event in events[:-1]]
        assert all(scalar.volatile is is_stable for scalar in found[-1].scalars.values())


def test_what_is_written_after_the_reading_began_is_left_out(tmp_path, training, tell):
    events = training(30)
    position = tell(tmp_path, events[:20])
    found = JSONWriter().read(tmp_path)
    first = next(found)
    tell(tmp_path, events[20:], position)
    assert [first.iteration, *(event.iteration for event in found)] == [
        event.iteration for event in events[:20]
    ]


@pytest.mark.parametrize("gone", NAMES)
def test_one_of_both_files_will_do(tmp_path, training, tell, gone):
    events = training(20)
    tell(tmp_path, events)
    (tmp_path / gone).unlink()
    found = {name for event in read(tmp_path) for name in event.scalars}
    volatile = {"time", "data_time"}
    assert found == (volatile if gone == "metrics.jsonl" else {"total_loss", "lr", "eval/loss"})


def test_nothing_is_read_where_there_is_nothing(tmp_path):
    assert read(tmp_path) == []
    assert read(write(tmp_path, "")) == []


def test_files_of_other_names_are_read(tmp_path, training):
    options = {"file": "logs/m.jsonl", "timings": "t.jsonl"}
    writer = JSONWriter(**options)
    writer.open(Run(tmp_path, "a", "1"))
    writer.write(training(10))
    writer.close("finished")
    assert len(read(tmp_path, **options)) == len(training(10))
    assert (tmp_path / "logs/m.hints.json").is_file()


def test_a_text_that_looks_like_a_number_stays_one(tmp_path, training, tell):
    text = '{"a": "NaN", "b": "NaN", "iteration": 0}\n'
    (event,) = read(write(tmp_path, text))
    assert math.isnan(event.scalars["a"].value)
    assert math.isnan(event.scalars["b"].value)
    write(tmp_path, '{"a": true}', "metrics.hints.json")
    (event,) = read(tmp_path)
    assert ([*event.scalars], event.texts) == (["a"], {"b": "NaN"})


def test_without_hints_every_scalar_wants_smoothing(tmp_path, training, tell):
    tell(tmp_path, training(20))
    (tmp_path / "metrics.hints.json").unlink()
    assert all(scalar.smoothing_hint for event in read(tmp_path) for scalar in event.scalars.values())


def test_the_hints_are_those_a_scalar_was_put_with_last(tmp_path):
    writer = JSONWriter()
    writer.open(Run(tmp_path, "a", "1"))
    for i in range(4):
        writer.write([Events(i, 0.0, {"a": Scalar(1.0, i < 2), "b": Scalar(1.0)})])
    writer.close("finished")
    assert (tmp_path / "metrics.hints.json").read_text() == '{"a": false, "b": true}\n'


def test_the_hints_are_written_only_when_they_change(tmp_path, monkeypatch):
    writer = JSONWriter()
    writer.open(Run(tmp_path, "a", "1"))
    writer.write([Events(0, 0.0, {"a": Scalar(1.0)})])
    before = (tmp_path / "metrics.hints.json").stat().st_ino
    for i in range(1, 5):
        writer.write([Events(i, 0.0, {"a": Scalar(1.0)})])
    assert (tmp_path / "metrics.hints.json").stat().st_ino == before
    writer.close("finished")


def test_a_run_that_starts_over_forgets_the_hints_and_a_resumed_one_keeps_them(tmp_path, training, tell):
    position = tell(tmp_path, [Events(0, 0.0, {"a": Scalar(1.0, False)})])
    tell(tmp_path, [Events(1, 0.0, {"b": Scalar(1.0)})], position)
    assert (tmp_path / "metrics.hints.json").read_text() == '{"a": false, "b": true}\n'
    tell(tmp_path, [Events(0, 0.0, {"c": Scalar(1.0)})])
    assert (tmp_path / "metrics.hints.json").read_text() == '{"c": true}\n'


def test_hints_that_a_killed_process_was_writing_are_gone_when_the_run_goes_on(tmp_path, training, tell):
    position = tell(tmp_path, training())
    (tmp_path / ".tmp-metrics.hints.json-0123abcd").write_bytes(b'{"a')
    (tmp_path / ".tmp-other-0123abcd").touch()
    tell(tmp_path, [], position)
    assert [path.name for path in tmp_path.glob(".tmp-*")] == [".tmp-other-0123abcd"]


@pytest.mark.parametrize("text", ["[1]", '{"a": 1}', '{"a', "null"])
def test_hints_that_are_none_are_an_error_that_says_what_to_do(tmp_path, training, tell, text):
    position = tell(tmp_path, training(5))
    write(tmp_path, text, "metrics.hints.json")
    with pytest.raises(RunError, match=r"metrics\.hints\.json: expected true or false .* Remove it"):
        read(tmp_path)
    with pytest.raises(RunError, match="Remove it"):
        tell(tmp_path, [], position)


def test_a_scalar_with_the_name_of_the_wall_time_is_read_back_in_its_place(tmp_path):
    writer = JSONWriter()
    writer.open(Run(tmp_path, "a", "1"))
    writer.write([Events(0, 5.0, {"wall_time_s": Scalar(1.5, volatile=True)})])
    writer.close("finished")
    (event,) = read(tmp_path)
    assert event.scalars == {"wall_time_s": Scalar(1.5, volatile=True)}


def test_a_wall_time_that_is_none_is_left_out(tmp_path):
    write(tmp_path, '{"iteration": 0, "t": 1.0, "wall_time_s": "soon"}\n', "timings.jsonl")
    (event,) = read(tmp_path)
    assert (event.time_s, [*event.scalars]) == (0.0, ["t"])


@pytest.mark.parametrize(
    "line",
    [
        "{}",
        "[]",
        "7",
        "",
        '{"a": 1.0}',
        '{"a": 1.0, "iteration": "0"}',
        '{"a": 1.0, "iteration": 1.5}',
        '{"a": 1.0, "iteration": true}',
        '{"a": [1.0], "iteration": 1}',
        '{"a": null, "iteration": 1}',
        '{"a": true, "iteration": 1}',
        '{"a": 1.0, "iteration": 0}',
        '{"a": 1.0, "iteration": -1}',
        f'{{"a": 1{400 * "0"}, "iteration": 1}}',
        200_000 * "[",
        '{"a": 1.0, "ite',
        "\0\0\0\0",
    ],
)
def test_a_line_that_is_none_of_the_writer_is_an_error_with_its_number(tmp_path, line):
    write(tmp_path, f'{{"a": 1.0, "iteration": 0}}\n{line}\n{{"a": 1.0, "iteration": 2}}\n')
    events = JSONWriter().read(tmp_path)
    with pytest.raises(
        RunError, match=r"metrics\.jsonl:2: expected a line of the journal, of an iteration above 0"
    ):
        next(events)


def test_whole_numbers_that_a_tool_has_left_are_numbers(tmp_path):
    (event,) = read(write(tmp_path, '{"a": 1, "iteration": 0}\n'))
    assert event.scalars == {"a": Scalar(1.0)}


def test_it_makes_no_end_of_flags(tmp_path, monkeypatch):
    monkeypatch.setattr("hookline_json.reader.MAX_LAYOUTS", 3)
    write(tmp_path, "".join(f'{{"iteration": {i}, "s{i}": 1.0}}\n' for i in range(10)))
    assert [[*event.scalars] for event in read(tmp_path)] == [[f"s{i}"] for i in range(10)]
