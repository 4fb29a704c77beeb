"""What hookline asks of every writer, with a W&B that is a list of rows."""

import numbers

import pytest

from hookline.testing import assert_plugin_conforms
from hookline_wandb import WandbWriter, session


class Wandb:
    """What the writer uses of a ``wandb.Run``; ``rows`` is what W&B has of it, and nothing leaves there."""

    def __init__(self, rows):
        self.rows, self.offline, self.url, self.config = rows, False, "http://localhost", Config()
        self.last_iteration = rows[-1]["iteration"] if rows else -1

    def define_metric(self, name, **options):
        """Take note of nothing: rows are rows."""

    def log(self, row):
        self.rows.append(row)


class Config(dict):
    def update(self, values, allow_val_change=False):
        super().update(values)


def points(rows):
    """Return iteration, name and value of each point; of a picture and the like its kind."""
    return [
        (row["iteration"], name, repr(value) if isinstance(value, numbers.Real) else type(value).__name__)
        for row in rows
        for name, value in row.items()
    ]


@pytest.fixture
def rows(monkeypatch):
    """What W&B has, by run directory and id."""
    rows = {}

    def start(run, run_id, options, init_timeout_s):
        return Wandb(rows.setdefault(run.dir, {}).setdefault(run_id, []))

    monkeypatch.setattr(session, "start", start)
    monkeypatch.setattr(session, "last_iteration", lambda run: run.last_iteration)
    monkeypatch.setattr(session, "finish", lambda run, exit_code: None)
    return rows


@pytest.mark.parametrize("every_value", [False, True])
def test_it_conforms(rows, every_value):
    options = {"mode": "online", "project": "p", "tags": ["a"], "every_value": every_value}
    # What W&B was sent stays there: after an error or a resume a point may be there twice.
    assert_plugin_conforms(
        WandbWriter, options, read=lambda run_dir: points(min(rows[run_dir].items())[1]), exactly_once=False
    )
