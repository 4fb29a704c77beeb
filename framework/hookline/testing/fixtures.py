"""Fixtures for plugin authors, active in pytest wherever hookline is installed; torch is imported on use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from hookline import Run
    from hookline.testing import MemoryWriter, TinyTrainer

__all__ = ["hookline_run", "hookline_trainer", "hookline_writer"]


@pytest.fixture
def hookline_trainer(tmp_path: Path) -> Callable[..., TinyTrainer]:
    """Return `tiny_trainer`, whose run directory is ``run`` in this test's ``tmp_path`` if none is given."""
    from hookline.testing import tiny_trainer

    def make(*hooks: Any, **options: Any) -> TinyTrainer:
        return tiny_trainer(*hooks, **{"run_dir": tmp_path / "run", **options})

    return make


@pytest.fixture
def hookline_run(tmp_path: Path) -> Run:
    """Return what a writer is told of a run, whose directory is ``run`` in this test's ``tmp_path``."""
    from hookline import Run

    folder = tmp_path / "run"
    folder.mkdir(exist_ok=True)
    return Run(dir=folder, name="tiny", id="tiny-1", config={"train": {"max_iter": 10}}, period=4)


@pytest.fixture
def hookline_writer() -> MemoryWriter:
    """Return a writer that keeps in memory what it is given."""
    from hookline.testing import MemoryWriter

    return MemoryWriter()
