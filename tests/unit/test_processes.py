"""Processes are forked from a server where its socket has room, and spawned where it has none."""

from __future__ import annotations

import multiprocessing
import tempfile

import pytest

from hookline.processes import fresh_processes


@pytest.mark.parametrize(("num_bytes", "method"), [(71, "forkserver"), (72, "spawn")])
def test_a_folder_for_temporary_files_may_have_a_long_path(monkeypatch, num_bytes, method):
    if "forkserver" not in multiprocessing.get_all_start_methods():
        method = "spawn"
    monkeypatch.setattr(tempfile, "tempdir", f"/{'x' * (num_bytes - 1)}")
    assert fresh_processes([]).get_start_method() == method
