"""What is measured and counted, and that training does not notice."""

import inspect
import json
import random
import re
import threading
import warnings
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.modules.module import register_module_forward_hook, register_module_full_backward_hook
from torch.nn.utils import prune
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import hookline_throughput.hook
from hookline import (
    ConfigError,
    DefaultTrainer,
    HookBase,
    PluginError,
    SimpleTrainer,
    TrainerBase,
    get_event_storage,
)
from hookline.testing import TinyModel, run_ranks, tiny_trainer
from hookline_throughput import Throughput
from hookline_throughput.batches import num_samples, num_tokens
from hookline_throughput.clock import clock_of
from hookline_throughput.flops import count_flops
from hookline_throughput.peaks import peak_of

CPU = torch.device("cpu")


class Ticking:
    """A clock on which a second passes from each mark to the next; it is known after so many questions."""

    def __init__(self, num_questions=0):
        self.times, self.num_questions = count(), num_questions

    def mark(self):
        return next(self.times)

    def seconds(self, intervals):
        self.num_questions -= 1
        return None if self.num_questions >= 0 else sum(end - start for start, end in intervals)

    def wait(self):
        self.num_questions = 0


@pytest.fixture
def ticking(monkeypatch):
    """Let every iteration last a second."""
    clock = Ticking()
    monkeypatch.setattr(hookline_throughput.hook, "clock_of", lambda device: clock)
    return clock


def run(*hooks, max_iter=12, **options):
    trainer = tiny_trainer(*hooks, max_iter=max_iter, **options)
    trainer.train()
    return trainer


def points(trainer, name):
    """Return the (iteration, value) pairs of a scalar."""
    return [(iteration, value) for value, iteration in trainer.storage.history(name).values()]


# -- what is put -----------------------------------------------------------------------------------


def test_samples_per_second_are_put_when_a_period_ends_and_at_the_end(ticking):
    trainer = run(Throughput(period=4, warmup_iters=0), max_iter=10)
    assert points(trainer, "Throughput/samples_per_s") == [(3, 8.0), (7, 8.0), (10, 8.0)]


def test_the_first_iterations_are_left_out(monkeypatch):
    class Slow(Ticking):
        def mark(self):
            now = next(self.times)
            return now * 100 if now < 6 else 1000 + now  # three iterations of 100 s, then of 1 s

    monkeypatch.setattr(hookline_throughput.hook, "clock_of", lambda device: Slow())
    trainer = run(Throughput(period=5, warmup_iters=3), max_iter=10)
    assert points(trainer, "Throughput/samples_per_s") == [(4, 8.0), (9, 8.0)]


def test_the_first_iterations_of_every_train_are_left_out(ticking):
    hook = Throughput(period=5, warmup_iters=3)
    trainer = tiny_trainer(hook)
    trainer.train(0, 2)
    assert "Throughput/samples_per_s" not in trainer.storage.latest()
    trainer.train(2, 10)
    assert points(trainer, "Throughput/samples_per_s") == [(9, 8.0)]


def test_all_microbatches_of_an_iteration_count(ticking):
    trainer = run(Throughput(period=4), accumulate=3)
    assert trainer.storage.latest()["Throughput/samples_per_s"][0] == 24.0


def test_a_value_that_is_not_known_yet_is_put_later_and_nothing_is_lost(ticking):
    ticking.num_questions = 3
    trainer = run(Throughput(period=2, warmup_iters=0), max_iter=6)
    # Known from the fourth question on: those after iterations 1, 2 and 3 are too early.
    assert [iteration for iteration, _ in points(trainer, "Throughput/samples_per_s")] == [4, 5]


def test_what_is_not_known_at_the_end_is_waited_for(ticking):
    ticking.num_questions = 10**6
    trainer = run(Throughput(period=3, warmup_iters=0), max_iter=3)
    assert points(trainer, "Throughput/samples_per_s") == [(3, 8.0)]


def test_evaluations_and_checkpoints_are_not_part_of_an_iteration(ticking):
    class Evaluation(HookBase):
        def before_train(self):
            self.trainer.evaluations["loss"] = lambda: [ticking.mark() for _ in range(1000)] and {}

        def after_step(self):
            self.trainer.request_evaluation("loss")

    trainer = run(Evaluation(), Throughput(period=4, warmup_iters=0), max_iter=4)
    assert trainer.storage.latest()["Throughput/samples_per_s"][0] == 8.0


def test_other_hooks_are_part_of_an_iteration_wherever_they_stand(ticking):
    class Slow(HookBase):
        def before_step(self):
            ticking.mark()

        def after_step(self):
            ticking.mark()

    trainer = tiny_trainer(max_iter=4)
    trainer.register_hook(Slow(), "first")
    trainer.register_hook(Throughput(period=4, warmup_iters=0), "throughput")
    trainer.register_hook(Slow(), "last")
    trainer.train()
    assert trainer.storage.latest()["throughput/samples_per_s"][0] == 8 / 5


def test_tokens_are_counted_on_request(ticking):
    trainer = run(Throughput(period=4, tokens=[0, 1]))
    assert trainer.storage.latest()["Throughput/tokens_per_s"][0] == 8 * 4
    assert "Throughput/tokens_per_s" not in run(Throughput(period=4)).storage.latest()


def test_flops_and_their_share_of_the_peak_are_put(ticking):
    trainer = run(Throughput(period=4, flops_per_sample=1e3, peak_flops=32e3))
    latest = trainer.storage.latest()
    assert latest["Throughput/model_flops_per_s"][0] == 8e3
    assert latest["Throughput/mfu"][0] == 0.25


def test_null_leaves_flops_out(ticking):
    latest = run(Throughput(period=4, flops_per_sample=None, peak_flops=1e9), max_iter=4).storage.latest()
    assert "Throughput/samples_per_s" in latest
    assert not {"Throughput/model_flops_per_s", "Throughput/mfu"} & latest.keys()


def test_on_a_device_that_is_not_known_mfu_is_left_out_and_that_is_said_once(ticking, caplog):
    caplog.set_level("INFO", logger="hookline")
    trainer = run(Throughput(period=4))
    assert "Throughput/mfu" not in trainer.storage.latest()
    assert "Throughput/model_flops_per_s" in trainer.storage.latest()
    assert [record.getMessage() for record in caplog.records if "no mfu" in record.getMessage()] == [
        "Throughput: no mfu, the peak of the device 'cpu' is not known. Set peak_flops."
    ]


def test_everything_is_volatile_so_equal_runs_write_equal_metrics(project):
    for _ in range(2):
        DefaultTrainer(project({"throughput": {"period": 2}})).train()
    first, second = sorted(
        path for path in project.path.glob("runs/mine/*/metrics.jsonl") if "latest" not in str(path)
    )
    assert first.read_bytes() == second.read_bytes()
    timings = [json.loads(line) for line in first.with_name("timings.jsonl").read_text().splitlines()]
    assert any("throughput/samples_per_s" in line for line in timings)


# -- that training does not notice -----------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"accumulate": 2, "precision": "bf16", "clip_norm": 1.0}])
def test_training_is_as_without_it_to_the_bit(options):
    states = [run(*hooks, **options).state_dict() for hooks in ([], [Throughput(period=2, tokens=[0])])]
    for name, value in states[0]["model"].items():
        assert torch.equal(value, states[1]["model"][name]), name
    assert torch.equal(states[0]["rng"]["ranks"][0]["torch"], states[1]["rng"]["ranks"][0]["torch"])


class Busy(TinyModel):
    """Does in its forward all that an additional forward could disturb."""

    def __init__(self):
        super().__init__()
        self.num_calls, self.drawn = 0, []
        self.constant = torch.ones(())

    def forward(self, batch):
        self.num_calls += 1
        self.drawn.append(random.random())
        get_event_storage().put_scalar("calls", self.num_calls)
        return super().forward(batch) * self.constant


def test_counting_leaves_model_gradients_random_numbers_and_metrics_alone():
    runs = []
    for hooks in ([], [Throughput(period=2)]):
        runs.append(run(*hooks, model=Busy, max_iter=5))
    without, measured = runs
    assert measured.model.num_calls == without.model.num_calls == 5
    assert measured.model.drawn == without.model.drawn
    assert points(measured, "calls") == points(without, "calls")
    gradients = [[p.grad for p in trainer.model.parameters()] for trainer in runs]
    assert all(map(torch.equal, *gradients))
    assert type(measured.model.layers[0].weight) is nn.Parameter


class Keeping(HookBase):
    """Keeps what ``watch`` shows it of a forward, and needs its numbers."""

    def __init__(self, watch):
        self.watch, self.kept = watch, []

    def before_train(self):
        self.remove = self.watch(self.trainer.model, self._keep)

    def _keep(self, module, *seen):
        self.kept += [value for value in tree_leaves(seen) if isinstance(value, torch.Tensor)]

    def after_step(self):
        self.kept = [value.sum().item() for value in self.kept]
        self.trainer.storage.put_scalar("kept", sum(self.kept))
        self.num_kept = len(self.kept)
        self.kept.clear()

    def after_train(self):
        self.remove()


def in_a_closure(register):
    """Return the way to watch by a function that nobody sees the owner of."""
    return lambda model, keep: register(model, lambda *seen: keep(*seen)).remove


def replaced_forward(model, keep):
    layer = model.layers[0]
    forward = layer.forward

    def watched(x):
        keep(layer, output := forward(x))
        return output

    layer.forward = watched
    return lambda: vars(layer).pop("forward")


@pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")
@pytest.mark.parametrize(
    "watch",
    [
        lambda model, keep: model.layers[0].register_forward_hook(keep).remove,
        in_a_closure(lambda model, keep: model.layers[0].register_forward_hook(keep)),
        in_a_closure(lambda model, keep: model.layers[0].register_forward_pre_hook(keep)),
        in_a_closure(lambda model, keep: model.layers[0].register_full_backward_hook(keep)),
        in_a_closure(lambda model, keep: model.layers[0].register_full_backward_pre_hook(keep)),
        in_a_closure(
            lambda model, keep: model.layers[0].weight.register_hook(lambda grad: keep(model, grad))
        ),
        in_a_closure(lambda model, keep: register_module_forward_hook(keep)),
        in_a_closure(lambda model, keep: register_module_full_backward_hook(keep)),
        replaced_forward,
    ],
)
def test_what_others_watch_the_model_with_sees_the_training_alone(ticking, caplog, watch):
    plain, beside = Keeping(watch), Keeping(watch)
    without, measured = run(plain, max_iter=4), run(beside, Throughput(period=2), max_iter=4)
    assert points(without, "kept") == points(measured, "kept")
    assert beside.num_kept == plain.num_kept > 0
    is_told = "replaced by a function" in caplog.text
    assert ("Throughput/model_flops_per_s" in measured.storage.latest()) != is_told
    assert is_told == (watch is replaced_forward)


def test_the_plugin_that_a_hook_belongs_to_is_not_copied(ticking, caplog):
    class Uncopied(HookBase):
        def before_train(self):
            self.handle = self.trainer.model.layers[0].register_forward_hook(self.keep)
            self.trainer.model.register_load_state_dict_post_hook(self.keep)

        def keep(self, *seen):
            pass

        def __deepcopy__(self, memo):
            raise AssertionError("copied")

    assert "Throughput/model_flops_per_s" in run(Uncopied(), Throughput(period=2)).storage.latest()
    assert "not counted" not in caplog.text


def test_a_forward_that_reaches_the_model_itself_leaves_its_gradients_alone():
    class Reaching(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer = nn.Linear(2, 1)
            self.call = lambda x: layer(x)

        def forward(self, x):
            return self.call(x).mean()

    model = Reaching()
    assert count_flops(model, torch.randn(3, 2), CPU) > 0
    assert model.layer.weight.grad is None
    model(torch.randn(3, 2)).backward()
    before = model.layer.weight.grad
    kept = before.clone()
    count_flops(model, torch.randn(3, 2), CPU)
    assert model.layer.weight.grad is before
    assert torch.equal(before, kept)


# -- counting --------------------------------------------------------------------------------------


def test_what_is_counted_is_what_torch_counts_in_a_step_of_training():
    model = nn.Sequential(nn.Conv1d(3, 4, 3), nn.Flatten(), nn.Linear(24, 5), nn.ReLU(), nn.Linear(5, 1))

    class Loss(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, batch):
            return {"loss": self.model(batch["x"]).mean(), "num_items": 7}

    batch = {"x": torch.randn(7, 3, 8)}
    with FlopCounterMode(display=False) as counter:
        Loss()(batch)["loss"].backward()
    assert count_flops(Loss(), batch, CPU) == counter.get_total_flops() > 0


def test_attention_is_counted_as_its_products_also_where_torch_has_no_number_for_it():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x):
            return F.scaled_dot_product_attention(x * self.scale, x, x).mean()

    heads, length, width = 2, 16, 4
    product = 2 * heads * length * length * width
    # Forward: scores and mix. Backward: towards the scores and, here, towards the queries alone.
    assert count_flops(Attention(), torch.randn(1, heads, length, width), CPU) == 4 * product


def test_what_is_recomputed_is_counted_again():
    layers = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), Mean())

    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = layers

        def forward(self, x):
            return checkpoint(self.layers, x, use_reentrant=False)

    first_layer = 2 * 2 * 4 * 4  # torch recomputes no more than backward needs
    plain = count_flops(layers, torch.randn(2, 4), CPU)
    assert count_flops(Checkpointed(), torch.randn(2, 4), CPU) == plain + first_layer


class Mean(nn.Module):
    def forward(self, x):
        return x.mean()


def old_weight_norm(layer):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.weight_norm(layer)


@pytest.mark.parametrize(
    "normed",
    [
        old_weight_norm,
        nn.utils.spectral_norm,
        nn.utils.parametrizations.weight_norm,
        nn.utils.parametrizations.spectral_norm,
        lambda layer: prune.l1_unstructured(layer, "weight", amount=2),
    ],
)
def test_a_weight_that_torch_computes_in_each_forward_is_computed_in_the_copy(normed):
    model, x = nn.Sequential(normed(nn.Linear(4, 6)), Mean()), torch.randn(3, 4)
    model(x)
    with FlopCounterMode(display=False) as counter:
        model(x).backward()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    assert count_flops(model, x, CPU) == counter.get_total_flops() >= 2 * (2 * 3 * 4 * 6)
    for name, value in model.state_dict().items():
        assert torch.equal(state[name], value), name


def test_hooks_of_the_model_itself_are_part_of_it():
    class Featured(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
            self.first.register_forward_hook(self.keep)

        def keep(self, module, arguments, output):
            self.feature = output

        def forward(self, x):
            self.first(x)
            return self.second(self.feature).mean()

    model, x = Featured(), torch.randn(2, 4)
    model(x)
    feature = model.feature
    assert count_flops(model, x, CPU) == 5 * (2 * 2 * 4 * 4)
    assert model.feature is feature


def test_a_compiled_model_is_counted_without_compiling():
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    model = nn.Sequential(torch.compile(nn.Linear(4, 4), backend=backend), Mean())
    assert count_flops(model, torch.randn(2, 4), CPU) == 2 * (2 * 2 * 4 * 4)
    assert compiled == []


def test_a_model_that_looks_at_its_data_is_told_of_once_and_trains_on(ticking, caplog):
    class Looking(TinyModel):
        def forward(self, batch):
            loss = super().forward(batch)
            return loss if loss.item() > 0 else loss * 2

    trainer = run(Throughput(period=2, peak_flops=1e9), model=Looking, max_iter=6)
    (said,) = [record.getMessage() for record in caplog.records if "FLOPs" in record.getMessage()]
    assert said.startswith(
        "Throughput: FLOPs are not counted, because this model does not run without data ("
    )
    assert said.endswith("Set flops_per_sample to the number, or to null.")
    assert "Throughput/samples_per_s" in trainer.storage.latest()
    assert "Throughput/mfu" not in trainer.storage.latest()


class Uncopyable(TinyModel):
    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()


class NoForward(TinyModel):
    def forward(self, batch):
        if isinstance(self.layers[0].weight, FakeTensor):
            raise ValueError("not this\nagain")
        return super().forward(batch)


class Backwardless(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        if isinstance(gradient, FakeTensor):
            raise ValueError("no way back")
        return gradient


class NoBackward(TinyModel):
    def forward(self, batch):
        return Backwardless.apply(super().forward(batch))


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (Uncopyable, "the model cannot be copied (TypeError: cannot pickle '_thread.lock' object)"),
        (NoForward, "its forward failed without data (ValueError: not this)"),
        (NoBackward, "its backward failed without data (ValueError: no way back)"),
    ],
)
def test_what_fails_is_named_and_training_goes_on(ticking, caplog, model, why):
    trainer = run(Throughput(period=2), model=model, max_iter=4)
    (said,) = [record.getMessage() for record in caplog.records if "FLOPs" in record.getMessage()]
    assert said == (
        f"Throughput: FLOPs are not counted, because {why}. Set flops_per_sample to the number, or to null."
    )
    assert trainer.status == "finished"
    assert "Throughput/samples_per_s" in trainer.storage.latest()


def test_a_fault_of_the_counting_itself_ends_nothing(ticking, caplog, monkeypatch):
    monkeypatch.setattr(hookline_throughput.shadow, "_GLOBAL_HOOKS", ["_of_another_torch"])
    assert run(Throughput(period=2), max_iter=4).status == "finished"
    assert "FLOPs are not counted, because counting failed (AttributeError: " in caplog.text


def test_a_first_batch_of_no_samples_ends_nothing(ticking, caplog):
    class Total(nn.Linear):
        def forward(self, x):
            return super().forward(x).sum()

    model = Total(4, 1)
    batches = [torch.zeros(0, 4), torch.zeros(8, 4)]
    trainer = SimpleTrainer(model, batches, torch.optim.SGD(model.parameters(), lr=0.1))
    trainer.register_hooks([Throughput(period=2)])
    trainer.train(0, 4)
    assert "FLOPs are not counted, because the first batch has no samples." in caplog.text


# -- batches ---------------------------------------------------------------------------------------


@dataclass
class Batch:
    ids: torch.Tensor


@pytest.mark.parametrize(
    "batch",
    [
        torch.zeros(5, 3),
        [torch.zeros(5, 3), torch.zeros(9)],
        {"step": torch.zeros(()), "name": "x", "ids": torch.zeros(5, 3)},
        {"deep": [("a", {"ids": torch.zeros(5, 3)})]},
        Batch(torch.zeros(5, 3)),
    ],
)
def test_samples_are_the_first_dimension_of_the_first_tensor_that_has_one(batch):
    assert num_samples(batch, "t") == 5
    assert num_tokens(batch, [0, 1], "t") == 15


@pytest.mark.parametrize("batch", [{"ids": torch.zeros(5, 3)}, Batch(torch.zeros(5, 3))])
def test_tokens_are_the_elements_at_a_key(batch):
    assert num_tokens(batch, "ids", "t") == 15


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda: num_samples({"a": 1}, "t"),
            "t: expected a tensor with a dimension in the batch, got dict without",
        ),
        (lambda: num_samples(torch.zeros(()), "t"), "Set batch_size"),
        (lambda: num_tokens([torch.zeros(5)], "ids", "t"), "has the type list"),
        (lambda: num_tokens({"id": torch.zeros(5)}, "ids", "t"), "got 'ids'. The batch has keys id"),
        (lambda: num_tokens(torch.zeros(5), [0, 1], "t"), r"has 1, got \[0, 1\]"),
    ],
)
def test_a_batch_that_does_not_have_it_says_what_it_has(call, said):
    with pytest.raises(PluginError, match=said):
        call()


def test_the_option_says_how_many_samples_there_are(ticking):
    trainer = run(Throughput(period=4, batch_size=100, flops_per_sample=1.0))
    assert trainer.storage.latest()["Throughput/samples_per_s"][0] == 100.0


# -- devices ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("NVIDIA A100-SXM4-80GB", "half", 312e12),
        ("NVIDIA A100-SXM4-80GB", "tf32", 156e12),
        ("NVIDIA A100-SXM4-80GB", "float32", 19.5e12),
        ("NVIDIA H100 80GB HBM3", "half", 989e12),
        ("NVIDIA H100 PCIe", "half", 756e12),
        ("NVIDIA H100 NVL", "half", 835e12),
        ("NVIDIA H200", "half", 989e12),
        ("NVIDIA H200", "float32", 67e12),
        ("NVIDIA L4", "half", 121e12),
        ("NVIDIA L40S", "half", 362e12),
        ("NVIDIA GeForce RTX 4090", "half", 165e12),
        ("Tesla T4", "tf32", 8.1e12),
        ("Tesla V100-PCIE-16GB", "half", 112e12),
        ("AMD Instinct MI300X", "half", 1307e12),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "half", None),
        ("NVIDIA GeForce RTX 4090 D", "half", None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "half", None),
        ("NVIDIA A10G", "half", None),
        ("NVIDIA GB200", "half", None),
        ("Some new thing", "half", None),
    ],
)
def test_the_peak_of_a_device_is_that_of_its_data_sheet(name, kind, expected):
    assert peak_of(name, kind) == expected


# -- wrong use -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"period": -1}, "period"),
        ({"period": "often"}, "period"),
        ({"warmup_iters": -1}, r"warmup_iters .*expected a whole number >= 0"),
        ({"batch_size": 0}, "batch_size"),
        ({"tokens": 1.5}, "tokens"),
        ({"tokens": []}, "tokens"),
        ({"tokens": [-1]}, "tokens"),
        ({"flops_per_sample": 0}, "flops_per_sample"),
        ({"flops_per_sample": "guess"}, "flops_per_sample"),
        ({"peak_flops": "fast"}, "peak_flops"),
        ({"token": "ids"}, "tokens"),
    ],
)
def test_wrong_options_are_told_before_anything_is_built(project, options, said):
    with pytest.raises(ConfigError, match=said):
        DefaultTrainer(project({"throughput": options}))


def test_numbers_as_people_write_them_are_understood(project):
    trainer = DefaultTrainer(project({"throughput": {"peak_flops": "312e12", "flops_per_sample": "1e9"}}))
    hook = trainer.hooks.get_plugin("throughput")
    assert (hook.peak_flops, hook.flops_per_sample) == (312e12, 1e9)


def test_a_period_of_nought_is_refused():
    with pytest.raises(ValueError, match="period: expected at least 1, got 0"):
        Throughput(period=0)


def test_a_trainer_whose_batches_are_not_known_is_refused():
    class Own(TrainerBase):
        def run_step(self):
            pass

    trainer = Own()
    trainer.register_hooks([Throughput()])
    with pytest.raises(PluginError, match="expected a SimpleTrainer, got Own"):
        trainer.train(0, 1)


def test_tokens_that_are_not_there_end_the_run_in_its_first_iteration():
    trainer = tiny_trainer(Throughput(tokens="ids"))
    with pytest.raises(PluginError, match=r"Throughput\.tokens: expected the key of a tensor"):
        trainer.train()
    assert trainer.iter == 0


def test_a_batch_without_a_tensor_ends_the_run_in_its_first_iteration_and_says_what_to_do():
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, batch):
            return self.weight * batch

    model = Plain()
    trainer = SimpleTrainer(model, [1, 2], torch.optim.SGD(model.parameters(), lr=0.1))
    trainer.register_hooks([Throughput()])
    with pytest.raises(PluginError, match=r"got int without\. Set batch_size\."):
        trainer.train(0, 5)


# -- everywhere ------------------------------------------------------------------------------------


def samples_per_s_on_a_rank() -> float:
    hookline_throughput.hook.clock_of = lambda device: Ticking()
    trainer = run(Throughput(period=4, tokens=[0, 1]))
    latest = trainer.storage.latest()
    return latest["Throughput/samples_per_s"][0], latest["Throughput/tokens_per_s"][0]


def test_samples_and_tokens_are_those_of_all_processes():
    assert run_ranks(samples_per_s_on_a_rank) == [(16.0, 64.0)] * 2


def test_the_hosts_clock_is_right_where_there_is_no_other():
    clock = clock_of(CPU)
    first, second = clock.mark(), clock.mark()
    assert clock.seconds([(first, second), (second, second)]) == second - first
    assert clock.wait() is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
class TestCuda:
    def test_nothing_waits_and_everything_is_measured(self):
        class Strict(HookBase):
            def before_step(self):
                torch.cuda.set_sync_debug_mode("error")

            def after_train(self):
                torch.cuda.set_sync_debug_mode("default")

        trainer = tiny_trainer(Strict(), Throughput(period=4, peak_flops=1e12), max_iter=40, device="cuda")
        try:
            trainer.train()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        latest = trainer.storage.latest()
        assert {"samples_per_s", "model_flops_per_s", "mfu", "peak_memory_bytes"} == {
            name.removeprefix("Throughput/") for name in latest if name.startswith("Throughput/")
        }

    def test_the_devices_clock_tells_how_fast_work_is_done_not_how_fast_it_is_queued(self):
        clock = clock_of(torch.device("cuda"))
        start = clock.mark()
        torch.cuda._sleep(200_000_000)
        end = clock.mark()
        assert clock.seconds([(start, end)]) is None
        clock.wait()
        assert clock.seconds([(start, end)]) > 0.05

    def test_what_is_counted_is_the_same_as_on_a_cpu(self):
        model, batch = TinyModel(), (torch.zeros(8, 4), torch.zeros(8))
        on_cpu = count_flops(model, batch, CPU)
        before = torch.cuda.memory_allocated()
        assert count_flops(model.cuda(), batch, torch.device("cuda"), "bf16") == on_cpu
        assert torch.cuda.memory_allocated() - before < 10**6


def test_the_readme_names_every_option_and_scalar():
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    for name in inspect.signature(Throughput).parameters:
        assert re.search(rf"^\| `{name}` \|", readme, re.MULTILINE), name
    for name in ("samples_per_s", "tokens_per_s", "model_flops_per_s", "mfu", "peak_memory_bytes"):
        assert re.search(rf"^\| `throughput/{name}` \|", readme, re.MULTILINE), name
