"""What only a real device can show of background saving: whole copies, in pinned memory, one wait."""

from __future__ import annotations

import pytest
import torch

from hookline.checkpoint import load, snapshot, write
from hookline.checkpoint.host_copy import HostCopy

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

DEVICE = torch.device("cuda", 0)


def test_a_snapshot_holds_what_the_device_had_computed_until_then(tmp_path):
    weight = torch.zeros(1024, 1024, device=DEVICE)
    for _ in range(50):
        weight += 1
    state = {"model": {"w": weight, "turned": weight.t(), "half": weight.bfloat16()}}
    taken = snapshot(1, state, to_host=HostCopy())
    weight.zero_()
    loaded = load(write(tmp_path, taken))["model"]
    for value in loaded.values():
        assert (value == 50).all()


def test_copies_are_queued_without_a_wait_and_lie_in_pinned_memory(monkeypatch, waiting_is_an_error):
    synchronize = torch.cuda.Stream.synchronize

    def only_wait(stream):
        torch.cuda.set_sync_debug_mode("default")
        synchronize(stream)

    weights = [torch.ones(256, 256, device=DEVICE) for _ in range(8)]
    copy = HostCopy()
    copies = [copy(weight) for weight in weights]  # pinned memory is made here
    monkeypatch.setattr(torch.cuda.Stream, "synchronize", only_wait)
    with waiting_is_an_error():
        copy.wait()
    assert all(value.is_pinned() and (value == 1).all() for value in copies)
