"""GraphKernel with graphs that are played on a CPU: a replay runs the iteration anew, into the same memory."""

from __future__ import annotations

import copy
from contextlib import contextmanager

import numpy
import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from hookline.kernel import GraphKernel, StepKernel
from hookline.kernel.capture import CudaGraphs


@pytest.fixture(autouse=True)
def _as_on_a_device(monkeypatch):
    monkeypatch.setattr("hookline.kernel.step._HOST_DEVICES", ())
    torch.manual_seed(0)


class PlayedGraphs(CudaGraphs):
    """Does on a CPU what graphs do: a capture changes nothing, a replay changes the memory of the capture."""

    def __init__(self, kernel=None, eager_s=2.0, graph_s=1.0):
        super().__init__(torch.device("cpu"))
        self.kernel, self.times = kernel, [eager_s, graph_s]
        self.num_warm = self.num_captures = self.num_replays = 0

    def are_there(self):
        return True

    def warm_up(self, function):
        self.num_warm += 1
        return function()

    def capture(self, function):
        self.num_captures += 1
        kernel = self.kernel
        states = [value for state in kernel.optimizer.state.values() for value in state.values()]
        memory = [*kernel.model.parameters(), *kernel.model.buffers(), *states, *kernel.state_tensors()]
        before, rng = copy.deepcopy([value.detach() for value in memory]), torch.get_rng_state()
        names, values = function()
        grads = [p.grad for p in kernel.model.parameters()]
        with torch.no_grad():
            for value, old in zip(memory, before, strict=True):
                value.copy_(old)
        torch.set_rng_state(rng)

        def replay():
            self.num_replays += 1
            again, now = function()
            assert again == names
            values.copy_(now)
            for p, grad in zip(kernel.model.parameters(), grads, strict=True):
                if grad is not None:
                    grad.copy_(p.grad)

        return (names, values), replay

    def seconds(self, function, num):
        for _ in range(num):
            function()
        return self.times.pop(0)


class Net(nn.Module):
    def __init__(self, dropout=0.0):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)
        self.dropout = nn.Dropout(dropout)

    def forward(self, batch):
        return mse_loss(self.last(self.dropout(self.norm(torch.tanh(self.first(batch["x"]))))), batch["y"][0])


def make_batches(count, rows=6, seed=1):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda columns: torch.randn(rows, columns, generator=generator)  # noqa: E731
    return [{"x": draw(4), "y": [draw(2)], "split": "train"} for _ in range(count)]


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "adam-amsgrad": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
}


def pair(name="adamw", model=None, choose=False, watch=None, times=(2.0, 1.0), **options):
    """A graph kernel, what it said, and an eager kernel of an equal model."""
    model = model or Net()
    other = copy.deepcopy(model)
    said = []
    graphs = PlayedGraphs(None, *times)
    kernel = GraphKernel(
        model, OPTIMIZERS[name](model.parameters()), choose=choose, watch=watch, say=said.append, graphs=graphs, **options
    )  # fmt: skip
    graphs.kernel = kernel
    return kernel, said, StepKernel(other, OPTIMIZERS[name](other.parameters()), **options)


def state_of(kernel):
    state = copy.deepcopy([kernel.model.state_dict(), kernel.optimizer.state_dict()])
    return state, [copy.deepcopy(p.grad) for p in kernel.model.parameters()]


def assert_same(actual, expected):
    # The rate is a float32 on the device, a float64 in an eager call.
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-6, equal_nan=True)


def run_both(kernel, eager, iterations):
    for microbatches in iterations:
        assert_same(kernel.step(microbatches), eager.step(microbatches))
    assert_same(state_of(kernel), state_of(eager))


class TestEqualsEager:
    @pytest.mark.parametrize("name", OPTIMIZERS)
    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"clip_norm": 0.1},
            {"accumulate": 3, "clip_norm": 0.1},
            {"precision": "bf16"},
            {"precision": "fp16", "accumulate": 2},
        ],
    )
    def test_in_every_optimizer_and_option(self, name, options):
        kernel, said, eager = pair(name, **options)
        count = options.get("accumulate", 1)
        run_both(kernel, eager, [make_batches(count, seed=i) for i in range(9)])
        assert said == []
        assert (kernel._graphs.num_warm, kernel._graphs.num_captures, kernel._graphs.num_replays) == (3, 1, 6)

    def test_a_rate_that_changes_in_each_iteration_needs_one_capture(self):
        kernel, _, eager = pair()
        for i in range(9):
            for each in (kernel, eager):
                each.optimizer.param_groups[0]["lr"] = 0.01 * (i + 1)
            run_both(kernel, eager, [make_batches(1, seed=i)])
        assert kernel._graphs.num_captures == 1

    def test_a_nan_is_skipped_within_the_graph(self):
        kernel, _, eager = pair(clip_norm=0.5)
        run_both(kernel, eager, [make_batches(1, seed=i) for i in range(5)])
        before = copy.deepcopy(kernel.model.state_dict())
        bad = make_batches(1, seed=7)
        bad[0]["x"][0, 0] = torch.nan
        assert kernel.step(bad)["grad_norm"].isnan()
        torch.testing.assert_close(kernel.model.state_dict(), before, rtol=0, atol=0)
        eager.step(bad)
        run_both(kernel, eager, [make_batches(1, seed=i) for i in range(3)])

    def test_metrics_are_not_overwritten_by_the_next_replay(self):
        kernel, _, _ = pair()
        kept = [kernel.step(make_batches(1, seed=i)) for i in range(8)]
        assert len({float(metrics["total_loss"]) for metrics in kept}) == 8

    def test_batches_of_the_caller_are_not_changed(self):
        kernel, _, _ = pair()
        batches = [make_batches(1, seed=i) for i in range(6)]
        before = copy.deepcopy(batches)
        for microbatches in batches:
            kernel.step(microbatches)
        for now, then in zip(batches, before, strict=True):
            assert torch.equal(now[0]["x"], then[0]["x"])
            assert torch.equal(now[0]["y"][0], then[0]["y"][0])

    def test_gradients_that_somebody_dropped_are_there_again(self):
        kernel, _, eager = pair()
        run_both(kernel, eager, [make_batches(1, seed=i) for i in range(5)])
        kernel.optimizer.zero_grad()
        run_both(kernel, eager, [make_batches(1, seed=6)])


class TestWhatChanges:
    """Each is right without anybody's doing, by another capture or an eager iteration."""

    @pytest.mark.parametrize(
        "change",
        [
            lambda k: k.optimizer.param_groups[0].update(weight_decay=0.5),
            lambda k: k.optimizer.param_groups[0].update(betas=(0.5, 0.9)),
            lambda k: k.optimizer.load_state_dict(copy.deepcopy(k.optimizer.state_dict())),
            lambda k: k.model.first.bias.requires_grad_(False),
            lambda k: setattr(k.model.last.weight, "data", k.model.last.weight.data * 2),
            lambda k: k.model.norm.eval(),
            lambda k: k.model.norm.register_buffer("running_mean", torch.ones(8)),
            lambda k: setattr(k.model, "norm", nn.BatchNorm1d(8, affine=False)),
        ],
    )
    def test_another_capture(self, change):
        kernel, said, eager = pair()
        run_both(kernel, eager, [make_batches(1, seed=i) for i in range(5)])
        for each in (kernel, eager):
            change(each)
        run_both(kernel, eager, [make_batches(1, seed=i) for i in range(5)])
        assert kernel._graphs.num_captures == 2
        assert said == []

    def test_a_group_that_is_added(self):
        kernel, _, eager = pair()
        for each in (kernel, eager):
            each.optimizer.param_groups[0]["params"] = [
                *each.model.first.parameters(),
                *each.model.norm.parameters(),
            ]
            each.model.last.requires_grad_(False)
        run_both(kernel, eager, [make_batches(1, seed=i) for i in range(5)])
        for each in (kernel, eager):
            each.model.last.requires_grad_(True)
            each.optimizer.add_param_group({"params": list(each.model.last.parameters()), "lr": 0.3})
        run_both(kernel, eager, [make_batches(1, seed=i) for i in range(5)])
        assert kernel._captured is not None

    def test_options_that_never_rest_end_the_graph(self):
        kernel, said, eager = pair()
        for i in range(20):
            for each in (kernel, eager):
                each.optimizer.param_groups[0]["weight_decay"] = 0.01 * i
            run_both(kernel, eager, [make_batches(1, seed=i)])
        assert kernel.mode == "eager"
        assert len(said) == 1
        assert "keep changing" in said[0]

    @pytest.mark.parametrize("odd", [{"rows": 5}, {"count": 1}])
    def test_an_iteration_of_other_shapes_runs_eagerly_and_the_next_from_the_graph(self, odd):
        kernel, said, eager = pair(accumulate=2)
        iterations = [make_batches(2, seed=i) for i in range(5)]
        other = make_batches(odd.get("count", 2), rows=odd.get("rows", 6), seed=9)
        run_both(kernel, eager, [*iterations, other, *iterations[:2], other, iterations[3]])
        assert len(said) == 1
        assert said[0].startswith("train.kernel: an iteration whose batches have other shapes")
        assert kernel._graphs.num_captures == 1

    def test_shapes_that_become_common_get_the_graph(self):
        kernel, said, eager = pair()
        small = [make_batches(1, rows=5, seed=9)]
        run_both(kernel, eager, [*small * 4, *(make_batches(1, seed=i) for i in range(9))])
        assert kernel._graphs.num_captures == 2
        assert kernel._graphs.num_replays == 1 + 7
        assert len(said) == 1

    def test_an_array_beside_the_tensors_runs_eagerly(self):
        kernel, said, _ = pair()
        batches = make_batches(1)
        for _ in range(6):
            kernel.step([{**batches[0], "split": numpy.arange(3)}])
        assert len(said) == 1

    def test_what_is_given_tells_of_all_that_a_replay_does_not_look_at(self):
        for change in (
            lambda k: k.optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))]}),
            lambda k: k.optimizer.load_state_dict(k.optimizer.state_dict()),
            lambda k: setattr(k.model.first.weight, "data", k.model.first.weight.data.clone()),
            lambda k: setattr(k.model.norm.running_mean, "data", torch.ones(8)),
        ):
            kernel, _, _ = pair("sgd")
            kernel.optimizer.param_groups[0]["params"].remove(kernel.model.first.weight)
            for i in range(5):
                kernel.step(make_batches(1, seed=i))
            before = kernel._given()
            change(kernel)
            kernel._update.refresh()
            assert kernel._given() != before

    def test_a_rate_that_becomes_a_tensor_is_followed(self):
        kernel, _, eager = pair()
        run_both(kernel, eager, [make_batches(1, seed=i) for i in range(5)])
        for rate in (torch.tensor(0.3), torch.tensor(0.1), 0.2):
            for each in (kernel, eager):
                each.optimizer.param_groups[0]["lr"] = rate
            run_both(kernel, eager, [make_batches(1, seed=6)])
        assert kernel._captured is not None

    def test_a_value_beside_the_tensors_counts_as_a_shape(self):
        kernel, said, eager = pair()
        other = make_batches(1)
        other[0]["split"] = "other"
        run_both(kernel, eager, [*(make_batches(1, seed=i) for i in range(5)), other])
        assert len(said) == 1


class TestWhatForbidsIt:
    def assert_eager(self, kernel, said, eager, *words):
        run_both(kernel, eager, [make_batches(1, seed=i) for i in range(6)])
        assert kernel.mode == "eager"
        assert len(said) == 1
        assert said[0].startswith("train.kernel: no CUDA graph, because ")
        assert said[0].endswith("The run goes on eagerly.")
        for word in words:
            assert word in said[0]

    def test_no_cuda(self):
        kernel, said, eager = pair()
        kernel._graphs = CudaGraphs(torch.device("cpu"))
        self.assert_eager(kernel, said, eager, "the model is on cpu")

    def test_a_call_after_backward(self):
        kernel, said, eager = pair()
        kernel.after_backward = eager.after_backward = lambda: None
        self.assert_eager(kernel, said, eager, "after_backward")

    def test_a_reason_of_the_owner(self):
        kernel, said, eager = pair()
        kernel.forbidden = "the plugin 'x' is not graph_safe"
        self.assert_eager(kernel, said, eager, "the plugin 'x' is not graph_safe")

    def test_an_optimizer_without_fused_form(self, monkeypatch):
        monkeypatch.setitem(OPTIMIZERS, "adamw", lambda p: torch.optim.RMSprop(p, lr=0.01))
        self.assert_eager(*pair(), "RMSprop has no fused form")

    def test_hooks_of_the_optimizer(self):
        kernel, said, eager = pair()
        kernel.optimizer.register_step_post_hook(lambda *_: None)
        self.assert_eager(kernel, said, eager, "the step of AdamW has hooks")

    def test_graphs_of_torch_compile(self):
        kernel, said, eager = pair()
        kernel._compile = {"mode": "reduce-overhead"}
        self.assert_eager(kernel, said, eager, "'reduce-overhead'")

    def test_a_capture_that_fails_names_the_line_of_the_model(self):
        class Reading(Net):
            captures = False

            def forward(self, batch):
                if self.captures:
                    raise RuntimeError("operation not permitted when stream is capturing\nmore")
                return super().forward(batch)

        kernel, said, eager = pair(model=Reading())
        original = kernel._graphs.capture

        def capture(function):
            kernel.model.captures = True
            try:
                return original(function)
            finally:
                kernel.model.captures = False

        kernel._graphs.capture = capture
        self.assert_eager(kernel, said, eager, "RuntimeError at ", "test_kernel_graph.py:", "not permitted")

    def test_a_buffer_that_forward_replaces_and_it_keeps_its_own(self):
        class Assigning(Net):
            def __init__(self):
                super().__init__()
                self.register_buffer("mean", torch.zeros(()))

            def forward(self, batch):
                self.mean = 0.9 * self.mean + batch["x"].mean()
                return super().forward(batch)

        self.assert_eager(*pair(model=Assigning()), "in place of a buffer")

    def test_a_batch_that_is_not_made_of_tensors(self):
        kernel, said, _ = pair()
        packed = nn.utils.rnn.pack_sequence([torch.ones(3), torch.ones(2)])
        batch = {**make_batches(1)[0], "more": packed}
        for _ in range(5):
            kernel.step([batch])
        assert "a batch holds a PackedSequence" in said[0]


class TestAuto:
    def test_it_keeps_the_faster_and_leaves_no_trace_of_measuring(self):
        for times, mode in (((2.0, 1.0), "graph"), ((1.0, 2.0), "eager")):
            model = Net(dropout=0.5)
            kernel, said, eager = pair(model=model, choose=True, times=times)
            state = torch.get_rng_state()
            ours = [kernel.step(make_batches(1, seed=i)) for i in range(6)]
            torch.set_rng_state(state)
            theirs = [eager.step(make_batches(1, seed=i)) for i in range(6)]
            assert_same(ours, theirs)
            assert_same(state_of(kernel), state_of(eager))
            assert kernel.mode == mode
            assert len(said) == 1
            assert "2e+03 ms" in said[0]
            assert "1e+03 ms" in said[0]

    def test_what_was_chosen_is_part_of_the_state_and_not_chosen_again(self):
        kernel, _, _ = pair(choose=True, times=(1.0, 2.0), precision="fp16")
        kernel.step(make_batches(1))
        state = kernel.state_dict()
        assert state["mode"] == "eager"
        other, said, eager = pair(choose=True, precision="fp16")
        other.load_state_dict(state)
        eager.load_state_dict(state)
        other.step(make_batches(1))
        assert other.mode == "eager"
        assert said == ["train.kernel: eager, as it was measured before."]
        assert other.state_dict()["mode"] == "eager"

    def test_what_was_not_measured_is_not_remembered(self):
        kernel, _, _ = pair(choose=True)
        kernel.forbidden = "of a plugin"
        kernel.step(make_batches(1))
        assert kernel.mode == "eager"
        assert "mode" not in kernel.state_dict()
        assert "mode" not in pair()[0].state_dict()

    def test_a_resumed_optimizer_has_its_step_counts_after_measuring(self):
        kernel, _, eager = pair()
        run_both(kernel, eager, [make_batches(1, seed=i) for i in range(5)])
        model = copy.deepcopy(kernel.model)
        resumed, _, other = pair(model=model, choose=True)
        for each in (resumed, other):
            each.optimizer.load_state_dict(copy.deepcopy(kernel.optimizer.state_dict()))
        run_both(resumed, other, [make_batches(1, seed=i) for i in range(5, 8)])
        assert {float(state["step"]) for state in resumed.optimizer.state.values()} == {8}

    def test_what_a_config_says_outweighs_what_a_checkpoint_chose(self):
        kernel, _, _ = pair()
        kernel.load_state_dict({"mode": "eager"})
        assert kernel.mode == "graph"

    def test_a_failing_capture_leaves_everything_as_it_was(self):
        kernel, said, eager = pair(choose=True)

        def capture(function):
            raise RuntimeError("no")

        kernel._graphs.capture = capture
        run_both(kernel, eager, [make_batches(1, seed=i) for i in range(4)])
        assert kernel.mode == "eager"
        assert "RuntimeError" in said[0]


class Watch:
    """Notes what is asked of it."""

    def __init__(self):
        self.events = []

    @contextmanager
    def discarding(self):
        self.events.append("discarding")
        yield

    @contextmanager
    def recording(self):
        self.events.append("recording")
        yield

    def renew(self):
        self.events.append("renew")


class TestWatch:
    def test_what_forward_measures_is_recorded_once_and_renewed_by_each_replay(self):
        watch = Watch()
        kernel, _, _ = pair(watch=watch)
        for i in range(6):
            kernel.step(make_batches(1, seed=i))
        assert watch.events == ["recording", "renew", "renew", "renew"]

    def test_measuring_is_discarded(self):
        watch = Watch()
        kernel, _, _ = pair(watch=watch, choose=True)
        kernel.step(make_batches(1))
        assert watch.events == ["discarding", "recording", "renew"]
