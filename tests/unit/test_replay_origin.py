from __future__ import annotations

import copy
import inspect
import math

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from hookline import StepKernel
from hookline.replay.origin import Watch, is_bad


class Net(nn.Module):
    """Runs ``function(hidden, x)`` on what a layer makes of x; returns the mean."""

    def __init__(self, function):
        super().__init__()
        self.inner = nn.Linear(3, 3)
        self.outer = Outer(function)

    def forward(self, x):
        return self.outer(self.inner(x), x).mean()


class Outer(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, hidden, x):
        return self.function(hidden, x)


def watched(function, *batches):
    torch.manual_seed(0)
    model = Net(function)
    batches = batches or (torch.linspace(0.5, 1, 6).reshape(2, 3),)
    kernel = StepKernel(model, torch.optim.AdamW(model.parameters()), accumulate=len(batches))
    with Watch(model) as watch:
        metrics = kernel.step(list(batches))
    return watch, metrics


def line(function):
    """Return file and number of the line in ``function`` that is marked."""
    lines, first = inspect.getsourcelines(function)
    return __file__, first + next(i for i, text in enumerate(lines) if "# here" in text)


def log_of_negative(hidden, x):
    hidden = hidden * 2
    return (hidden - 100).log()  # here


def log_of_zero(hidden, x):
    return hidden + (x - x).log()  # here


def root_of_zero(hidden, x):
    zero = hidden * 0
    return zero.sqrt()  # here


def in_place(hidden, x):
    hidden = hidden.clone()
    hidden.sub_(100).log_()  # here
    return hidden


def recomputed(hidden, x):
    return checkpoint(log_of_negative, hidden, x, use_reentrant=False)


@pytest.mark.parametrize(
    ("function", "phase", "what", "op", "marked"),
    [
        (log_of_negative, "forward", "NaN", "log", log_of_negative),
        (log_of_zero, "forward", "inf", "log", log_of_zero),
        (in_place, "forward", "NaN", "log_", in_place),
        (recomputed, "forward", "NaN", "log", log_of_negative),
        (root_of_zero, "backward", "inf", "SqrtBackward0 (div)", root_of_zero),
    ],
)
def test_the_operation_and_its_line_are_found(function, phase, what, op, marked):
    watch, metrics = watched(function)
    origin = watch.origins[phase, what]
    assert (origin.op, origin.of_inf, (origin.file, origin.line)) == (op, False, line(marked))
    assert "# here" in origin.text
    if phase == "forward":
        assert (origin.module, origin.kind) == ("outer", "Outer")
        assert watch.module == ("outer", "Outer")
    else:
        assert watch.module is None
        assert watch.gradient.name.startswith("inner.")
        assert watch.num_gradients == 2
    assert math.isnan(metrics["grad_norm"])


def test_nan_of_infinities_says_so():
    watch, _ = watched(lambda hidden, x: (hidden * 1e38 * 1e38).abs() * 0)
    assert watch.origins["forward", "inf"].op == "mul"
    assert (watch.origins["forward", "NaN"].op, watch.origins["forward", "NaN"].of_inf) == ("mul", True)


def test_an_infinity_that_was_asked_for_is_not_blamed():
    def attention(hidden, x):
        mask = torch.tensor([True, False, False])
        scores = hidden.masked_fill(mask, -math.inf) + torch.full((2, 3), -math.inf).triu(3)
        return torch.where(mask, 0.0, scores).softmax(-1)

    watch, metrics = watched(attention)
    assert watch.origins == {}
    assert math.isfinite(metrics["grad_norm"])


def test_a_row_that_is_masked_as_a_whole_is_found():
    def attention(hidden, x):
        return hidden.masked_fill(torch.ones(3, dtype=torch.bool), -math.inf).softmax(-1)

    watch, _ = watched(attention)
    (origin,) = watch.origins.values()
    assert (origin.what, origin.of_inf, origin.op) == ("NaN", True, "_softmax")


def test_memory_that_nobody_has_written_to_is_not_blamed():
    def scratch(hidden, x):
        memory = torch.empty_like(x).fill_(math.nan)
        memory.copy_(x)
        return hidden * memory

    assert watched(scratch)[0].origins == {}


def test_nan_in_the_batch_has_no_origin_in_the_model():
    watch, metrics = watched(lambda hidden, x: hidden, torch.full((2, 3), math.nan))
    assert watch.origins == {}
    assert watch.module == ("inner", "Linear")
    assert math.isnan(metrics["total_loss"])


def test_gradients_that_are_too_large_only_together_are_found_in_the_update():
    watch, metrics = watched(lambda hidden, x: hidden * 1e30)
    assert [(origin.phase, origin.what) for origin in watch.origins.values()] == [("update", "inf")]
    assert watch.gradient is None
    assert math.isnan(metrics["grad_norm"])


def test_a_gradient_of_a_function_of_ones_own_is_found():
    class Spoil(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return (gradient - 1).log()

    def spoiled(hidden, x):
        return Spoil.apply(hidden)  # here

    watch, _ = watched(spoiled)
    origin = watch.origins["backward", "NaN"]
    assert origin.op == "SpoilBackward (log)"
    assert (origin.file, origin.line) == line(spoiled)


def test_the_microbatch_is_told():
    fine, zero = torch.ones(2, 3), torch.zeros(2, 3)
    watch, _ = watched(lambda hidden, x: hidden + x.log(), fine, fine, zero, fine)
    assert watch.origins["forward", "inf"].microbatch == 2
    assert watch.gradient is None or watch.gradient.microbatch >= 2


def test_a_sparse_gradient_is_looked_at():
    model = nn.Sequential(nn.Embedding(4, 2, sparse=True))
    with Watch(model) as watch:
        (model(torch.tensor([1, 2])) * torch.tensor([1.0, math.inf])).sum().backward()
    assert (watch.gradient.name, watch.gradient.num_bad, watch.gradient.num) == ("0.weight", 2, 4)


def test_to_watch_changes_nothing_and_leaves_nothing_behind():
    torch.manual_seed(0)
    model = Net(log_of_zero)
    model.outer.function = lambda hidden, x: nn.functional.dropout(hidden, 0.5)
    results = []
    for is_watched in (False, True):
        copied = copy.deepcopy(model)
        kernel = StepKernel(copied, torch.optim.AdamW(copied.parameters(), lr=0.1))
        torch.manual_seed(1)
        if is_watched:
            with Watch(copied):
                metrics = kernel.step([torch.ones(2, 3)])
        else:
            metrics = kernel.step([torch.ones(2, 3)])
        results.append([*metrics.values(), *copied.parameters(), torch.rand(3)])
    assert all(map(torch.equal, *results))
    assert not torch.is_anomaly_enabled()
    for module in copied.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    assert not any(parameter._post_accumulate_grad_hooks for parameter in copied.parameters())


@pytest.mark.parametrize(
    ("value", "bad"),
    [
        (torch.tensor([1.0, math.nan]), True),
        (torch.tensor(math.inf, dtype=torch.complex64), True),
        ([{"x": torch.tensor(-math.inf, dtype=torch.float16)}], True),
        (torch.ones(2).to_sparse() * math.inf, True),
        (torch.tensor([1, 2]), False),
        (torch.empty(0), False),
        (torch.ones(2, device="meta"), False),
        (torch.ones(2).to(torch.float8_e4m3fn), False),
        ("text", False),
    ],
)
def test_what_is_not_finite_is_seen_in_any_nesting(value, bad):
    assert is_bad(value) is bad
