import io
import json
import os
import random
import resource
import subprocess
import sys
import textwrap
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader, RawEventFileLoader
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.context import RequestContext
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams import metadata as hparams_metadata

from hookline import ConfigError, Delivery, Events, EventStorage, RunError, Scalar
from hookline_tensorboard import TensorBoardWriter

PERIOD_ENDS = [9, 19, 29, 39, 49, 54]
KINDS = ("scalars", "tensors", "images", "histograms")


def event_file(run):
    (path,) = (run.dir / "tensorboard").glob("*tfevents*")
    return path


def read(run):
    accumulator = EventAccumulator(str(run.dir / "tensorboard"), size_guidance=dict.fromkeys(KINDS, 0))
    return accumulator.Reload()


def scalars(run, name):
    return [(e.step, e.value) for e in read(run).Scalars(name)]


def session(run, tag):
    content = read(run).SummaryMetadata(tag).plugin_data.content
    parse = {
        hparams_metadata.SESSION_START_INFO_TAG: hparams_metadata.parse_session_start_info_plugin_data,
        hparams_metadata.SESSION_END_INFO_TAG: hparams_metadata.parse_session_end_info_plugin_data,
    }
    return parse[tag](content)


def layouts(run):
    """The charts of every layout in the file, oldest first."""
    tensors = read(run).Tensors("custom_scalars__config__")
    found = [layout_pb2.Layout.FromString(t.tensor_proto.string_val[0]) for t in tensors]
    return [{c.title: list(c.multiline.tag) for c in layout.category[0].chart} for layout in found]


def decoded(run):
    """Everything in the file but its wall times, which differ from run to run."""
    events = [Event.FromString(record) for record in RawEventFileLoader(str(event_file(run))).Load()]
    for event in events:
        event.ClearField("wall_time")
        for value in event.summary.value:
            if value.tag in (hparams_metadata.SESSION_START_INFO_TAG, hparams_metadata.SESSION_END_INFO_TAG):
                value.ClearField("metadata")
    return [event.SerializeToString(deterministic=True) for event in events]


def test_nothing_is_on_disk_before_the_first_event(run):
    writer = TensorBoardWriter()
    writer.open(run)
    writer.state_dict()
    writer.close("failed")
    assert list(run.dir.iterdir()) == []


def test_smoothed_scalar_is_its_mean_over_each_period(run, write_run):
    write_run(TensorBoardWriter)
    assert scalars(run, "total_loss") == [
        (9, 4.5),
        (19, 14.5),
        (29, 24.5),
        (39, 34.5),
        (49, 44.5),
        (54, 52.0),
    ]


def test_exact_scalar_of_every_iteration_is_its_last_value_of_each_period(run, write_run):
    write_run(TensorBoardWriter)
    assert scalars(run, "lr") == [(i, pytest.approx(i / 10)) for i in PERIOD_ENDS]


def test_sparse_scalar_is_at_its_own_iteration(run, write_run):
    write_run(TensorBoardWriter)
    assert scalars(run, "eval/loss") == [(19, 119.0), (39, 139.0)]


def test_volatile_scalars_are_kept(run, write_run):
    write_run(TensorBoardWriter)
    assert scalars(run, "time") == [(i, 0.25) for i in PERIOD_ENDS]


def test_every_value_is_kept_on_request(run, write_run):
    write_run(lambda: TensorBoardWriter(every_value=True))
    assert scalars(run, "total_loss") == [(i, float(i)) for i in range(55)]


def test_every_value_is_kept_where_the_run_has_no_period(run):
    writer = TensorBoardWriter()
    writer.open(replace(run, period=0))
    writer.write([Events(i, 0.0, {"x": Scalar(float(i))}) for i in range(3)])
    writer.close("finished")
    assert scalars(run, "x") == [(0, 0.0), (1, 1.0), (2, 2.0)]


def test_values_beyond_float32_are_infinite_and_nan_stays(run):
    writer = TensorBoardWriter()
    writer.open(run)
    writer.write([Events(0, 0.0, {"big": Scalar(1e300), "nan": Scalar(float("nan"))})])
    writer.close("finished")
    assert scalars(run, "big") == [(0, float("inf"))]
    assert np.isnan(scalars(run, "nan")[0][1])


def test_points_carry_the_time_of_their_iteration(run):
    writer = TensorBoardWriter()
    writer.open(run)
    writer.write([Events(i, 1000.0 + i, {"x": Scalar(1.0)}) for i in range(10)])
    writer.close("finished")
    assert [e.wall_time for e in read(run).Scalars("x")] == [1009.0]


def test_all_of_one_iteration_is_one_record(run, write_run):
    write_run(TensorBoardWriter)
    steps = [event.step for event in EventFileLoader(str(event_file(run))).Load()]
    # The header, hyper-parameters at 0, the points, and how the session ended.
    assert steps == [0, 0, *PERIOD_ENDS, 54]


@pytest.mark.parametrize("num_channels", [1, 3, 4])
def test_image_is_stored_without_loss(run, num_channels):
    pixels = np.random.default_rng(0).integers(0, 256, (num_channels, 5, 7), dtype=np.uint8)
    writer = TensorBoardWriter()
    writer.open(run)
    writer.write([Events(3, 0.0, images={"sample": pixels})])
    writer.close("finished")
    (image,) = read(run).Images("sample")
    decoded_HWC = np.asarray(Image.open(io.BytesIO(image.encoded_image_string)))
    assert (image.step, image.width, image.height) == (3, 7, 5)
    assert np.array_equal(decoded_HWC.reshape(5, 7, num_channels).transpose(2, 0, 1), pixels)


def test_histogram_has_the_bins_of_the_events(run, write_run):
    write_run(TensorBoardWriter)
    first, second = read(run).Histograms("weights")
    assert (first.step, second.step) == (19, 39)
    counts = first.histogram_value
    assert (counts.min, counts.max, counts.num, counts.sum, counts.sum_squares) == (0, 7, 8, 28, 140)
    assert (counts.bucket_limit, counts.bucket) == ([1.75, 3.5, 5.25, 7.0], [2, 2, 2, 2])


def test_histogram_without_finite_values_is_no_error(run):
    with EventStorage() as storage:
        storage.put_histogram("weights", np.array([np.nan]))
        events = storage.step()
    writer = TensorBoardWriter()
    writer.open(run)
    writer.write(events)
    writer.close("finished")
    assert [h.step for h in read(run).Histograms("weights")] == [0]


def test_text_is_stored(run, write_run):
    write_run(TensorBoardWriter)
    texts = [(t.step, t.tensor_proto.string_val[0]) for t in read(run).Tensors("note")]
    assert texts == [(19, b"iteration **19**"), (39, b"iteration **39**")]
    assert read(run).SummaryMetadata("note").plugin_data.plugin_name == "text"


def test_half_a_surrogate_pair_as_file_names_have_it_is_an_escape(run):
    name = b"caf\xe9".decode(errors="surrogateescape")
    with EventStorage() as storage:
        storage.put_hparams({name: name})
        storage.put_scalar(name, 1.0)
        storage.put_text(f"file/{name}", name)
        events = storage.step()
    writer = TensorBoardWriter()
    writer.open(run)
    writer.write(events)
    writer.close("finished")
    (text,) = read(run).Tensors(r"file/caf\udce9")
    assert text.tensor_proto.string_val[0] == rb"caf\udce9"
    assert scalars(run, r"caf\udce9") == [(0, 1.0)]
    start = session(run, hparams_metadata.SESSION_START_INFO_TAG)
    assert start.hparams[r"caf\udce9"].string_value == r"caf\udce9"


def test_hyper_parameters_keep_their_types(run, write_run):
    write_run(TensorBoardWriter)
    start = session(run, hparams_metadata.SESSION_START_INFO_TAG)
    kinds = {name: value.WhichOneof("kind") for name, value in start.hparams.items()}
    assert kinds == {
        "lr": "number_value",
        "batch_size": "number_value",
        "nesterov": "bool_value",
        "model": "string_value",
    }
    assert start.hparams["lr"].number_value == 0.1
    assert start.group_name == run.id


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("finished", api_pb2.STATUS_SUCCESS),
        ("stopped", api_pb2.STATUS_SUCCESS),
        ("failed", api_pb2.STATUS_FAILURE),
    ],
)
def test_status_of_the_run_is_that_of_its_session(run, write_run, status, expected):
    write_run(TensorBoardWriter, status=status)
    assert session(run, hparams_metadata.SESSION_END_INFO_TAG).status == expected


def test_session_of_a_paused_run_has_no_end(run, write_run):
    write_run(TensorBoardWriter, status="paused")
    assert hparams_metadata.SESSION_END_INFO_TAG not in read(run).Tags()["tensors"]


def test_hyper_parameters_put_later_are_a_text(run):
    writer = TensorBoardWriter()
    writer.open(run)
    writer.write([Events(0, 0.0, hparams={"lr": 0.1}), Events(5, 0.0, hparams={"seed": 3, "lr": 0.2})])
    writer.close("finished")
    (text,) = read(run).Tensors("hyper-parameters put later")
    assert (text.step, text.tensor_proto.string_val[0]) == (5, b"- seed: 3\n- lr: 0.2")
    assert session(run, hparams_metadata.SESSION_START_INFO_TAG).hparams["lr"].number_value == 0.1


def test_scalars_are_grouped_in_charts_as_they_come_up(run, write_run):
    write_run(TensorBoardWriter)
    first, second = layouts(run)
    assert list(first) == ["losses", "times"]
    assert list(second) == ["losses", "times", "eval"]
    assert second["eval"] == ["eval/[^/]*$"]


def test_charts_can_be_chosen(run, write_run):
    write_run(lambda: TensorBoardWriter(charts={"both": "total_loss|eval/loss"}))
    assert layouts(run) == [{"both": ["total_loss|eval/loss"]}]


def test_chart_with_a_bad_pattern_is_refused_by_name():
    with pytest.raises(
        ConfigError, match=r"writers\.tensorboard\.charts\.broken: expected a regular expression"
    ):
        TensorBoardWriter(charts={"broken": "("})


@pytest.mark.parametrize("cut", [1, 9, 10, 15, 20, 33, 54])
def test_resumed_run_has_every_point_once(run, write_run, cut):
    write_run(TensorBoardWriter)
    expected = decoded(run)
    write_run(TensorBoardWriter, cut=cut)
    assert decoded(run) == expected


def test_session_that_is_resumed_at_its_end_ends_at_its_last_iteration(run, write_run):
    write_run(TensorBoardWriter)
    expected = decoded(run)
    write_run(TensorBoardWriter, cut=55)
    assert decoded(run) == expected


def test_position_is_durable_and_synced_only_when_something_was_written(run, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(os.readlink(f"/proc/self/fd/{number}")))
    writer = TensorBoardWriter()
    writer.open(run)
    writer.state_dict()
    assert synced == []
    writer.write([Events(i, 0.0, {"x": Scalar(1.0)}) for i in range(10)])
    named = [str(run.dir), str(run.dir / "tensorboard")]
    assert synced == named
    writer.state_dict()
    writer.state_dict()
    assert synced == [*named, str(event_file(run))]
    writer.close("finished")


def test_position_is_json(run):
    writer = TensorBoardWriter()
    writer.open(run)
    writer.write([Events(i, 0.0, {"x": Scalar(1.0), "y": Scalar(2.0, False)}) for i in range(14)])
    state = writer.state_dict()
    assert json.loads(json.dumps(state)) == state
    assert state["offset"] == event_file(run).stat().st_size
    writer.close("finished")


def test_what_is_there_without_a_position_is_put_aside_where_tensorboard_does_not_read_it(run, write_run):
    write_run(TensorBoardWriter)
    expected, before = decoded(run), event_file(run).read_bytes()
    for _ in range(2):
        write_run(TensorBoardWriter)
        assert decoded(run) == expected
    aside = {path.name for path in (run.dir / "tensorboard").iterdir()} - {event_file(run).name}
    assert aside == {"events.orphaned-0.hookline", "events.orphaned-0-2.hookline"}
    assert (run.dir / "tensorboard" / "events.orphaned-0.hookline").read_bytes() == before


def test_what_followed_a_checkpoint_of_before_the_first_event_is_written_anew(run):
    states = []
    for _ in range(2):
        writer = TensorBoardWriter()
        if states:
            writer.load_state_dict(states[0])
        writer.open(run)
        states.append(writer.state_dict())
        writer.write([Events(i, 0.0, {"x": Scalar(1.0)}) for i in range(10)])
        writer.close("failed")
    assert [path.name for path in (run.dir / "tensorboard").iterdir()] == [event_file(run).name]
    assert scalars(run, "x") == [(9, 1.0)]


@pytest.mark.parametrize("left", ["half", "nothing"])
def test_file_shorter_than_the_checkpoint_knows_is_refused(run, write_run, left):
    writer = TensorBoardWriter()
    writer.open(run)
    writer.write([Events(i, 0.0, {"x": Scalar(1.0)}) for i in range(10)])
    state = writer.state_dict()
    writer.close("failed")
    if left == "half":
        event_file(run).write_bytes(event_file(run).read_bytes()[:20])
    else:
        event_file(run).unlink()
    writer = TensorBoardWriter()
    writer.load_state_dict(state)
    got = {"half": "got '20 bytes'", "nothing": "got 'no file'"}[left]
    rule = f"expected the {state['offset']} bytes that the checkpoint knows of, {got}"
    with pytest.raises(RunError, match=rf"{rule}.* leave the writer out: writers-=tensorboard plugins"):
        writer.open(run)


def test_failed_write_leaves_whole_records_and_can_be_repeated(run):
    writer = TensorBoardWriter()
    writer.open(run)
    events = [Events(i, 0.0, {f"s{k}": Scalar(float(i)) for k in range(50)}) for i in range(40)]
    writer.write(events[:20])
    state = writer.state_dict()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (state["offset"] + 100, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            writer.write(events[20:])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert event_file(run).stat().st_size == state["offset"]
    writer.load_state_dict(state)
    writer.open(run)
    writer.write(events[20:])
    writer.close("finished")
    assert scalars(run, "s7") == [(9, 4.5), (19, 14.5), (29, 24.5), (39, 34.5)]


@pytest.fixture
def jumped(run, write_run, write_jumping):
    """What the file of a whole run has, and then the run of three attempts on a clock that jumps."""
    write_run(TensorBoardWriter)
    whole = decoded(run)
    event_file(run).unlink()
    write_jumping(TensorBoardWriter)
    return whole


def test_a_clock_that_jumps_between_attempts_changes_nothing_in_the_file(run, jumped):
    assert decoded(run) == jumped


def test_a_clock_that_jumps_between_attempts_changes_nothing_for_the_accumulator(run, jumped):
    events = read(run).Scalars("total_loss")
    assert [event.step for event in events] == PERIOD_ENDS
    times_s = [event.wall_time for event in events]
    assert times_s[1] - times_s[2] > 3000
    assert times_s[3] - times_s[2] > 6000
    assert scalars(run, "eval/loss") == [(19, 119.0), (39, 139.0)]
    assert [image.step for image in read(run).Images("sample")] == [19, 39]
    assert session(run, hparams_metadata.SESSION_START_INFO_TAG).hparams["lr"].number_value == 0.1


@pytest.mark.parametrize("purge", [True, False])
def test_a_clock_that_jumps_between_attempts_changes_nothing_for_the_data_provider(run, jumped, purge):
    multiplexer = EventMultiplexer(purge_orphaned_data=purge)
    multiplexer.AddRunsFromDirectory(str(run.dir)).Reload()
    provider = MultiplexerDataProvider(multiplexer, str(run.dir))
    found = provider.read_scalars(RequestContext(), experiment_id="", plugin_name="scalars", downsample=1000)[
        "tensorboard"
    ]
    points = {tag: [(point.step, point.value) for point in series] for tag, series in found.items()}
    means = [4.5, 14.5, 24.5, 34.5, 44.5, 52.0]
    assert points["total_loss"] == list(zip(PERIOD_ENDS, means, strict=True))
    assert points["eval/loss"] == [(19, 119.0), (39, 139.0)]


@pytest.mark.parametrize("seed", range(10))
def test_every_point_is_there_once_wherever_the_run_is_cut_and_killed(run, training, seed, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda number: None)
    chance = random.Random(seed)
    events = training()
    folders = {name: replace(run, dir=run.dir / name) for name in ("whole", "cut")}
    writer = TensorBoardWriter()
    writer.open(folders["whole"])
    writer.write(events)
    writer.close("paused")
    saved = [(0, None)]
    for attempt in range(6):
        done, position = chance.choice(saved)
        saved = [each for each in saved if each[0] <= done]
        writer = TensorBoardWriter()
        if position is not None:
            writer.load_state_dict(json.loads(json.dumps(position, default=np.ndarray.tolist)))
        writer.open(replace(folders["cut"], start_iter=done))
        stop = len(events) if attempt == 5 else chance.randrange(done, len(events) + 1)
        while done < stop:
            size = min(chance.randrange(1, 20), stop - done)
            writer.write(events[done : done + size])
            done += size
            if chance.random() < 0.4:  # else it is killed before a checkpoint has its position
                saved.append((done, writer.state_dict()))
        if chance.random() < 0.5 or attempt == 5:
            writer.close("paused")
            continue
        writer._file.close()
        if writer._file.offset and chance.random() < 0.5:
            with event_file(folders["cut"]).open("ab") as file:
                file.write(b"torn")  # and in the middle of a record
    whole, cut = (event_file(folders[name]).read_bytes() for name in ("whole", "cut"))
    assert cut == whole


def test_it_is_told_by_a_delivery(run):
    with EventStorage() as storage, Delivery(storage, {"tensorboard": TensorBoardWriter()}, run) as delivery:
        for i in range(25):
            storage.put_scalar("total_loss", i)
            storage.step()
    assert delivery.gaps == []
    assert scalars(run, "total_loss") == [(9, 4.5), (19, 14.5), (24, 22.0)]


def test_command_that_shows_the_charts_names_the_directory(run):
    writer = TensorBoardWriter()
    assert writer.view_command() is None
    writer.open(run)
    assert writer.view_command() == f"tensorboard --logdir {run.dir / 'tensorboard'}"
    writer.close("finished")


def test_importing_the_plugin_imports_no_tensorboard():
    code = "import hookline_tensorboard, sys; print({'tensorboard', 'PIL', 'google'} & sys.modules.keys())"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert out.stdout.strip() == "set()"


def points(first, last):
    return [Events(i, 0.0, {"x": Scalar(float(i))}) for i in range(first, last)]


def test_an_instance_of_another_name_has_a_folder_of_its_own_where_it_goes_on(run):
    writers = {name: TensorBoardWriter() for name in ("tensorboard", "again")}
    for name, writer in writers.items():
        writer.open(replace(run, writer=name))
        writer.write(points(0, 25))
    position = writers["again"].state_dict()
    writers["again"].write(points(25, 30))
    for writer in writers.values():
        writer.close("paused")
    folder = run.dir / "tensorboard"
    assert sorted(path.name for path in folder.iterdir()) == ["again", "events.out.tfevents.hookline"]
    resumed = TensorBoardWriter()
    resumed.load_state_dict(position)
    resumed.open(replace(run, writer="again", start_iter=25))
    resumed.close("paused")
    (file,) = (folder / "again").iterdir()
    assert file.read_bytes() == (folder / "events.out.tfevents.hookline").read_bytes()
    assert resumed.view_command() == f"tensorboard --logdir {folder / 'again'}"


def test_a_position_of_before_there_were_folders_is_found_in_the_only_one(run):
    writer = TensorBoardWriter()
    writer.open(run)
    writer.write(points(0, 25))
    position = writer.state_dict()
    writer.close("paused")
    del position["folder"]
    resumed = TensorBoardWriter()
    resumed.load_state_dict(position)
    resumed.open(replace(run, writer="board"))
    resumed.close("paused")
    assert event_file(run).is_file()


def test_iterations_do_not_wait_for_imports_that_open_can_do(tmp_path):
    code = f"""
        import sys
        from pathlib import Path
        from hookline import EventStorage, Run
        from hookline_tensorboard import TensorBoardWriter

        writer = TensorBoardWriter()
        writer.open(Run(dir=Path({str(tmp_path)!r}), name="run", id="run", config={{}}, start_iter=0, period=1))
        before = set(sys.modules)
        storage = EventStorage()
        storage.put_scalar("total_loss", 1.0)
        writer.write(storage.step())
        writer.state_dict()
        print(sorted(name for name in set(sys.modules) - before if name.startswith("tensorboard")))
    """
    code = textwrap.dedent(code)
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert out.stdout == "[]\n"
