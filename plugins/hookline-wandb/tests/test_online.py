"""Against a W&B that runs on this machine: what arrives there, and what happens when nobody answers."""

import json
import math
import os
import pty
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from hookline import Delivery, Events, EventStorage, Scalar, WriterError
from hookline_wandb import WandbWriter, session

LOSSES = [(9, 4.5), (19, 14.5), (29, 24.5), (39, 34.5), (49, 44.5), (54, 52.0)]
EVALS = [(14, 114.0), (34, 134.0), (54, 154.0)]


def points(server, name):
    return [(row["iteration"], row[name]) for row in server.rows if name in row]


def resumed(run, state, start_iter):
    writer = WandbWriter()
    writer.load_state_dict(json.loads(json.dumps(state)))
    writer.open(replace(run, start_iter=start_iter))
    return writer


def test_points_arrive_once_a_period_and_at_their_iteration(run, server, training):
    writer = WandbWriter()
    writer.open(run)
    writer.write(training(0, 55))
    writer.close("finished")
    assert points(server, "total_loss") == LOSSES
    assert points(server, "eval/loss") == EVALS
    assert [row["_timestamp"] for row in server.rows if row["iteration"] == 9] == [1009.0]
    assert server.exit_codes == [0]


def test_run_is_created_with_its_name_config_and_hyper_parameters(run, server):
    writer = WandbWriter(tags=["a"], group="g", name="mine")
    writer.open(run)
    writer.write([Events(0, 0.0, hparams={"lr": 0.1})])
    writer.write([Events(1, 0.0, hparams={"lr": 0.2, "seed": 1})])
    writer.close("failed")
    first, last = server.runs[0], server.runs[-1]
    assert (first["name"], first["project"], first["displayName"]) == (run.id, run.name, "mine")
    assert (first["tags"], first["groupName"]) == (["a"], "g")
    config = {name: entry["value"] for name, entry in json.loads(last["config"]).items() if name != "_wandb"}
    assert config == {**run.config, "lr": 0.2, "seed": 1}
    assert server.exit_codes == [1]


def test_environment_variables_of_wandb_hold_where_no_option_is_given(run, server, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "from-env")
    monkeypatch.setenv("WANDB_NAME", "name-from-env")
    writer = WandbWriter()
    writer.open(run)
    writer.close("finished")
    assert (server.runs[0]["project"], server.runs[0]["displayName"]) == ("from-env", "name-from-env")


def test_resumed_run_sends_every_point_once(run, server, training):
    writer = WandbWriter()
    writer.open(run)
    writer.write(training(0, 33))
    state = writer.state_dict()
    writer.write(training(33, 50))
    writer.close("failed")
    writer = resumed(run, state, 33)
    writer.write(training(33, 55))
    writer.close("finished")
    assert points(server, "total_loss") == LOSSES
    assert points(server, "eval/loss") == EVALS
    assert {variables["name"] for variables in server.runs} == {run.id}


def test_run_without_a_checkpoint_that_starts_again_sends_every_point_once(run, server, training):
    for status in ("failed", "finished"):
        writer = WandbWriter()
        writer.open(run)
        writer.write(training(0, 30 if status == "failed" else 55))
        writer.close(status)
    assert points(server, "total_loss") == LOSSES


def test_points_that_were_not_uploaded_when_the_process_was_killed_are_sent_after_a_resume(run, server):
    code = (
        "import json, os, signal, sys\n"
        "from hookline import Events, Run, Scalar\n"
        "from hookline_wandb import WandbWriter\n"
        f"writer = WandbWriter(); writer.open(Run({str(run.dir)!r}, 'n', {run.id!r}, period=1))\n"
        "writer.write([Events(i, 0.0, {'x': Scalar(float(i))}) for i in range(300)])\n"
        "print(json.dumps(writer.state_dict())); sys.stdout.flush()\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert len(server.rows) < 300
    writer = resumed(replace(run, period=1), json.loads(done.stdout), 300)
    writer.write([Events(300, 0.0, {"x": Scalar(300.0)})])
    writer.close("finished")
    assert points(server, "x") == [(i, float(i)) for i in range(301)]


def test_images_and_histograms_that_did_not_arrive_are_sent_after_a_resume(run, server):
    with EventStorage() as storage:
        storage.put_image("picture", np.zeros((3, 2, 2), np.uint8))
        storage.put_histogram("weights", np.arange(4.0), bins=2)
        storage.put_scalar("x", math.nan)
        events = storage.step()
    writer = WandbWriter(every_value=True)
    writer.open(run)
    writer.write(events)
    state = writer.state_dict()
    writer.close("failed")
    server.rows.clear()
    writer = WandbWriter(every_value=True)
    writer.load_state_dict(state)
    writer.open(run)
    writer.close("finished")
    (row,) = server.rows
    assert (row["picture"]["_type"], row["picture"]["width"]) == ("image-file", 2)
    assert math.isnan(row["x"])
    assert row["weights"]["values"] == [2, 2]


def test_what_was_uploaded_long_ago_is_not_in_a_checkpoint(run, server, training, monkeypatch):
    writer = WandbWriter()
    writer.open(run)
    writer.write(training(0, 30))
    assert [json.loads(entry)["iteration"] for entry in writer.state_dict()["recent"]] == [9, 14, 19, 29]
    assert writer.state_dict()["sent"] == 8
    monkeypatch.setattr("hookline_wandb.writer.UPLOAD_S", 0.0)
    assert writer.state_dict()["recent"] == []
    assert writer.state_dict()["sent"] == 29
    writer.close("finished")


def test_folders_of_an_offline_run_are_joined_when_they_are_uploaded(run, server, training):
    writer = WandbWriter(mode="offline")
    writer.open(run)
    writer.write(training(0, 33))
    state = writer.state_dict()
    writer.close("paused")
    sync(*run.dir.glob("wandb/offline-run-*"))  # as one may in between
    writer = WandbWriter(mode="offline")
    writer.load_state_dict(json.loads(json.dumps(state)))
    writer.open(replace(run, start_iter=33))
    writer.write(training(33, 55))
    writer.close("finished")
    sync(*run.dir.glob("wandb/offline-run-*"))
    assert points(server, "total_loss") == LOSSES
    assert points(server, "eval/loss") == EVALS
    # W&B would write those over others that do not follow them.
    assert server.offsets == [0, 4]
    assert {variables["name"] for variables in server.runs} == {run.id}


def sync(*folders):
    command = [sys.executable, "-m", "wandb", "sync", *folders]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_paused_run_goes_on_within_its_period(run, server, training):
    writer = WandbWriter()
    writer.open(run)
    writer.write(training(0, 33))
    state = writer.state_dict()
    writer.close("paused")
    writer = resumed(run, state, 33)
    writer.write(training(33, 55))
    writer.close("finished")
    assert points(server, "total_loss") == LOSSES
    assert server.exit_codes == [0, 0]


def test_failed_write_is_repeated_without_what_was_sent(run, server, training):
    writer = WandbWriter()
    writer.open(run)
    writer.write(training(0, 15))
    state = writer.state_dict()
    broken = Events(35, 0.0, images={"x": np.zeros((7, 2, 2), np.uint8)})
    with pytest.raises(TypeError):
        writer.write([*training(15, 35), broken, *training(36, 55)])
    writer.load_state_dict(state)
    writer.open(run)
    writer.write(training(15, 55))
    writer.close("finished")
    assert points(server, "total_loss") == LOSSES
    assert points(server, "eval/loss") == EVALS


def test_it_is_told_by_a_delivery(run, server):
    with EventStorage() as storage, Delivery(storage, {"wandb": WandbWriter()}, run) as delivery:
        for i in range(25):
            storage.put_scalar("total_loss", i)
            storage.step()
    assert delivery.gaps == []
    assert points(server, "total_loss") == [(9, 4.5), (19, 14.5), (24, 22.0)]


def test_process_is_left_as_it_was(run, server):
    import wandb

    before = (sys.exit, sys.excepthook, sys.stdout, sys.stderr, os.getcwd())
    writer = WandbWriter()
    writer.open(run)
    assert (sys.exit, sys.excepthook, sys.stdout, sys.stderr, os.getcwd()) == before
    assert wandb.run is None
    writer.close("finished")


def test_nothing_is_printed(run, server, training, capfd):
    writer = WandbWriter()
    writer.open(run)
    writer.write(training(0, 55))
    writer.close("finished")
    assert capfd.readouterr() == ("", "")


def test_no_key_is_an_error_that_offers_offline(run):
    start = time.monotonic()
    with pytest.raises(
        WriterError,
        match=r"expected an API key for W&B, got .*WANDB_API_KEY, or run with writers\.wandb\.mode=offline",
    ):
        WandbWriter().open(run)
    assert time.monotonic() - start < 25


@pytest.mark.parametrize("status", [401, 403])
def test_refused_key_is_an_error_that_offers_offline(run, server, status):
    server.status = status
    with pytest.raises(WriterError, match=f"expected an API key for W&B, got .*{status}.*mode=offline"):
        WandbWriter(init_timeout_s=5).open(run)


def test_key_of_a_wrong_form_is_an_error_that_offers_offline(run, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", " short")
    with pytest.raises(WriterError, match=r"expected an API key for W&B, got .*mode=offline"):
        WandbWriter().open(run)


def test_option_that_wandb_refuses_is_an_error(run, server):
    with pytest.raises(
        WriterError, match=r"expected a run that W&B accepts, got .*Invalid project name 'a/b'"
    ):
        WandbWriter(project="a/b").open(run)


def test_no_key_on_a_terminal_is_an_error_and_no_question(run):
    code = (
        "import sys; from hookline import Run; from hookline_wandb import WandbWriter\n"
        "assert sys.stdin.isatty() and sys.stderr.isatty()\n"
        f"WandbWriter().open(Run({str(run.dir)!r}, 'n', 'i'))"
    )
    terminal, device = pty.openpty()
    process = subprocess.Popen([sys.executable, "-c", code], stdin=device, stdout=device, stderr=device)
    os.close(device)
    try:
        assert process.wait(25) == 1
        assert b"mode=offline" in os.read(terminal, 1 << 20)
    finally:
        process.kill()
        process.wait()
        os.close(terminal)


@pytest.fixture(params=["refused", "silent"])
def dead_url(request):
    """An address that refuses connections, or takes them and never answers."""
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    if request.param == "refused":
        listener.close()
    yield url
    listener.close()


def test_no_network_is_an_error_that_offers_offline(run, dead_url, monkeypatch):
    monkeypatch.setenv("WANDB_BASE_URL", dead_url)
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    start = time.monotonic()
    with pytest.raises(
        WriterError, match=r"expected W&B to accept the run within 2 s, .*writers\.wandb\.mode=offline"
    ):
        WandbWriter(init_timeout_s=2).open(run)
    assert time.monotonic() - start < 25


def test_uploads_that_take_too_long_are_given_up_with_the_way_to_repeat_them(
    run, server, monkeypatch, training
):
    monkeypatch.setitem(session.SETTINGS, "finish_timeout", 1.0)
    answering = threading.Event()
    monkeypatch.setattr(server, "stream", lambda told: answering.wait(20) and {})
    writer = WandbWriter()
    writer.open(run)
    writer.write(training(0, 55))
    with pytest.raises(WriterError, match=f"wandb sync {run.dir}/wandb/run-.*{run.id}"):
        writer.close("finished")
    answering.set()
