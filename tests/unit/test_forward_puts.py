"""What a model measures in its forward, under a graph; and which kernel a trainer takes."""

from __future__ import annotations

import pytest
import torch

from hookline import EventStorage, HookBase, get_event_storage
from hookline.errors import RunError
from hookline.kernel import GraphKernel, StepKernel
from hookline.testing import tiny_trainer
from hookline.trainer.forward_puts import ForwardPuts

CPU = torch.device("cpu")


def test_what_was_recorded_is_put_again_with_the_values_of_the_moment():
    puts, value = ForwardPuts(CPU), torch.tensor(1.0)
    with EventStorage() as storage:
        with puts.recording():
            inner = get_event_storage()
            with inner.name_scope("gate"):
                inner.put_scalar("open", value, False, volatile=True)
            inner.put_scalars({"a": value, "b": 2 * value})
            inner.put_scalar("a", value + 4)
        assert storage.latest() == {}
        value.fill_(7)  # What was put is what it was then.
        recorded = [tensor for each in puts._puts for tensor in each.scalars.values()]
        for iteration in range(3):
            for tensor in recorded:  # As a replay does.
                tensor.add_(iteration)
            puts.renew()
            (events,) = storage.step()
            added = sum(range(iteration + 1))
            assert events.scalars["gate/open"] == (1 + added, False, True)
            assert events.scalars["a"].value == (1 + 5) / 2 + added
            assert events.scalars["b"].value == 2 + added


def test_a_second_recording_replaces_the_first():
    puts = ForwardPuts(CPU)
    with EventStorage() as storage:
        for name in ("a", "b"):
            with puts.recording():
                get_event_storage().put_scalar(name, torch.tensor(1.0))
        puts.renew()
        assert set(storage.latest()) == {"b"}


def test_what_is_put_while_measuring_is_gone():
    puts = ForwardPuts(CPU)
    with EventStorage() as storage:
        with puts.discarding():
            get_event_storage().put_scalar("a", 1.0)
        puts.renew()
        assert storage.latest() == {}


@pytest.mark.parametrize(
    ("put", "named"),
    [
        (lambda s: s.put_scalar("x", 1.0), "scalar 'x' from the host, not from cpu"),
        (lambda s: s.put_scalars(y=3), "scalar 'y' from the host"),
        (lambda s: s.put_image("seen", torch.zeros(1, 2, 2)), "image 'seen'"),
        (lambda s: s.put_histogram("spread", torch.zeros(2)), "histogram 'spread'"),
        (lambda s: s.put_text("said", "hello"), "text 'said'"),
        (lambda s: s.put_timings({"t": 1.0}), "timing 't'"),
        (lambda s: s.put_hparams({"h": 1}), "hyper-parameter 'h'"),
    ],
)
def test_what_no_replay_can_renew_is_refused_by_name(put, named):
    with pytest.raises(ValueError, match=named), ForwardPuts(CPU).recording():
        put(get_event_storage())


class Unsafe(HookBase):
    def after_step(self):
        """Do nothing."""


class Looks(HookBase):
    graph_safe = True

    def after_backward(self):
        """Do nothing."""


class Safe(Unsafe):
    graph_safe = True


class Ends(HookBase):
    def after_train(self):
        """Do nothing."""


@pytest.mark.parametrize(
    ("hooks", "words"),
    [
        ([Unsafe()], "does not declare graph_safe: 'Unsafe' ("),
        ([Safe(), Looks()], "implements after_backward: 'Looks' ("),
        ([Safe(), Ends()], "the model is on cpu"),
    ],
)
def test_one_line_says_what_forbids_a_graph_and_whose_it_is(hooks, words, caplog, monkeypatch):
    trainer = tiny_trainer(*hooks, max_iter=5, kernel="graph")
    if "cpu" not in words:
        monkeypatch.setattr(trainer.kernel._graphs, "are_there", lambda: True)
    trainer.train()
    said = [record.getMessage() for record in caplog.records if "train.kernel" in record.getMessage()]
    assert len(said) == 1
    assert said[0].startswith("train.kernel: no CUDA graph, because ")
    assert words in said[0]
    assert trainer.status == "finished"


def test_the_kernel_is_the_one_that_was_asked_for():
    assert type(tiny_trainer(max_iter=1).kernel) is StepKernel
    assert tiny_trainer(max_iter=1, kernel="graph").kernel.mode == "graph"
    auto = tiny_trainer(max_iter=1, kernel="auto").kernel
    assert isinstance(auto, GraphKernel)
    assert auto.mode == ""


def test_another_word_is_refused():
    with pytest.raises(RunError, match="kernel: expected 'eager', 'graph' or 'auto', got 'fast'"):
        tiny_trainer(max_iter=1, kernel="fast")
    with pytest.raises(RunError, match="got 'grpah'. Did you mean 'graph'?"):
        tiny_trainer(max_iter=1, kernel="grpah")
