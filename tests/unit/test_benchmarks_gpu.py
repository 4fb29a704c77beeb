"""The GPU script is rehearsed where there is no GPU: every part of it runs, with sizes that mean nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
MODES_OF_A_GPU = ("graph", "auto")


def gpu(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.gpu", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_every_part_is_rehearsed_on_a_cpu(tmp_path):
    done = gpu("--device", "cpu", "--tiny", "--results", str(tmp_path))
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "rehearsal.json").read_text())
    parts = {row["part"].split(",")[0] for row in result["rows"]}
    assert parts == {
        "a NaN batch",
        "waits of the host in 8 iterations",
        "put_scalar",
        "launch-bound",
        "GPT-2",
        "fp16",
        "input-bound images",
    }
    for row in result["rows"]:
        assert row["value"], row
        if row["what"].endswith(MODES_OF_A_GPU):  # There is none: asked for, refused, and said so.
            assert "ran as eager (no CUDA graph, because the model is on cpu" in row["note"]
    bad = [row for row in result["rows"] if row["part"] == "a NaN batch"]
    assert {row["value"] for row in bad} == {"weights equal to the bit"}
    assert {row["what"] for row in bad} == {"hookline, eager", "hookline, compiled", "hookline, graph"}
    assert "A rehearsal: no number below means anything." in (tmp_path / "rehearsal.md").read_text()


def test_what_it_does_not_know_is_refused():
    done = gpu("--device", "cpu", "--parts", "gtp")
    assert done.returncode == 2
    assert (
        "--parts: expected some of bad-batch, syncs, storage, launch-bound, gpt, fp16, images, got 'gtp'."
        in done.stderr
    )
