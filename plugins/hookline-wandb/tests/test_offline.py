"""Without a network: what W&B's own reader finds in the file, and what is on disk beside it."""

import json
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from hookline import EventStorage
from hookline_wandb import WandbWriter


def directories(run):
    return sorted(run.dir.glob("wandb/offline-run-*"))


def records(directory):
    """Everything in a run file, as wandb's own reader prints it."""
    (path,) = directory.glob("*.wandb")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return [json.loads(line) for line in done.stdout.splitlines()]


def history(directory):
    return [record["history"]["item"] for record in records(directory) if record["type"] == "history"]


def points(rows, name):
    return [(row["iteration"], row[name]) for row in rows if name in row]


def test_points_and_axes_are_in_the_file(run, training):
    writer = WandbWriter(mode="offline")
    writer.open(run)
    writer.write(training(0, 55))
    writer.close("finished")
    (directory,) = directories(run)
    found = records(directory)
    rows = [record["history"]["item"] for record in found if record["type"] == "history"]
    assert points(rows, "total_loss") == [
        (9, 4.5),
        (19, 14.5),
        (29, 24.5),
        (39, 34.5),
        (49, 44.5),
        (54, 52.0),
    ]
    assert points(rows, "eval/loss") == [(14, 114.0), (34, 134.0), (54, 154.0)]
    metrics = [record["metric"] for record in found if record["type"] == "metric"]
    assert {"glob_name": "*", "options": {"defined": True}, "step_metric": "iteration"} in metrics
    (started,) = (record["run"] for record in found if record["type"] == "run")
    assert (started["run_id"], started["project"], started["display_name"]) == (run.id, run.name, run.id)
    config = {k: v for k, v in started["config"]["update"].items() if k != "_wandb"}
    assert config == run.config


def test_every_value_is_kept_on_request(run, training):
    writer = WandbWriter(mode="offline", every_value=True)
    writer.open(run)
    writer.write(training(0, 12))
    writer.close("finished")
    assert points(history(*directories(run)), "total_loss") == [(i, float(i)) for i in range(12)]


@pytest.fixture
def media(run):
    """One iteration of each kind, written; its row and the directory with its files."""
    low_CHW = np.random.default_rng(0).integers(0, 2, (3, 1, 5), dtype=np.uint8)
    with EventStorage() as storage:
        storage.put_image("low", low_CHW)
        storage.put_image("grey", np.full((1, 4, 5), 77, np.uint8))
        storage.put_image("clear", np.full((4, 4, 5), 9, np.uint8))
        storage.put_histogram("few", np.arange(8.0), bins=4)
        storage.put_histogram("many", np.arange(1025.0), bins=1025)
        storage.put_text("note", "a < b")
        events = storage.step()
    writer = WandbWriter(mode="offline", every_value=True)
    writer.open(run)
    writer.write(events)
    writer.close("finished")
    (directory,) = directories(run)
    (row,) = history(directory)
    return events[0], row, directory / "files"


def test_images_are_stored_without_loss_and_a_text_as_text(media):
    events, row, files = media
    for name, image_CHW in events.images.items():
        found = np.asarray(Image.open(files / row[f"{name}.path"]))
        expected = image_CHW[0] if image_CHW.shape[0] == 1 else image_CHW.transpose(1, 2, 0)
        assert np.array_equal(found, expected)
    assert (files / row["note.path"]).read_text() == "<pre>a &lt; b</pre>"


def test_histogram_has_the_bins_of_the_events_merged_where_wandb_takes_fewer(media):
    events, row, _ = media
    assert (row["few.values"], row["few.bins"]) == ([2, 2, 2, 2], [0, 1.75, 3.5, 5.25, 7])
    counts, edges = row["many.values"], row["many.bins"]
    assert len(counts) <= 512
    assert len(edges) == len(counts) + 1
    assert sum(counts) == 1025
    assert (edges[0], edges[-1]) == (0.0, 1024.0)
    assert edges[1] == events.histograms["many"].edges[3]


def test_offline_resume_is_a_second_directory_of_the_same_run(run, training):
    writer = WandbWriter(mode="offline")
    writer.open(run)
    writer.write(training(0, 33))
    state = writer.state_dict()
    writer.close("paused")
    writer = WandbWriter(mode="offline")
    writer.load_state_dict(json.loads(json.dumps(state)))
    writer.open(replace(run, start_iter=33))
    writer.write(training(33, 55))
    writer.close("finished")
    first, second = directories(run)
    assert points(history(first), "total_loss") == [(9, 4.5), (19, 14.5), (29, 24.5)]
    assert points(history(second), "total_loss") == [(39, 34.5), (49, 44.5), (54, 52.0)]
    assert first.name.endswith(run.id)
    assert run.id in second.name


def test_what_a_position_covers_survives_a_kill(run):
    code = (
        "import os, signal\n"
        "from hookline import Events, Run, Scalar\n"
        "from hookline_wandb import WandbWriter\n"
        f"writer = WandbWriter(mode='offline'); writer.open(Run({str(run.dir)!r}, 'n', 'i', period=1))\n"
        "writer.write([Events(i, 0.0, {'x': Scalar(float(i))}) for i in range(300)])\n"
        "assert writer.state_dict()['sent'] == 299\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], timeout=60)
    assert done.returncode == -signal.SIGKILL
    (directory,) = directories(run)
    assert [row["iteration"] for row in history(directory)] == list(range(300))


def test_names_with_characters_that_wandb_refuses_are_changed(run):
    writer = WandbWriter(mode="offline")
    writer.open(replace(run, id="a/b:c", name="x/y"))
    writer.close("finished")
    (directory,) = directories(run)
    (started,) = (record["run"] for record in records(directory) if record["type"] == "run")
    assert (started["run_id"], started["project"], started["display_name"]) == ("a-b-c", "x-y", "a/b:c")


def test_half_a_surrogate_pair_as_file_names_have_it_is_an_escape(run):
    name, escaped = b"caf\xe9".decode(errors="surrogateescape"), r"caf\udce9"
    with EventStorage() as storage:
        storage.put_hparams({name: name})
        storage.put_scalar(name, 1.0)
        storage.put_text("file", name)
        events = storage.step()
    writer = WandbWriter(mode="offline")
    writer.open(replace(run, config={"data": [name]}))
    writer.write(events)
    writer.close("finished")
    (directory,) = directories(run)
    assert points(history(directory), escaped) == [(0, 1.0)]
    (page,) = directory.glob("files/media/html/*.html")
    assert escaped in page.read_text()
    (started,) = (record["run"] for record in records(directory) if record["type"] == "run")
    assert started["config"]["update"]["data"] == [escaped]


def test_every_row_says_which_start_of_the_run_sent_it(run, training):
    writer = WandbWriter(mode="offline")
    writer.open(replace(run, generation=1))
    writer.write(training(0, 33))
    state = writer.state_dict()
    writer.close("paused")
    writer = WandbWriter(mode="offline")
    writer.load_state_dict(state)
    writer.open(replace(run, start_iter=33, generation=2))
    writer.write(training(33, 55))
    writer.close("finished")
    first, second = (history(directory) for directory in directories(run))
    assert {row["attempt"] for row in first} == {1}
    assert {row["attempt"] for row in second} == {2}
    metrics = [record["metric"] for record in records(directories(run)[0]) if record["type"] == "metric"]
    assert [each["name"] for each in metrics if each.get("options", {}).get("hidden")] == [
        "iteration",
        "attempt",
    ]


def test_an_offline_run_names_the_command_that_uploads_it(run, training):
    writer = WandbWriter(mode="offline")
    assert writer.view_command() is None
    writer.open(run)
    writer.close("finished")
    assert writer.view_command() == f"wandb sync {run.dir}/wandb/offline-run-*"
    assert [str(path) for path in run.dir.glob("wandb/offline-run-*")]


@pytest.mark.parametrize("mode", ["option", "environment"])
def test_disabled_writes_nothing(run, training, monkeypatch, mode):
    if mode == "environment":
        monkeypatch.setenv("WANDB_MODE", "disabled")
    writer = WandbWriter(mode="disabled" if mode == "option" else None)
    writer.open(run)
    writer.write(training(0, 55))
    assert writer.state_dict()["id"] == run.id
    writer.close("finished")
    assert list(run.dir.iterdir()) == []


def test_importing_the_plugin_and_a_disabled_writer_import_no_wandb(run):
    code = (
        "import sys; from hookline import Run; from hookline_wandb import WandbWriter\n"
        f"writer = WandbWriter(mode='disabled'); writer.open(Run({str(run.dir)!r}, 'n', 'i'))\n"
        "print({'wandb', 'PIL'} & sys.modules.keys())"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert out.stdout.strip() == "set()"


def test_an_instance_of_another_name_is_a_run_of_its_own_and_goes_on_as_one(run, training):
    writer = WandbWriter(mode="offline")
    writer.open(replace(run, writer="again"))
    writer.write(training(0, 20))
    state = writer.state_dict()
    writer.close("paused")
    assert state["id"] == f"{run.id}-again"
    (directory,) = directories(run)
    (started,) = (record["run"] for record in records(directory) if record["type"] == "run")
    assert (started["run_id"], started["display_name"]) == (f"{run.id}-again", f"{run.id}-again")
    assert points(history(directory), "total_loss") == [(9, 4.5), (19, 14.5)]
    old = WandbWriter(mode="disabled")
    old.load_state_dict(state | {"id": run.id})  # of before the name of an instance was known
    old.open(replace(run, writer="again"))
    assert old.state_dict()["id"] == run.id
