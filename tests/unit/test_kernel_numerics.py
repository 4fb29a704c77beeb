"""StepKernel against loops written by hand: many iterations of them, and what users do between them.

Whatever short cut the kernel takes, its weights, optimizer state and metrics are those of a plain loop:

- in float64 to 1e-12 of the largest element of each tensor;
- in float32, bf16 and fp16 to the bit, as long as all that gradients are divided by is a power of two;
- else in float32 to ``REORDERED``. A kernel may divide by the number of microbatches, the loss scale and the
  clipping factor in another order than a plain loop, or at once: up to four roundings of 2**-24 of each
  element and iteration, which add up over all iterations;
- else in bf16 and fp16 to ``FLIPPED``: where two weights that close lie on either side of the middle between
  two bfloat16 numbers, autocast makes 2**-8 of the difference for that iteration. It is rare: a few at most.
"""

from __future__ import annotations

import copy
import itertools
import math
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from torch import nn
from torch.nn.functional import linear, mse_loss
from torch.optim import lr_scheduler
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from hookline.kernel import StepKernel

# So many that every setting below has a short list of microbatches, in each precision. What is wrong in one
# iteration is seen in the next; what creeps in is beyond 1e-12 long before.
NUM_ITERATIONS = 125
EXACT, DOUBLE = 0.0, 1e-12
REORDERED = NUM_ITERATIONS * 4 * 2.0**-24
FLIPPED = 2.0**-6

# One of each kind of arithmetic, by what it is made of; where there are several forms of it, each form.
KINDS = {
    "sgd": (torch.optim.SGD, {"lr": 0.1}),
    "momentum-decay": (torch.optim.SGD, {"lr": 0.03, "momentum": 0.9, "weight_decay": 0.01}),
    "nesterov": (torch.optim.SGD, {"lr": 0.03, "momentum": 0.9, "nesterov": True}),
    "dampening-maximize": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.5, "dampening": 0.3, "maximize": True}),
    "adam": (torch.optim.Adam, {"lr": 0.02}),
    "adam-decay-amsgrad": (torch.optim.Adam, {"lr": 0.02, "weight_decay": 0.01, "amsgrad": True}),
    "adamw": (torch.optim.AdamW, {"lr": 0.02, "weight_decay": 0.1}),
    "adamw-maximize": (torch.optim.AdamW, {"lr": 0.02, "betas": (0.8, 0.9), "maximize": True}),
    "adagrad": (torch.optim.Adagrad, {"lr": 0.1, "lr_decay": 0.01}),
}
FORMS = {"loop": {"fused": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}
OTHERS = {
    "rmsprop": (torch.optim.RMSprop, {"lr": 0.01, "momentum": 0.5, "centered": True}),
    "adafactor": (torch.optim.Adafactor, {"lr": 0.02}),
    "radam": (torch.optim.RAdam, {"lr": 0.02}),
    "nadam": (torch.optim.NAdam, {"lr": 0.02}),
    "adamax": (torch.optim.Adamax, {"lr": 0.02}),
    "adadelta": (torch.optim.Adadelta, {"lr": 1.0}),
    "asgd": (torch.optim.ASGD, {"lr": 0.05}),
}
OPTIMIZERS = {
    f"{kind}-{form}": (cls, options | extra)
    for kind, (cls, options) in KINDS.items()
    for form, extra in FORMS.items()
} | OTHERS
USUAL = [f"{kind}-{form}" for kind in ("momentum-decay", "adamw") for form in FORMS]
# To the kernel, the loop and the foreach form are one and the same ``optimizer.step()``.
DIFFERENT = [name for name in OPTIMIZERS if name in USUAL or "foreach" not in name]


def make_optimizer(name, params, **options):
    cls, defaults = OPTIMIZERS[name]
    return cls(params, **defaults | options)


class Line(nn.Module):
    """A batch is (x, y); ``counted`` says over how many rows its loss is a mean."""

    with_bias = True

    def __init__(self, dtype=torch.float32, sign=1.0, counted=False):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(2, 3, generator=generator).to(dtype))
        self.bias = nn.Parameter(torch.randn(2, generator=generator).to(dtype))
        self.sign, self.counted = sign, counted

    def forward(self, batch):
        x, y = batch
        output = linear(x, self.weight, self.bias if self.with_bias else None)
        loss = self.sign * mse_loss(output.to(y.dtype), y)
        return {"loss": loss, "num_items": len(x)} if self.counted else loss


class PlainLoop:
    """What a reader would write instead of a StepKernel, with the same signature."""

    after_backward: Callable[[], None] | None = None

    def __init__(self, model, optimizer, *, precision="fp32", accumulate=1, clip_norm=0.0):
        self.model, self.optimizer, self.clip_norm = model, optimizer, clip_norm
        self.dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        self.scale = SCALE if precision == "fp16" else 1.0

    def step(self, microbatches):
        self.optimizer.zero_grad()
        total_loss, num_items = 0.0, 0
        for batch in microbatches:
            with torch.autocast("cpu", dtype=self.dtype, enabled=self.dtype is not None):
                loss = self.model(batch)
            if isinstance(loss, dict):  # The sum over all items, to be divided when their number is known.
                num_items += loss["num_items"]
                loss = loss["loss"] * loss["num_items"]
            else:
                loss = loss / len(microbatches)
            (loss * self.scale).backward()
            total_loss += loss.detach()
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        if num_items or self.scale != 1.0:
            for p in parameters:
                p.grad /= (num_items or 1) * self.scale
        if self.after_backward is not None:
            self.after_backward()
        norm = nn.utils.clip_grad_norm_(parameters, self.clip_norm) if self.clip_norm else None
        seed_momentum(self.optimizer)
        self.optimizer.step()
        return {"total_loss": total_loss / (num_items or 1), "grad_norm": norm}


def seed_momentum(optimizer):
    """Torch's fused SGD raises where some parameters have a momentum and others not yet; zeros are as good."""
    for group in optimizer.param_groups:
        fused = group.get("fused") and group.get("momentum") and not group["dampening"]
        params = [p for p in group["params"] if p.grad is not None and fused]
        if any("momentum_buffer" in optimizer.state[p] for p in params):
            for p in params:
                optimizer.state[p].setdefault("momentum_buffer", torch.zeros_like(p))


SCALE = 1024.0  # Of losses in fp16, for gradients that neither overflow nor get lost.


@cache
def make_batches(dtype=torch.float32, num_iterations=NUM_ITERATIONS + 20):
    """Four microbatches an iteration of 5, 1, 3 and 2 rows, or 4 of 5; every other one has small gradients."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(num_iterations, 4, 5, 3, generator=generator)
    y = x[..., :2] - 0.5 + torch.randn(num_iterations, 4, 5, 2, generator=generator)
    size = 1.0 - 0.8 * (torch.arange(num_iterations) % 2)[:, None, None, None]
    x, y = (x * size).to(dtype), (y * size).to(dtype)
    return [list(zip(*pair, strict=True)) for pair in zip(x, y, strict=True)]


def uneven(microbatches):
    return [(x[:rows], y[:rows]) for (x, y), rows in zip(microbatches, (5, 1, 3, 2), strict=False)]


def state_of(*things):
    return copy.deepcopy([thing.state_dict() for thing in things])


def assert_same(actual, expected, bound, where="state"):
    """All tensors differ by at most ``bound`` of their largest element."""
    if isinstance(expected, torch.Tensor) and expected.is_sparse:
        assert_same(actual.to_dense(), expected.to_dense(), bound, where)
    elif isinstance(expected, torch.Tensor):
        atol = bound * float(expected.abs().max())
        torch.testing.assert_close(actual, expected, rtol=0, atol=atol, msg=lambda text: f"{where}: {text}")
    elif isinstance(expected, dict):
        assert actual.keys() == expected.keys(), where
        for key in expected:
            assert_same(actual[key], expected[key], bound, f"{where}.{key}")
    elif isinstance(expected, list):
        assert len(actual) == len(expected), where
        for index, pair in enumerate(zip(actual, expected, strict=True)):
            assert_same(*pair, bound, f"{where}[{index}]")
    else:
        assert actual == expected, where


def assert_same_metrics(actual, expected, bound):
    """All ``total_loss``, and ``grad_norm`` where it is known, of two lists of metrics."""
    for name in ("total_loss", "grad_norm"):
        pairs = [(a[name], b[name]) for a, b in zip(actual, expected, strict=True) if b[name] is not None]
        if pairs:
            assert_same(*map(torch.stack, zip(*pairs, strict=True)), bound, name)


@dataclass(frozen=True)
class Setting:
    """How an iteration is done; ``rounds`` where its divisions are no powers of two."""

    accumulate: int = 1
    clip_norm: float = 0.0
    counted: bool = False

    @property
    def rounds(self):
        return self.clip_norm > 0 or self.counted

    def microbatches(self, iteration, index):
        """Every fifth iteration has a short list."""
        count = min(self.accumulate, 2) if index % 5 == 4 else self.accumulate
        return (uneven if self.counted else list)(iteration[:count])


ALWAYS, AT_TIMES = 0.01, 1.0
SETTINGS = [
    Setting(),
    Setting(accumulate=4),
    Setting(clip_norm=ALWAYS),
    Setting(accumulate=4, clip_norm=ALWAYS),
    Setting(clip_norm=AT_TIMES),
    Setting(accumulate=4, clip_norm=AT_TIMES, counted=True),
]


class Twins:
    """The same run twice: by a kernel and by a plain loop, from the same weights."""

    def __init__(self, name, dtype=torch.float32):
        sign = -1.0 if "maximize" in name else 1.0
        self.models = [Line(dtype, sign) for _ in range(2)]
        self.optimizers = [make_optimizer(name, model.parameters()) for model in self.models]

    def run(self, iterations, setting, precision):
        """Do the iterations in both ways; return the metrics of both."""
        for model in self.models:
            model.counted = setting.counted
        options = {"precision": precision, "accumulate": setting.accumulate, "clip_norm": setting.clip_norm}
        kernel, plain = (
            cls(*pair, **options) for cls, pair in zip((StepKernel, PlainLoop), self.pairs, strict=True)
        )
        if precision == "fp16":
            kernel.load_state_dict({"scale": torch.tensor(SCALE), "growth_tracker": torch.tensor(0)})
        both = [[], []]
        for index, iteration in enumerate(iterations):
            microbatches = setting.microbatches(iteration, index)
            for metrics, runner in zip(both, (kernel, plain), strict=True):
                metrics.append(runner.step(microbatches))
        return both

    @property
    def pairs(self):
        return list(zip(self.models, self.optimizers, strict=True))

    def assert_same(self, bound):
        ours, theirs = (state_of(*pair) for pair in self.pairs)
        assert_same(ours, theirs, bound)


def agree(name, dtype, precisions, bounds):
    """Run NUM_ITERATIONS in all settings and precisions, one after another, those of the least bound first."""
    twins = Twins(name, dtype)
    phases = [(bounds(*phase), *phase) for phase in itertools.product(SETTINGS, precisions)]
    phases.sort(key=lambda phase: phase[0])
    batches = iter(make_batches(dtype))
    for bound, setting, precision in phases:
        share = 0.7 if setting.accumulate == 1 else 0.3  # As many microbatches with either accumulation.
        iterations = list(itertools.islice(batches, math.ceil(2 * share * NUM_ITERATIONS / len(phases))))
        ours, theirs = twins.run(iterations, setting, precision)
        assert_same_metrics(ours, theirs, bound)
        twins.assert_same(bound)
        norms = [float(metrics["grad_norm"]) for metrics in theirs if metrics["grad_norm"] is not None]
        if setting.clip_norm == AT_TIMES:
            assert min(norms) < AT_TIMES < max(norms)
        elif norms:
            assert min(norms) > ALWAYS


class TestManyIterations:
    @pytest.mark.parametrize("name", DIFFERENT)
    def test_in_float64_agree_to_1e_12(self, name):
        agree(name, torch.float64, ["fp32"], lambda setting, precision: DOUBLE)

    @pytest.mark.parametrize("name", DIFFERENT)
    def test_in_each_precision_agree_to_the_bit_or_within_what_reordering_explains(self, name):
        def bound(setting, precision):
            rounded = REORDERED if precision == "fp32" else FLIPPED
            return rounded if setting.rounds else EXACT

        agree(name, torch.float32, ["fp32", "bf16", "fp16"], bound)


MOVES = [
    (f"{kind}-{ours}", f"{kind}-{theirs}")
    for kind in ("momentum-decay", "nesterov", "adam-decay-amsgrad", "adamw", "adagrad")
    for ours, theirs in [("fused", "loop"), ("loop", "fused")]
]


class TestCheckpoints:
    """The state of a run of 50 iterations goes on for 50 more on the other side, and in another form."""

    @pytest.mark.parametrize(("ours", "theirs"), MOVES)
    def test_one_moves_from_the_kernel_to_a_plain_loop(self, ours, theirs):
        state = train(StepKernel, ours, range(50))
        assert_same(train(PlainLoop, theirs, range(50, 100), state), uninterrupted(theirs), DOUBLE)

    @pytest.mark.parametrize(("theirs", "ours"), MOVES)
    def test_one_moves_from_a_plain_loop_to_the_kernel(self, theirs, ours):
        state = train(PlainLoop, theirs, range(50))
        assert_same(train(StepKernel, ours, range(50, 100), state), uninterrupted(ours), DOUBLE)

    @pytest.mark.parametrize("name", [*USUAL, "nesterov-fused", "adam-decay-amsgrad-fused", "adagrad-fused"])
    def test_one_moves_there_and_back_in_float32_to_the_bit(self, name):
        options = {"dtype": torch.float32, "clip_norm": 0.0}
        state = None
        for start in range(0, 100, 25):
            cls = PlainLoop if start % 50 else StepKernel
            state = train(cls, name, range(start, start + 25), state, **options)
        assert_same(state, train(PlainLoop, name, range(100), **options), EXACT)


def train(cls, name, iterations, state=None, *, dtype=torch.float64, clip_norm=AT_TIMES):
    """Do the iterations from ``state``, or from the start; return the state of model and optimizer."""
    model = Line(dtype, sign=-1.0 if "maximize" in name else 1.0)
    optimizer = make_optimizer(name, model.parameters())
    if state is not None:
        form = [{key: group.get(key) for key in ("fused", "foreach")} for group in optimizer.param_groups]
        model.load_state_dict(state[0])
        optimizer.load_state_dict(state[1])
        for group, choice in zip(optimizer.param_groups, form, strict=True):
            group.update(choice)  # A checkpoint brings the form of the optimizer that was saved.
    runner = cls(model, optimizer, accumulate=2, clip_norm=clip_norm)
    for index in iterations:
        runner.step(make_batches(dtype)[index][:2])
    return state_of(model, optimizer)


@cache
def uninterrupted(name):
    return train(PlainLoop, name, range(100))


def same_after(scenario, make, *, make_model=Line, clip_norm=AT_TIMES):
    """Run 12 iterations with the kernel and with a plain loop: states, metrics and calls are equal.

    ``scenario(index, runner)`` is called before each iteration, and does what a user does to the runner;
    ``make`` is the name of an optimizer, or makes one of parameters.
    """
    ends = []
    for cls in (StepKernel, PlainLoop):
        model = make_model(torch.float64)
        optimizer = (
            make_optimizer(make, model.parameters()) if isinstance(make, str) else make(model.parameters())
        )
        runner = cls(model, optimizer, accumulate=2, clip_norm=clip_norm)
        metrics, runner.calls = [], []
        for index, iteration in enumerate(make_batches(torch.float64)[:12]):
            scenario(index, runner)
            metrics.append(runner.step(iteration[:2]))
        ends.append((state_of(model, optimizer), metrics, runner.calls))
    (ours, our_metrics, our_calls), (theirs, their_metrics, their_calls) = ends
    assert_same_metrics(our_metrics, their_metrics, DOUBLE)
    assert_same(ours, theirs, DOUBLE)
    assert our_calls == their_calls
    return our_calls


def optimizer_state_is_loaded(index, runner):
    if index == 4:
        runner.saved = copy.deepcopy(runner.optimizer.state_dict())
    if index == 8:
        runner.optimizer.load_state_dict(runner.saved)


def optimizer_state_from_before_the_first_iteration_is_loaded(index, runner):
    if index == 0:
        runner.saved = copy.deepcopy(runner.optimizer.state_dict())
    if index == 6:
        runner.optimizer.load_state_dict(runner.saved)


def optimizer_state_is_cleared(index, runner):
    if index == 6:
        runner.optimizer.state.clear()


def optimizer_state_is_cleared_of_one_parameter(index, runner):
    if index == 6:
        del runner.optimizer.state[runner.model.bias]


def optimizer_state_is_assigned(index, runner):
    if index == 6:
        for state in runner.optimizer.state.values():
            for key, value in state.items():
                if torch.is_tensor(value) and value.ndim:
                    state[key] = value * 0.5


def weights_are_loaded(index, runner):
    if index == 4:
        runner.saved = copy.deepcopy(runner.model.state_dict())
    if index == 8:
        runner.model.load_state_dict(runner.saved)


def weights_get_new_memory(index, runner):
    if index % 5 == 4:
        for p in runner.model.parameters():
            p.data = p.data * 0.5


def weights_change_their_memory_format(index, runner):
    if index == 6:
        runner.model.weight.data = runner.model.weight.data.t().contiguous().t()


def a_parameter_is_replaced(index, runner):
    if index == 6:
        replaced = runner.model.bias
        runner.model.bias = nn.Parameter(replaced.detach() + 1.0)
        runner.optimizer.param_groups[0]["params"][1] = runner.model.bias
        runner.optimizer.state.pop(replaced, None)


def a_parameter_is_frozen_and_unfrozen(index, runner):
    if index in (4, 8):
        runner.model.bias.requires_grad_(index == 8)


def a_parameter_is_frozen_from_the_start(index, runner):
    runner.model.bias.requires_grad_(False)


def a_parameter_has_no_gradient_at_times(index, runner):
    runner.model.with_bias = index % 3 == 1


def gradients_are_dropped_by_the_hook(index, runner):
    def drop():
        if index % 3 == 1:
            runner.model.bias.grad = None

    runner.after_backward = drop


def gradients_are_replaced_by_the_hook(index, runner):
    def replace():
        for p in runner.model.parameters():
            p.grad = p.grad.clone().mul_(3.0)

    runner.after_backward = replace


def gradients_get_another_memory_format_by_the_hook(index, runner):
    def transpose():
        runner.model.weight.grad = runner.model.weight.grad.t().contiguous().t()

    runner.after_backward = transpose if index % 2 else None


def gradients_are_changed_between_iterations(index, runner):
    for p in runner.model.parameters():
        p.grad = torch.full_like(p, 1e6) if index % 2 else None


def gradients_are_set_to_zero_by_the_user(index, runner):
    runner.optimizer.zero_grad(set_to_none=False)


def the_rate_changes(index, runner):
    for group in runner.optimizer.param_groups:
        group["lr"] *= 0.9


def every_option_changes(index, runner):
    (group,) = runner.optimizer.param_groups
    group["weight_decay"] = 0.02 * index
    if "betas" in group:
        group["betas"], group["eps"] = (0.5 + 0.03 * index, 0.9), 1e-6
    else:
        group["momentum"] = 0.05 * index + 0.1


def the_direction_changes(index, runner):
    runner.optimizer.param_groups[0]["maximize"] = index % 4 == 3


def the_form_changes(index, runner):
    runner.optimizer.param_groups[0].update(
        [dict.fromkeys(["fused", "foreach"], False), {"foreach": True}][index // 6]
    )


BETWEEN = [
    optimizer_state_is_loaded,
    optimizer_state_from_before_the_first_iteration_is_loaded,
    optimizer_state_is_cleared,
    optimizer_state_is_cleared_of_one_parameter,
    optimizer_state_is_assigned,
    weights_are_loaded,
    weights_get_new_memory,
    weights_change_their_memory_format,
    a_parameter_is_replaced,
    a_parameter_is_frozen_and_unfrozen,
    a_parameter_is_frozen_from_the_start,
    a_parameter_has_no_gradient_at_times,
    gradients_are_dropped_by_the_hook,
    gradients_are_replaced_by_the_hook,
    gradients_get_another_memory_format_by_the_hook,
    gradients_are_changed_between_iterations,
    gradients_are_set_to_zero_by_the_user,
    the_rate_changes,
    every_option_changes,
    the_direction_changes,
    the_form_changes,
]


class TestWhatUsersDoBetweenIterations:
    @pytest.mark.parametrize("name", USUAL)
    @pytest.mark.parametrize("scenario", BETWEEN, ids=lambda scenario: scenario.__name__)
    def test_it_acts_as_in_a_plain_loop(self, scenario, name):
        if "memory_format" in scenario.__name__ and name.endswith("-fused"):
            pytest.skip("torch's own fused step walks through memory that has another layout")
        same_after(scenario, name)


SCHEDULES = {
    "step": lambda optimizer: lr_scheduler.StepLR(optimizer, step_size=3, gamma=0.5),
    "warm-up": lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda index: (1 + index) / 10),
    "one-cycle": lambda optimizer: lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=20),
    "cosine": lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, T_max=12),
}


def hooks_of_the_optimizer(index, runner):
    """They see and change what a plain loop's would, from the iteration on in which they are registered."""

    def before(optimizer, args, kwargs):
        runner.calls.append((index, "before", args[1:], kwargs))
        for p in runner.model.parameters():
            p.grad.add_(p.detach(), alpha=0.1)

    def after(optimizer, args, kwargs):
        runner.calls.append((index, "after", args[1:], kwargs))
        for p in runner.model.parameters():
            p.data.clamp_(-1.0, 1.0)

    for handle in getattr(runner, "handles", []):
        handle.remove()
    runner.handles = []
    if 3 <= index < 9:
        runner.handles.append(runner.optimizer.register_step_pre_hook(before))
        runner.handles.append(runner.optimizer.register_step_post_hook(after))


def step_is_replaced(index, runner):
    if index == 3:
        step = runner.optimizer.step

        def replaced(*args, **kwargs):
            runner.calls.append((args, kwargs))
            step(*args, **kwargs)
            runner.model.weight.data.mul_(0.9)

        runner.optimizer.step = replaced


class OwnStep:
    """An optimizer whose update is more than its base class's."""

    num_steps = 0

    def step(self, closure=None):
        super().step(closure)
        self.num_steps += 1
        for group in self.param_groups:
            for p in group["params"]:
                p.data.mul_(0.9)


class TestWhoeverWatchesTheOptimizer:
    @pytest.mark.parametrize("name", USUAL)
    def test_its_step_hooks_are_called_and_obeyed_in_each_iteration(self, name):
        calls = same_after(hooks_of_the_optimizer, name)
        assert [call[:2] for call in calls] == [
            (i, when) for i in range(3, 9) for when in ("before", "after")
        ]

    @pytest.mark.parametrize("name", USUAL)
    def test_step_hooks_of_all_optimizers_are_called_in_each_iteration(self, name):
        calls = []
        handles = [
            register_optimizer_step_pre_hook(lambda *_: calls.append("before")),
            register_optimizer_step_post_hook(lambda *_: calls.append("after")),
        ]
        try:
            train(StepKernel, name, range(5))
        finally:
            for handle in handles:
                handle.remove()
        assert calls == ["before", "after"] * 5
        train(StepKernel, name, range(5))
        assert len(calls) == 10

    @pytest.mark.parametrize("name", USUAL)
    def test_a_step_that_somebody_put_in_place_of_its_own_is_called(self, name):
        assert len(same_after(step_is_replaced, name)) == 9

    @pytest.mark.parametrize("name", USUAL)
    def test_a_step_that_a_subclass_adds_to_is_called(self, name):
        cls, options = OPTIMIZERS[name]
        own = type("Own", (OwnStep, cls), {})

        def count(index, runner):
            runner.calls.append(runner.optimizer.num_steps)

        calls = same_after(count, lambda params: own(params, **options))
        assert calls == list(range(12))

    @pytest.mark.parametrize("name", USUAL)
    @pytest.mark.parametrize("made", ["before", "after"])
    @pytest.mark.parametrize("make_schedule", SCHEDULES.values(), ids=SCHEDULES)
    def test_a_schedule_of_torch_made_before_or_after_the_kernel_acts_and_is_content(
        self, name, made, make_schedule
    ):
        def make(params):
            optimizer = make_optimizer(name, params)
            if made == "before":
                optimizer.schedule = make_schedule(optimizer)
            return optimizer

        def step(index, runner):
            if index:  # It warns, which is an error here, if it thinks that the optimizer has not stepped.
                runner.optimizer.schedule.step()
            elif made == "after":
                runner.optimizer.schedule = make_schedule(runner.optimizer)
            runner.calls.append(runner.optimizer.param_groups[0]["lr"])

        assert len(set(same_after(step, make))) > 2


class TestOptionsOfOptimizers:
    @pytest.mark.parametrize("name", ["sgd-loop", "sgd-fused", "nesterov-fused", "adamw-loop", "adamw-fused"])
    def test_a_rate_that_is_a_tensor_and_changes_in_place(self, name):
        def warm_up(index, runner):
            runner.optimizer.param_groups[0]["lr"].mul_(1.2)

        same_after(warm_up, lambda params: make_optimizer(name, params, lr=torch.tensor(0.01)))

    @pytest.mark.parametrize("name", USUAL)
    @pytest.mark.parametrize(
        "second",
        [
            {"weight_decay": 0.0},
            {"lr": 0.5, "weight_decay": 0.3},
            {"maximize": True, "lr": 1e-3},
            {"fused": False, "foreach": False},
            {"amsgrad": True, "betas": (0.5, 0.6), "eps": 1e-3, "momentum": 0.0},
            {"amsgrad": False, "betas": (0.5, 0.6), "momentum": 0.5, "nesterov": True},
        ],
    )
    def test_groups_with_options_of_their_own(self, name, second):
        def make(params):
            weight, bias = params
            own = {key: value for key, value in second.items() if key in OPTIMIZERS[name][0]([bias]).defaults}
            return make_optimizer(name, [{"params": [weight]}, {"params": [bias], **own}])

        same_after(lambda index, runner: None, make)

    @pytest.mark.parametrize("name", USUAL)
    def test_a_group_that_is_empty_or_whose_parameters_never_have_gradients(self, name):
        def make(params):
            return make_optimizer(
                name, [{"params": []}, {"params": params}, {"params": [nn.Parameter(torch.ones(2))]}]
            )

        same_after(lambda index, runner: None, make, clip_norm=0.0)

    @pytest.mark.parametrize("momentum", [0.0, 0.9])
    def test_sparse_beside_dense_gradients(self, momentum):
        class Words(Line):
            def __init__(self, dtype):
                super().__init__(dtype)
                self.table = nn.Embedding(6, 3, sparse=True, dtype=dtype)
                self.table.weight.data.fill_(0.5)

            def forward(self, batch):
                words = (batch[0][:, 0] * 2).long().clamp(-3, 2) + 3
                return super().forward((self.table(words) + batch[0], batch[1]))

        def make(params):
            return torch.optim.SGD(params, lr=0.1, momentum=momentum)

        same_after(lambda index, runner: None, make, make_model=Words, clip_norm=0.0)


class TestCopies:
    @pytest.mark.parametrize("name", USUAL)
    @pytest.mark.parametrize("copied", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
    @pytest.mark.parametrize("cls", [StepKernel, PlainLoop])
    def test_a_copy_of_model_and_optimizer_goes_on_by_itself(self, name, copied, cls):
        model = Line(torch.float64)
        pair = model, make_optimizer(name, model.parameters())
        options = {"accumulate": 2, "clip_norm": AT_TIMES}
        kernel = StepKernel(*pair, **options)
        for iteration in make_batches(torch.float64)[:5]:
            kernel.step(iteration[:2])
        twin = copied(pair)
        other = cls(*twin, **options)
        for runner in (other, kernel):
            for iteration in make_batches(torch.float64)[5:10]:
                runner.step(iteration[:2])
        expected = train(PlainLoop, name, range(10))
        assert_same(state_of(*pair), expected, DOUBLE)
        assert_same(state_of(*twin), expected, DOUBLE)


class Normed(nn.Module):
    """With batch norm; a batch of zeros has a finite loss whose gradient is not."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4)
        self.last = nn.Linear(4, 2)

    def forward(self, batch):
        x, y = batch
        steep = (self.first.weight.square().sum() * x.square().sum()).sqrt()
        return mse_loss(self.last(self.norm(self.first(x))), y) + 0.01 * steep


class TestSkips:
    @pytest.mark.parametrize("name", DIFFERENT)
    def test_the_iterations_around_a_bad_one_are_those_of_a_plain_loop_without_it(self, name):
        (_, y), *_ = make_batches()[0]
        bad = {
            "nan loss": (torch.full((5, 3), math.nan), y),
            "inf loss": (torch.ones(5, 3), torch.full_like(y, math.inf)),
            "inf gradient": (torch.zeros(5, 3), y),
        }
        torch.manual_seed(0)
        ours = Normed()
        theirs = copy.deepcopy(ours)
        optimizers = [make_optimizer(name, model.parameters()) for model in (ours, theirs)]
        kernel, plain = StepKernel(ours, optimizers[0], accumulate=2), PlainLoop(theirs, optimizers[1])
        plan = [
            "nan loss",
            "good",
            "good",
            "inf loss",
            "good",
            "inf gradient",
            "nan loss",
            "good",
            "inf loss",
        ]
        for kind, iteration in zip(plan, make_batches(), strict=False):
            if kind == "good":
                assert_same_metrics([kernel.step(iteration[:2])], [plain.step(iteration[:2])], EXACT)
            else:
                assert kernel.step([iteration[0], bad[kind]])["grad_norm"].isnan()
            if kind == "good":
                assert_same(state_of(ours, optimizers[0]), state_of(theirs, optimizers[1]), EXACT)
        assert_same(state_of(ours, optimizers[0]), state_of(theirs, optimizers[1]), EXACT)
