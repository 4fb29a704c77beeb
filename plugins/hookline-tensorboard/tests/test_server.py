"""What a person sees: a real TensorBoard over HTTP, and a real browser where there is one."""

import json
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote

import pytest

from hookline_tensorboard import TensorBoardWriter

PERIOD_ENDS = [9, 19, 29, 39, 49, 54]
TIMEOUT_S = 30
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextmanager
def tensorboard(logdir, load_fast) -> Iterator[str]:
    """Run a server for as long as the block lasts; yield its address."""
    log = logdir / "server.log"
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logdir), "--reload_interval", "1"]
    command += ["--host", "127.0.0.1", "--port", "0", f"--load_fast={load_fast}"]
    with log.open("w") as output:
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield poll(lambda: address(log, server))
    finally:
        server.terminate()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait(10)


def address(log, server):
    assert server.poll() is None, log.read_text()
    found = re.search(r"http://127\.0\.0\.1:\d+", log.read_text())
    return found and found[0]


def poll(condition):
    """Return the first true value of ``condition``."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.1)
    raise TimeoutError(f"no answer within {TIMEOUT_S} s")


def fetch(url, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
        return response.read()


def get(url, body=None):
    return json.loads(fetch(url, body))


@pytest.fixture(params=["true", "false"])
def server(request, run, write_jumping):
    """A server that shows a run which failed twice, on a clock that jumped, once it has read all of it."""
    write_jumping(TensorBoardWriter)
    with tensorboard(run.dir.parent, request.param) as url:
        scalars = f"{url}/data/plugin/scalars"
        poll(lambda: get(f"{scalars}/tags"))
        poll(lambda: get(f"{scalars}/scalars?run=run/tensorboard&tag=total_loss")[-1][1] == PERIOD_ENDS[-1])
        poll(lambda: session_groups(url))
        yield f"{url}/data/plugin"


def session_groups(url):
    statuses = ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"]
    body = {"allowedStatuses": statuses, "colParams": [], "startIndex": 0, "sliceSize": 10}
    (group,) = get(f"{url.removesuffix('/data/plugin')}/data/plugin/hparams/session_groups", body)[
        "sessionGroups"
    ]
    return group if group["sessions"][0]["status"] != "STATUS_UNKNOWN" else None


def test_a_real_server_shows_a_resumed_run_as_if_it_had_never_failed(server):
    def series(name):
        points = get(f"{server}/scalars/scalars?run=run/tensorboard&tag={name}")
        return [(step, pytest.approx(value)) for _, step, value in points]

    (tags,) = get(f"{server}/scalars/tags").values()
    assert set(tags) == {"total_loss", "lr", "time", "eval/loss"}
    means = [4.5, 14.5, 24.5, 34.5, 44.5, 52.0]
    assert series("total_loss") == list(zip(PERIOD_ENDS, means, strict=True))
    assert series("lr") == [(i, pytest.approx(i / 10)) for i in PERIOD_ENDS]
    assert series("time") == [(i, 0.25) for i in PERIOD_ENDS]
    assert series("eval/loss") == [(19, 119.0), (39, 139.0)]

    images = get(f"{server}/images/images?run=run/tensorboard&tag=sample&sample=0")
    assert [image["step"] for image in images] == [19, 39]
    assert fetch(f"{server}/images/individualImage?{images[0]['query']}").startswith(b"\x89PNG")

    histograms = get(f"{server}/histograms/histograms?run=run/tensorboard&tag=weights")
    assert [step for _, step, _ in histograms] == [19, 39]
    assert [count for _, _, count in histograms[0][2]] == [2, 2, 2, 2]

    texts = get(f"{server}/text/text?run=run/tensorboard&tag=note")
    assert [(text["step"], text["text"]) for text in texts] == [
        (19, "<p>iteration <strong>19</strong></p>"),
        (39, "<p>iteration <strong>39</strong></p>"),
    ]

    group = session_groups(server)
    assert group["hparams"] == {"lr": 0.1, "batch_size": 4, "nesterov": True, "model": "mlp"}
    assert group["sessions"][0]["status"] == "STATUS_SUCCESS"
    final = {metric["name"]["tag"]: metric["value"] for metric in group["metricValues"]}
    assert final == {"total_loss": 52.0, "lr": pytest.approx(5.4), "time": 0.25, "eval/loss": 139.0}

    (category,) = get(f"{server}/custom_scalars/layout")["category"]
    assert [chart["title"] for chart in category["chart"]] == ["losses", "times", "eval"]
    (pattern,) = category["chart"][2]["multiline"]["tag"]
    grouped = get(f"{server}/custom_scalars/scalars?run=run/tensorboard&tag={quote(pattern)}")
    assert [point[1:] for point in grouped["tag_to_events"]["eval/loss"]] == [[19, 119.0], [39, 139.0]]


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium, chromium-browser or google-chrome")
def test_a_real_browser_shows_the_curves(run, write_run, tmp_path):
    write_run(TensorBoardWriter, cut=33)
    with tensorboard(run.dir.parent, "true") as url:
        poll(lambda: get(f"{url}/data/plugin/scalars/tags"))
        # A page may be taken before its last chart is drawn.
        for attempt in range(4):
            text = browse(f"{url}/#timeseries", tmp_path / f"profile-{attempt}")
            # The table below a chart has the smoothed value, the value and the step of the last point.
            found = [
                re.search(rf" {name} Alt .*? run/tensorboard [\d.]+ {last} ", text)
                for name, last in {"eval /loss": "139 39", "lr": "5.4 54"}.items()
            ]
            if all(found):
                break
    assert all(found), text


def browse(url, profile):
    """Return the text of the page as it stands when its scripts have run."""
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command += [f"--user-data-dir={profile}", "--window-size=1400,6000", "--virtual-time-budget=20000"]
    done = subprocess.run([*command, "--dump-dom", url], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    text = re.sub(r"<(script|style).*?</\1>", "", done.stdout, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", text).split())
