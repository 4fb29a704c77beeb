"""Metadata that cannot be read does not stop torch from being imported."""

from __future__ import annotations

import os

import pytest

from hookline.cli.backends import guard_torch


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("TORCH_DEVICE_BACKEND_AUTOLOAD", raising=False)
    info = tmp_path / "other-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1\n")
    return info / "entry_points.txt"


@pytest.mark.parametrize("text", [b"[console_scripts]\nfoo\n", b"[a]\n\xff=b:c\n"])
def test_torch_is_told_not_to_look_where_it_would_fail(site, text, capsys):
    site.write_bytes(text)
    guard_torch()
    assert os.environ.pop("TORCH_DEVICE_BACKEND_AUTOLOAD") == "0"
    assert "'hookline plugins doctor' names it" in capsys.readouterr().err


def test_torch_looks_for_backends_otherwise(site, capsys):
    site.write_text("[console_scripts]\nfoo = a:b\n")
    guard_torch()
    assert "TORCH_DEVICE_BACKEND_AUTOLOAD" not in os.environ
    assert not capsys.readouterr().err
