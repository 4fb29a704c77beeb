"""A run draws after a resume what it would have drawn without one."""

import json
import random

import numpy as np
import pytest
import torch

from hookline.checkpoint import capture, decode, encode, forked_rng, restore
from hookline.checkpoint.rng import apart


def drawn():
    return [
        random.random(),
        random.gauss(0, 1),
        np.random.random(),
        np.random.standard_normal(),
        torch.rand(3).tolist(),
        torch.randn(()).item(),
        torch.randperm(9).tolist(),
    ]


@pytest.fixture(autouse=True)
def _isolated():
    with forked_rng():
        yield


@pytest.mark.parametrize("draws_before", [0, 1, 2])
def test_restore_continues_every_generator_where_capture_found_it(draws_before):
    for _ in range(draws_before):  # an odd number of normal draws leaves one cached in Python and NumPy
        drawn()
    state = capture()
    expected = [drawn(), drawn()]
    restore(state)
    assert [drawn(), drawn()] == expected


def test_a_captured_state_survives_a_checkpoint():
    drawn()
    tree, tensors = encode(capture())
    expected = drawn()
    restore(decode(json.loads(json.dumps(tree)), tensors))
    assert drawn() == expected


def test_a_captured_state_does_not_move_with_the_generators():
    state = capture()
    expected = drawn()
    for _ in range(700):
        drawn()
    restore(state)
    assert drawn() == expected


def test_capture_draws_nothing():
    before = capture()
    capture()
    expected = drawn()
    restore(before)
    assert drawn() == expected


def test_another_global_numpy_generator_is_captured_too():
    original = np.random.get_bit_generator()
    try:
        np.random.set_bit_generator(np.random.PCG64(5))
        tree, tensors = encode(capture())
        expected = np.random.random()
        restore(decode(json.loads(json.dumps(tree)), tensors))
        assert np.random.random() == expected
    finally:
        np.random.set_bit_generator(original)


def test_forked_rng_leaves_every_generator_as_it_was():
    state = capture()
    expected = drawn()
    restore(state)
    with forked_rng():
        drawn()
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
    assert drawn() == expected


def test_forked_rng_leaves_every_generator_as_it_was_after_an_error():
    state = capture()
    expected = drawn()
    restore(state)
    with pytest.raises(KeyError), forked_rng():
        raise KeyError(drawn())
    assert drawn() == expected


def test_forked_rng_starts_with_the_state_it_found():
    state = capture()
    expected = drawn()
    restore(state)
    with forked_rng():
        assert drawn() == expected


def test_capture_does_not_initialise_cuda():
    capture()
    with forked_rng():
        assert not torch.cuda.is_initialized()


def test_devices_in_use_are_captured(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: ["first", "second"])
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    assert capture()["cuda"] == []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    assert capture()["cuda"] == ["first", "second"]


def test_states_of_devices_that_are_gone_are_left_out(monkeypatch):
    restored = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: restored.append((state, device)))
    restore({**capture(), "cuda": ["first", "second"]})
    assert restored == [("first", 0)]


def test_what_is_drawn_apart_depends_on_nothing_that_is_drawn_in_between():
    seen = []
    for between in (0, 3):
        with forked_rng():
            items = apart(drawn() for _ in range(3))
            first = next(items)
            for _ in range(between):
                drawn()
            with forked_rng():
                expected = drawn()
            seen.append([first, *items])
            assert drawn() == expected
    assert seen[0] == seen[1]
    assert seen[0][0] != seen[0][1]
