"""Processes are started fresh in the best way there is, and know what a launcher did with them."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile

import pytest

from hookline import processes
from hookline.processes import fresh_processes


@pytest.mark.parametrize(("num_bytes", "method"), [(71, "forkserver"), (72, "spawn")])
def test_a_folder_for_temporary_files_may_have_a_long_path(monkeypatch, num_bytes, method):
    if "forkserver" not in multiprocessing.get_all_start_methods():
        method = "spawn"
    monkeypatch.setattr(tempfile, "tempdir", f"/{'x' * (num_bytes - 1)}")
    assert fresh_processes([]).get_start_method() == method


@pytest.mark.parametrize(
    ("environment", "command"),
    [
        ({}, "hookline train"),
        ({"WORLD_SIZE": "2"}, "hookline train --nproc 2"),
        ({"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4"}, "hookline train --nproc 4"),
        (
            {"WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4", "MASTER_ADDR": "first"},
            "torchrun --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d --rdzv-endpoint first:29400 "
            "-m hookline train",
        ),
    ],
)
def test_the_command_that_starts_as_many_processes_again(monkeypatch, environment, command):
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert processes.launch_command() == command.split()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_time_counts_from_the_start_of_a_launcher(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert processes.seconds_since_launch() == 0
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
    age_s = processes.seconds_since_launch()  # of whoever started these tests
    assert age_s > 0
    monkeypatch.setattr(os, "getppid", os.getpid)
    assert 0 < processes.seconds_since_launch() < age_s
    monkeypatch.setattr(os, "getppid", lambda: 0)
    assert processes.seconds_since_launch() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_children_that_lead_a_session_are_found_and_no_others():
    code = [sys.executable, "-c", "input()"]
    with (
        subprocess.Popen(code, stdin=subprocess.PIPE, start_new_session=True) as leader,
        subprocess.Popen(code, stdin=subprocess.PIPE) as other,
    ):
        found = processes.sessions()
        leader.communicate(b"\n")
        other.communicate(b"\n")
    assert leader.pid in found
    assert other.pid not in found
