"""DeviceFeed with the machine's edge replaced: streams that write down what is queued on them.

The device is ``meta``: tensors go there as they go to any, and hold no values. What only a real one can show
is in tests/gpu/test_prefetch_gpu.py.
"""

from __future__ import annotations

from collections import namedtuple
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import hookline.prefetch
import hookline.trainer.simple
from hookline.prefetch import DeviceFeed

META = torch.device("meta")
Pair = namedtuple("Pair", "left right")


@dataclass
class Sample:
    image: torch.Tensor
    name: str


class Machine:
    """What was queued, in order: (stream, what)."""

    def __init__(self):
        self.queued = []
        self.current = "compute"

    def stream_of(self, name):
        machine = self

        class Stream:
            def wait_stream(self, other):
                machine.queued.append((name, f"wait for {other.name}"))

        Stream.name = name
        return Stream()


@pytest.fixture
def machine(monkeypatch):
    machine = Machine()
    streams = {name: machine.stream_of(name) for name in ("compute", "side")}

    @contextmanager
    def entered(stream):
        outer, machine.current = machine.current, stream.name
        try:
            yield
        finally:
            machine.current = outer

    def sent(tensor, *args, **kwargs):
        if args == (META,) and tensor.device != META:
            assert kwargs["non_blocking"]
            machine.queued.append((machine.current, f"copy {list(tensor.shape)}"))
        return move(tensor, *args, **kwargs)

    def pin(tensor):
        machine.queued.append(("host", f"pin {list(tensor.shape)}"))
        return tensor

    move = torch.Tensor.to
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: streams["side"])
    monkeypatch.setattr(torch.cuda, "stream", entered)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: streams[machine.current])
    monkeypatch.setattr(torch.Tensor, "to", sent)
    monkeypatch.setattr(
        torch.Tensor, "record_stream", lambda tensor, stream: machine.queued.append((stream.name, "keep"))
    )
    monkeypatch.setattr(hookline.prefetch, "_pinned", pin)
    return machine


def test_a_copy_is_queued_on_the_side_stream_and_only_the_device_waits_for_it(machine):
    sent = DeviceFeed(META)(torch.ones(3))
    assert sent.device == META
    assert machine.queued == [
        ("host", "pin [3]"),
        ("side", "copy [3]"),
        ("compute", "keep"),
        ("compute", "wait for side"),
    ]


def test_all_tensors_of_a_batch_are_waited_for_once(machine):
    DeviceFeed(META)({"x": torch.ones(2), "more": [torch.ones(3)]})
    assert machine.queued.count(("compute", "wait for side")) == 1
    assert [what for stream, what in machine.queued if stream == "side"] == ["copy [2]", "copy [3]"]


@pytest.mark.parametrize(
    ("batch", "found"),
    [
        ([torch.ones(1)], lambda b: b[0]),
        ((1, {"a": torch.ones(1)}), lambda b: b[1]["a"]),
        (Pair(torch.ones(1), None), lambda b: b.left),
        ([Sample(torch.ones(1), "a")], lambda b: b[0].image),
    ],
)
def test_tensors_are_found_in_any_nesting_and_the_batch_is_not_changed(machine, batch, found):
    sent = DeviceFeed(META)(batch)
    assert type(sent) is type(batch)
    assert found(sent).device == META
    assert found(batch).device.type == "cpu"


def test_what_is_no_tensor_stays_as_it_is(machine):
    batch = {"text": "a", "none": None, "number": 1, "kind": Sample}
    assert DeviceFeed(META)(batch) == batch


def test_a_tensor_that_is_on_the_device_is_the_same_one_afterwards(machine):
    there = torch.ones(2, device=META)
    assert DeviceFeed(META)([there])[0] is there
    assert machine.queued == [("compute", "wait for side")]


class Own(torch.Tensor):
    """A subclass, which may mean more than its values."""


@pytest.mark.parametrize(
    "value",
    [
        nn.utils.rnn.pack_sequence([torch.ones(3), torch.ones(2)]),
        torch.eye(2).to_sparse(),
        torch.ones(2).as_subclass(Own),
        nn.Parameter(torch.ones(2)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_plain_tensor_is_sent_by_its_own_to_on_the_compute_stream(machine, value):
    (sent,) = DeviceFeed(META)([value])
    assert type(sent) is type(value) or isinstance(value, nn.Parameter)
    assert {stream for stream, _ in machine.queued} == {"compute"}


def test_an_error_in_the_middle_leaves_the_compute_stream_current(machine):
    class Broken:
        def to(self, device, non_blocking):
            raise RuntimeError("no such device")

    with pytest.raises(RuntimeError, match="no such device"):
        DeviceFeed(META)([torch.ones(1), Broken()])
    assert machine.current == "compute"


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(6.0).view(2, 3),
        torch.arange(6.0).view(2, 3).t(),
        torch.arange(48.0).view(2, 3, 4, 2).to(memory_format=torch.channels_last),
        torch.arange(8.0).view(2, 4)[:, ::2],
        torch.ones(1).expand(4),
        torch.tensor(3),
    ],
)
@pytest.mark.parametrize("is_pinned", [False, True])
def test_memory_is_dense_and_pinned_before_it_is_sent_in_the_layout_that_to_would_give(
    monkeypatch, tensor, is_pinned
):
    allocated = []

    def empty_like(tensor, pin_memory):
        allocated.append(pin_memory)
        return make(tensor)

    make = torch.empty_like
    monkeypatch.setattr(torch, "empty_like", empty_like)
    monkeypatch.setattr(torch.Tensor, "is_pinned", lambda tensor: is_pinned)
    pinned = hookline.prefetch._pinned(tensor)
    assert torch.equal(pinned, tensor)
    assert pinned.stride() == tensor.to(META).stride()
    is_dense = tensor.to(META).stride() == tensor.stride()
    assert allocated == ([] if is_pinned and is_dense else [True])


class CudaKernel:
    """Stands for a StepKernel whose parameters are on a CUDA device."""

    device = torch.device("cuda", 0)

    def __init__(self, model, optimizer, **options):
        self.received = []

    def step(self, microbatches):
        self.received += microbatches
        return {"total_loss": torch.ones(()), "grad_norm": torch.ones(())}


@pytest.fixture
def on_cuda(monkeypatch):
    monkeypatch.setattr(hookline.trainer.simple, "StepKernel", CudaKernel)
    monkeypatch.setattr(hookline.trainer.simple, "DeviceFeed", lambda device: lambda batch: (device, batch))


def test_a_trainer_on_cuda_sends_each_microbatch_and_shows_hooks_what_the_loader_gave(on_cuda, make_trainer):
    trainer = make_trainer(accumulate=2)
    trainer.train(0, 1)
    assert trainer.kernel.received == [(CudaKernel.device, batch) for batch in trainer.microbatches]


def test_a_trainer_without_prefetch_leaves_sending_to_the_kernel(on_cuda, make_trainer):
    trainer = make_trainer(prefetch=False)
    trainer.train(0, 1)
    assert trainer.kernel.received[0] is trainer.microbatches[0]


def test_a_trainer_on_a_cpu_hands_on_the_very_batch_of_the_loader(make_trainer, monkeypatch):
    trainer = make_trainer()
    received = []
    step = trainer.kernel.step
    monkeypatch.setattr(trainer.kernel, "step", lambda batches: received.append(batches) or step(batches))
    trainer.train(0, 1)
    assert received == [trainer.microbatches]
    assert received[0][0] is trainer.microbatches[0]
