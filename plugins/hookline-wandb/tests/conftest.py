"""A W&B of our own on this machine, and a home in which nobody is logged in."""

import gzip
import json
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from hookline import Events, Run, Scalar
from hookline_wandb import session


@pytest.fixture(autouse=True)
def nobody_is_logged_in(tmp_path, monkeypatch) -> Iterator[None]:
    """Isolate a test from this machine's W&B settings, and leave nothing running after it."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    for name in (
        "HOME",
        "USERPROFILE",
        "XDG_CACHE_HOME",
        "XDG_CONFIG_HOME",
        "WANDB_CONFIG_DIR",
        "WANDB_CACHE_DIR",
    ):
        monkeypatch.setenv(name, str(home))
    monkeypatch.setenv("NETRC", str(home / "netrc"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setitem(session.SETTINGS, "finish_timeout", 10.0)
    yield
    import wandb

    wandb.teardown()
    monkeypatch.delenv("WANDB_SERVICE", raising=False)


@pytest.fixture
def run(tmp_path) -> Run:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    config = {"train": {"max_iter": 55}, "model": {"target": "mlp"}}
    return Run(run_dir, "char-gpt", "20261122-abc", config=config, period=10)


class Server:
    """Answers what wandb asks, and remembers what it is told, of any number of runs."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.offsets: list[int] = []
        self.runs: list[dict[str, Any]] = []
        self.exit_codes: list[int] = []
        self.status = 200
        server = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args: Any) -> None:
                pass

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                self.answer(server.post(self.path, body))

            def do_PUT(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self.answer({})

            def answer(self, answer: dict[str, Any]) -> None:
                content = json.dumps(answer).encode()
                with suppress(ConnectionError):
                    self.send_response(server.status)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def post(self, path: str, body: bytes) -> dict[str, Any]:
        if path.endswith("/file_stream"):
            return self.stream(json.loads(body))
        if not path.endswith("/graphql"):
            return {}
        query = json.loads(body)
        answer = getattr(self, str(query.get("operationName")), None)
        return {"data": answer(query.get("variables", {})) if answer else {}}

    def stream(self, told: dict[str, Any]) -> dict[str, Any]:
        history = told.get("files", {}).get("wandb-history.jsonl", {"content": []})
        self.rows += map(json.loads, history["content"])
        if history["content"]:
            self.offsets.append(history["offset"])
        if told.get("complete"):
            self.exit_codes.append(told["exitcode"])
        return {}

    def RunResumeStatus(self, variables: dict[str, Any]) -> dict[str, Any]:
        bucket = None
        if self.rows:
            bucket = {
                "id": "bucket",
                "name": variables["name"],
                "displayName": "name",
                "summaryMetrics": json.dumps(self.rows[-1]),
                "historyTail": json.dumps([json.dumps(self.rows[-1])]),
                "eventsTail": "[]",
                "historyLineCount": len(self.rows),
                "eventsLineCount": 0,
                "logLineCount": 0,
                "config": self.runs[-1]["config"],
                "tags": [],
                "notes": None,
                "wandbConfig": json.dumps({"t": {"value": 1}}),
            }
        return {"model": {"id": "m", "name": "p", "entity": {"id": "e", "name": "me"}, "bucket": bucket}}

    def UpsertBucket(self, variables: dict[str, Any]) -> dict[str, Any]:
        self.runs.append(variables)
        project = {"name": variables["project"] or "p", "entity": {"name": "me"}}
        bucket = {"id": "bucket", "name": variables["name"], "displayName": "name", "project": project}
        return {"upsertBucket": {"bucket": {**bucket, "historyLineCount": 0}, "inserted": not self.rows}}

    def ServerFeaturesQuery(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"serverInfo": {"features": []}}

    def CreateRunFiles(self, variables: dict[str, Any]) -> dict[str, Any]:
        files = [{"name": name, "uploadUrl": f"{self.url}/upload/{name}"} for name in variables["files"]]
        return {"createRunFiles": {"runID": "bucket", "uploadHeaders": [], "files": files}}


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    """A W&B that this process is logged in at."""
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    yield server
    server.http.shutdown()
    server.http.server_close()
    thread.join()


def training(start_iter: int, num_iters: int) -> list[Events]:
    """A loss in every iteration, an evaluation every 20."""
    events = []
    for i in range(start_iter, num_iters):
        scalars = {"total_loss": Scalar(float(i))}
        if i % 20 == 14:
            scalars["eval/loss"] = Scalar(100.0 + i, smoothing_hint=False)
        events.append(Events(i, 1000.0 + i, scalars))
    return events


@pytest.fixture(name="training")
def _training():
    return training
