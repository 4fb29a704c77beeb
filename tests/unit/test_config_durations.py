"""Lengths of time are read as people and SLURM write them, and written so that they are read again."""

from __future__ import annotations

import jsonschema
import pytest

from hookline.config.durations import TimeLimit, duration_text, seconds
from hookline.config.rules import adapter

READ = {
    "90": 90,
    "90s": 90,
    "45m": 2700,
    "90m": 5400,
    "3h50m": 13800,
    "3h 50m 1s": 13801,
    "1d12h": 129600,
    "3:50:00": 13800,
    "03:50:00": 13800,
    "50:00": 3000,
    "1-12:00:00": 129600,
    "1-12:30": 131400,
    "1-12": 129600,
}
REFUSED = [
    0,
    -5,
    True,
    None,
    float("inf"),
    float("nan"),
    "",
    " ",
    "0",
    "0s",
    "0:00",
    "-5",
    "3x",
    "1h60m",
    "1d24h",
    "50m3h",
    "3h50",
    "1.5h",
    "1:60:00",
    "1-24:00:00",
    "1:2:3:4",
    "soon",
]


@pytest.mark.parametrize(("text", "expected"), READ.items())
def test_each_form_is_read(text, expected):
    assert seconds(text) == expected


@pytest.mark.parametrize("number", [90, 0.5])
def test_a_number_is_seconds(number):
    assert seconds(number) == number


@pytest.mark.parametrize("value", REFUSED, ids=repr)
def test_everything_else_is_refused(value):
    with pytest.raises(ValueError):
        seconds(value)


@pytest.mark.parametrize("length_s", [0.5, 1, 90, 2700, 13800, 129600, 131401])
def test_what_is_written_is_read_again(length_s):
    text = duration_text(length_s)
    assert (float(text[:-1]) if length_s < 60 else seconds(text)) == length_s


@pytest.mark.parametrize("value", [*READ, *REFUSED, 90, 0.5], ids=repr)
def test_an_editor_refuses_what_is_refused(value):
    validator = jsonschema.Draft202012Validator(adapter(TimeLimit).json_schema())
    try:
        is_right = bool(seconds(value))
    except ValueError:
        is_right = False
    if value not in (float("inf"),) and value == value:  # what JSON has no word for
        assert validator.is_valid(value) == is_right
