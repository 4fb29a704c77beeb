"""Files that are not what they should be are one error that says so, whatever is in them."""

from __future__ import annotations

import pytest

from hookline import runs
from hookline.config import load_config
from hookline.errors import CheckpointError, ConfigError, HooklineError, Problem
from hookline.trainer import restoring, saved_weights


@pytest.mark.parametrize("content", [b"", b"\x80\x05K\x01.", b"\xff" * 100, b"PK\x03\x04" + bytes(100)])
def test_a_file_of_weights_that_is_none_is_named(tmp_path, content):
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"w\.safetensors: expected a file of safetensors, got"):
        saved_weights(tmp_path / "w.safetensors")


def test_a_config_as_large_as_no_config_is_refused_unread(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("# comment\n" * 26_214)
    assert file.stat().st_size < 256 * 2**10
    with pytest.raises(ConfigError, match="expected a mapping"):
        load_config(file)
    file.write_text("# comment\n" * 26_215)
    with pytest.raises(
        ConfigError, match=r"run\.yaml: expected a file of at most 256 KiB, got 'a larger one'\.$"
    ):
        load_config(file)


def test_of_many_problems_fifty_are_shown_and_all_are_kept():
    error = ConfigError([Problem(f"key{number}", "something else", number) for number in range(60)])
    lines = str(error).splitlines()
    assert (lines[0], lines[50], lines[51]) == (
        "60 problems:",
        "  key49: expected something else, got 49.",
        "  … and 10 more",
    )
    assert len(lines) == 52
    assert len(error.problems) == 60
    assert "more" not in str(ConfigError(error.problems[:50]))


def test_a_state_that_does_not_fit_is_named_with_where_it_did_not(tmp_path):
    said = rf"{tmp_path}: .*KeyError: 'rng'; at {__file__}:\d+"
    with pytest.raises(CheckpointError, match=said) as caught, restoring(tmp_path):
        {}["rng"]
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize("error", [HooklineError("said well"), KeyboardInterrupt()])
def test_an_error_of_ours_or_an_interrupt_is_raised_as_it_is(tmp_path, error):
    with pytest.raises(type(error)) as caught, restoring(tmp_path):
        raise error
    assert caught.value is error


@pytest.mark.parametrize("content", [b"../other", b"/etc", b"\x00\x00", b"\xff\xfe", b"x" * 10**6, b""])
def test_a_file_named_latest_leads_to_a_neighbour_or_nowhere(tmp_path, content):
    run = tmp_path / "20260101-000000-abcdef" / "checkpoints"
    run.mkdir(parents=True)
    (run / "latest").write_bytes(content)
    assert runs.find(str(run / "latest"), tmp_path).path == run.parent


def test_a_link_that_leads_to_itself_is_no_run(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(HooklineError, match="expected latest"):
        runs.find(str(tmp_path / "loop"), tmp_path)
