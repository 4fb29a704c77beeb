"""StepKernel against loops written by hand, and against its promises where something is not finite."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict, defaultdict, namedtuple
from dataclasses import dataclass, field

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss
from torch.utils._python_dispatch import TorchDispatchMode

from hookline.kernel import StepKernel

F16_SCALE, MIN_SCALE = 65536.0, 2.0**-24


@pytest.fixture(autouse=True, params=["host", "device"])
def _one_thread(request, monkeypatch):
    if request.param == "device":  # As on a device whose values the host would have to wait for.
        monkeypatch.setattr("hookline.kernel.step._HOST_DEVICES", ())
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


class Net(nn.Module):
    """Batches are (x, y); the loss is a mean over rows, as most are."""

    def __init__(self, norm=False, dtype=torch.float32):
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.norm = nn.BatchNorm1d(8) if norm else nn.Identity()
        self.last = nn.Linear(8, 2)
        self.to(dtype)

    def forward(self, batch):
        x, y = batch
        return mse_loss(self.last(torch.tanh(self.norm(self.first(x)))).to(y.dtype), y)


class CountedNet(Net):
    """Returns two losses and how many rows they are means over."""

    def __init__(self, as_tensor=False, **options):
        super().__init__(**options)
        self.as_tensor = as_tensor

    def forward(self, batch):
        rows = len(batch[0])
        return {
            "fit": super().forward(batch),
            "decay": 0.1 * (batch[0].sum(1, keepdim=True) * self.last.weight[0]).square().mean(),
            "num_items": torch.tensor(rows) if self.as_tensor else rows,
        }


def make_batches(count, rows=6, dtype=torch.float32, seed=1):
    generator = torch.Generator().manual_seed(seed)
    sizes = rows if isinstance(rows, (list, tuple)) else [rows] * count
    return [
        (
            torch.randn(size, 4, generator=generator, dtype=dtype),
            torch.randn(size, 2, generator=generator, dtype=dtype),
        )
        for size in sizes
    ]


def joined(batches):
    return tuple(torch.cat(parts) for parts in zip(*batches, strict=True))


def nan_batch(dtype=torch.float32):
    x, y = make_batches(1, dtype=dtype, seed=9)[0]
    return torch.full_like(x, math.nan), y


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, fused=False),
    "sgd-fused": lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.01, fused=True),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, fused=False),
    "momentum-fused": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, fused=True),
    "nesterov-fused": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, fused=True),
    "dampening": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.5),
    "dampening-fused": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.5, fused=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, fused=False),
    "adamw-foreach": lambda p: torch.optim.AdamW(p, lr=0.01, foreach=True),
    "adamw-fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "adam-amsgrad-fused": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True, fused=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),
    "adagrad-fused": lambda p: torch.optim.Adagrad(p, lr=0.1, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5),
    "adafactor": lambda p: torch.optim.Adafactor(p, lr=0.01),
    "radam": lambda p: torch.optim.RAdam(p, lr=0.01),
}
FUSED = [name for name in OPTIMIZERS if name.endswith("-fused")]
WITHOUT_WAIT = [name for name in FUSED if name != "dampening-fused"]
every_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)


def rotated(first, second):
    """Each optimizer with all of ``first``, and from one of them to the next with another of ``second``.

    The two are decided apart from each other, so pairs tell as much as the full product: each of ``first``
    meets each of ``second``, with several optimizers.
    """
    return [
        (name, one, second[(number + place) % len(second)])
        for number, name in enumerate(OPTIMIZERS)
        for place, one in enumerate(first)
    ]


def plain_step(model, optimizer, microbatches, *, clip_norm=0.0, dtype=None, scaler=None):
    """Run an iteration as a reader would write it; return (loss, norm)."""
    optimizer.zero_grad()
    total = 0.0
    for batch in microbatches:
        with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
            loss = model(batch) / len(microbatches)
        (loss if scaler is None else scaler.scale(loss)).backward()
        total += loss.detach()
    if scaler is not None:
        scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(model.parameters(), clip_norm or math.inf)
    optimizer.step() if scaler is None else scaler.step(optimizer)
    if scaler is not None:
        scaler.update()
    return total, norm


def twins(name, **options):
    """Two equal models, each with its own optimizer of that name."""
    model = Net(**options)
    other = copy.deepcopy(model)
    return (model, OPTIMIZERS[name](model.parameters())), (other, OPTIMIZERS[name](other.parameters()))


def state_of(*things):
    """Copies of all tensors in the things' state, whose bits can be compared later."""
    return copy.deepcopy([thing.state_dict() for thing in things])


def assert_same(actual, expected, where="state", **tolerance):
    if isinstance(expected, torch.Tensor):
        tolerance = tolerance or {"rtol": 0, "atol": 0, "equal_nan": True}
        torch.testing.assert_close(actual, expected, msg=lambda text: f"{where}: {text}", **tolerance)
    elif isinstance(expected, dict):
        assert actual.keys() == expected.keys(), where
        for key in expected:
            assert_same(actual[key], expected[key], f"{where}.{key}", **tolerance)
    elif isinstance(expected, (list, tuple)):
        assert len(actual) == len(expected), where
        for index, (a, b) in enumerate(zip(actual, expected, strict=True)):
            assert_same(a, b, f"{where}[{index}]", **tolerance)
    else:
        assert actual == expected, where


TIGHT = {"rtol": 1e-12, "atol": 1e-12}
SUMMED = {"rtol": 1e-6, "atol": 0}  # Squares of float32 may be summed in any order.
# Clipping divides by norm / clip_norm where torch multiplies by clip_norm / norm: one rounding more or less an
# iteration, which a forward in halves may turn into another half.
ROUNDED = {
    "fp32": {"rtol": 1e-5, "atol": 1e-6},
    "bf16": {"rtol": 2e-2, "atol": 1e-3},
    "fp16": {"rtol": 2e-3, "atol": 1e-3},
}


class TestEqualsAPlainLoop:
    # Clips never, always, where it is allowed but not needed.
    @pytest.mark.parametrize(("name", "clip_norm", "accumulate"), rotated([0.0, 0.3, 50.0], [1, 3]))
    def test_float64_to_1e_12_of_one_big_batch(self, name, accumulate, clip_norm):
        (model, optimizer), (other, reference) = twins(name, dtype=torch.float64)
        kernel = StepKernel(model, optimizer, accumulate=accumulate, clip_norm=clip_norm)
        for i in range(4):
            batches = make_batches(accumulate, dtype=torch.float64, seed=i)
            metrics = kernel.step(batches)
            loss, norm = plain_step(other, reference, [joined(batches)], clip_norm=clip_norm)
            assert_same(metrics, {"total_loss": loss, "grad_norm": norm}, **TIGHT)
        assert_same(state_of(model, optimizer), state_of(other, reference), **TIGHT)

    @every_optimizer
    @pytest.mark.parametrize("precision", ["fp32", "bf16"])
    @pytest.mark.parametrize(("accumulate", "clip_norm"), [(1, 0.0), (1, 0.3), (4, 0.3)])
    def test_float32_and_bf16_to_the_bit_and_clipped_to_rounding(
        self, name, precision, accumulate, clip_norm
    ):
        (model, optimizer), (other, reference) = twins(name)
        kernel = StepKernel(model, optimizer, precision=precision, accumulate=accumulate, clip_norm=clip_norm)
        dtype = torch.bfloat16 if precision == "bf16" else None
        for i in range(4):
            batches = make_batches(accumulate, seed=i)
            metrics = kernel.step(batches)
            loss, norm = plain_step(other, reference, batches, clip_norm=clip_norm, dtype=dtype)
            close = ROUNDED[precision] if clip_norm else {}
            assert_same(metrics["total_loss"], loss, **close)
            assert_same(metrics["grad_norm"], norm, **(close or SUMMED))
        assert_same(state_of(model, optimizer), state_of(other, reference), **close)

    # The reference itself loses a fused momentum whose first update is skipped, unless it starts from zeros.
    @pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "dampening-fused"])
    @pytest.mark.parametrize(("accumulate", "clip_norm"), [(1, 0.0), (4, 0.3)])
    def test_fp16_as_with_a_grad_scaler_overflows_included(self, name, accumulate, clip_norm):
        (model, optimizer), (other, reference) = twins(name)
        kernel = StepKernel(model, optimizer, precision="fp16", accumulate=accumulate, clip_norm=clip_norm)
        if name in ("momentum-fused", "nesterov-fused"):
            for p in other.parameters():
                reference.state[p]["momentum_buffer"] = torch.zeros_like(p)
        scaler = torch.amp.GradScaler("cpu", growth_interval=3)
        # The reference scales means, the kernel sums: 4 microbatches need a quarter for the same halves.
        scale = torch.tensor(F16_SCALE / accumulate)
        kernel.load_state_dict({"scale": scale, "growth_tracker": torch.tensor(1997)})
        norms = []
        for i in range(9):
            batches = [(x, 40 * y) for x, y in make_batches(accumulate, seed=i)]  # Gradients near the edge.
            used = scaler.get_scale()
            metrics = kernel.step(batches)
            loss, norm = plain_step(
                other, reference, batches, clip_norm=clip_norm, dtype=torch.float16, scaler=scaler
            )
            assert metrics["loss_scale"] * accumulate == used
            close = ROUNDED["fp16"] if clip_norm else {}
            assert_same(metrics["total_loss"], loss, **close)
            norms.append(metrics["grad_norm"])
            assert_same(norms[-1], norm if norm.isfinite() else torch.tensor(math.inf), **(close or SUMMED))
            # The reference grows every 3 iterations; ours, whose interval is 2000, is moved on.
            state = kernel.state_dict()
            if scaler._get_growth_tracker() == 0:
                state["growth_tracker"].fill_(1997)
                kernel.load_state_dict(state)
        assert torch.isinf(torch.stack(norms)).any()
        assert torch.isfinite(torch.stack(norms)).sum() >= 3
        assert_same(state_of(model, optimizer), state_of(other, reference), **close)

    def test_unused_frozen_and_tied_parameters_in_several_groups(self):
        class Odd(Net):
            def __init__(self):
                super().__init__(dtype=torch.float64)
                self.unused = nn.Linear(3, 3, dtype=torch.float64)
                self.tied = nn.Linear(4, 8, bias=False, dtype=torch.float64)
                self.tied.weight = self.first.weight
                self.first.bias.requires_grad_(False)

            def forward(self, batch):
                return super().forward(batch) + self.tied(batch[0]).square().mean()

        def optimizer_of(model):
            groups = [
                {"params": model.first.parameters(), "lr": 0.2},
                {"params": [*model.last.parameters(), *model.unused.parameters()]},
            ]
            return torch.optim.AdamW(groups, lr=0.01, fused=True)

        model = Odd()
        other = copy.deepcopy(model)
        optimizer, reference = optimizer_of(model), optimizer_of(other)
        kernel = StepKernel(model, optimizer, accumulate=2, clip_norm=0.5)
        for i in range(3):
            batches = make_batches(2, dtype=torch.float64, seed=i)
            kernel.step(batches)
            plain_step(other, reference, [joined(batches)], clip_norm=0.5)
        assert_same(state_of(model, optimizer), state_of(other, reference), **TIGHT)

    @pytest.mark.parametrize("name", ["adamw", "adamw-fused", "momentum-fused"])
    def test_a_parameter_group_added_later_is_trained(self, name):
        model = Net()
        other = copy.deepcopy(model)
        optimizer, reference = (OPTIMIZERS[name](m.first.parameters()) for m in (model, other))
        kernel = StepKernel(model, optimizer, accumulate=2)
        for i in range(4):
            if i == 2:
                optimizer.add_param_group({"params": list(model.last.parameters())})
                reference.add_param_group({"params": list(other.last.parameters())})
            batches = make_batches(2, seed=i)
            kernel.step(batches)
            plain_step(other, reference, batches)
        for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
            assert_same(ours, theirs)

    def test_a_parameter_listed_twice_is_divided_once(self):
        def doubled(model):
            with pytest.warns(UserWarning, match="duplicate parameters"):
                return torch.optim.SGD([*model.parameters(), model.last.bias], lr=0.1)

        model = Net()
        other = copy.deepcopy(model)
        kernel = StepKernel(model, doubled(model), accumulate=2)
        reference = doubled(other)
        batches = make_batches(2)
        kernel.step(batches)
        plain_step(other, reference, batches)
        assert_same(state_of(model), state_of(other))

    def test_fused_momentum_of_a_parameter_that_first_has_a_gradient_later(self):
        class Late(Net):
            late = False

            def forward(self, batch):
                return super().forward(batch) if self.late else self.first(batch[0]).square().mean()

        model = Late()
        other = copy.deepcopy(model)
        kernel = StepKernel(model, OPTIMIZERS["momentum-fused"](model.parameters()))
        reference = OPTIMIZERS["momentum"](other.parameters())  # torch's own fused step raises here.
        for i, batch in enumerate(make_batches(4)):
            model.late = other.late = i >= 2
            kernel.step([batch])
            plain_step(other, reference, [batch])
        assert_same(state_of(model), state_of(other), rtol=1e-6, atol=1e-7)

    @pytest.mark.parametrize("clip_norm", [0.0, 0.05])
    @pytest.mark.parametrize("make", [lambda p: torch.optim.SGD(p, lr=0.5), "sparse-adam"])
    def test_sparse_gradients(self, make, clip_norm):
        class Words(nn.Module):
            def __init__(self, sparse):
                super().__init__()
                self.table = nn.Embedding(10, 3, sparse=sparse, dtype=torch.float64)

            def forward(self, words):
                return (self.table(words) - 1).square().mean()

        model = Words(sparse=True)
        other = Words(sparse=make == "sparse-adam")
        other.load_state_dict(model.state_dict())
        if make == "sparse-adam":
            make = lambda p: torch.optim.SparseAdam(list(p), lr=0.1)  # noqa: E731
        optimizer, reference = make(model.parameters()), make(other.parameters())
        kernel = StepKernel(model, optimizer, accumulate=2, clip_norm=clip_norm)
        batches = [torch.tensor([1, 1, 4, 1]), torch.tensor([4, 7, 1, 0])]  # Rows that occur several times.
        for _ in range(3):
            metrics = kernel.step(batches)
            reference.zero_grad()
            other(torch.cat(batches)).backward()
            grad = other.table.weight.grad.to_dense()
            assert_same(metrics["grad_norm"], grad.norm(), **TIGHT)
            if clip_norm:
                other.table.weight.grad *= min(1.0, clip_norm / (grad.norm().item() + 1e-6))
            reference.step()
        assert_same(state_of(model), state_of(other), **TIGHT)
        before = state_of(model, optimizer)
        model.table.weight.data[0] = math.nan
        assert kernel.step(batches)["grad_norm"].isnan()
        model.table.weight.data[0] = before[0]["table.weight"][0]
        assert_same(state_of(model, optimizer), before)

    def test_regions_without_autocast_keep_their_precision_in_backward(self):
        class Careful(Net):
            def forward(self, batch):
                with torch.autocast("cpu", enabled=False):
                    return super().forward(batch)

        model = Careful()
        other = copy.deepcopy(model)
        optimizer, reference = OPTIMIZERS["sgd"](model.parameters()), OPTIMIZERS["sgd"](other.parameters())
        batches = make_batches(2)
        StepKernel(model, optimizer, precision="bf16", accumulate=2).step(batches)
        plain_step(other, reference, batches)  # All in float32.
        assert_same(state_of(model), state_of(other))

    def test_fp32_means_fp32_inside_somebodys_autocast(self):
        (model, optimizer), (other, reference) = twins("sgd")
        batches = make_batches(1)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            StepKernel(model, optimizer).step(batches)
        plain_step(other, reference, batches)
        assert_same(state_of(model), state_of(other))


class TestOneBigBatch:
    @pytest.mark.parametrize("as_tensor", [False, True])
    @pytest.mark.parametrize("precision", ["fp32", "fp16"])
    def test_microbatches_of_unequal_size_are_weighted_by_num_items(self, as_tensor, precision):
        model = CountedNet(as_tensor, dtype=torch.float64)
        other = copy.deepcopy(model)
        if precision == "fp16":  # Float64 layers, so that only the weights and scaling are at work.
            model.forward = torch.autocast("cpu", enabled=False)(model.forward)
        optimizer, reference = (OPTIMIZERS["adamw-fused"](m.parameters()) for m in (model, other))
        kernel = StepKernel(model, optimizer, precision=precision, accumulate=3, clip_norm=0.2)
        for i in range(3):
            batches = make_batches(3, rows=[5, 1, 3], dtype=torch.float64, seed=i)
            metrics = kernel.step(batches)
            reference.zero_grad()
            losses = other(joined(batches))
            (losses["fit"] + losses["decay"]).backward()
            norm = nn.utils.clip_grad_norm_(other.parameters(), 0.2)
            reference.step()
            expected = {
                "total_loss": (losses["fit"] + losses["decay"]).detach(),
                "fit": losses["fit"].detach(),
                "decay": losses["decay"].detach(),
                "grad_norm": norm,
            }
            metrics.pop("loss_scale", None)
            assert_same(metrics, expected, **TIGHT)
        assert_same(state_of(model), state_of(other), **TIGHT)

    def test_without_num_items_microbatches_weigh_the_same(self):
        (model, optimizer), (other, reference) = twins("sgd", dtype=torch.float64)
        batches = make_batches(2, rows=[5, 1], dtype=torch.float64)
        metrics = StepKernel(model, optimizer, accumulate=2).step(batches)
        loss, norm = plain_step(other, reference, batches)
        assert_same(metrics, {"total_loss": loss, "grad_norm": norm}, **TIGHT)
        assert_same(state_of(model), state_of(other), **TIGHT)

    def test_fewer_microbatches_than_accumulate_are_averaged_over_what_there_is(self):
        (model, optimizer), (other, reference) = twins("sgd", dtype=torch.float64)
        kernel = StepKernel(model, optimizer, accumulate=4)
        for count in (4, 2, 1, 3):
            batches = make_batches(count, dtype=torch.float64, seed=count)
            kernel.step(batches)
            plain_step(other, reference, [joined(batches)])
        assert_same(state_of(model), state_of(other), **TIGHT)

    def test_a_microbatch_of_no_items_counts_nothing(self):
        class Masked(Net):
            def forward(self, batch):
                rows = batch[2]
                return {"loss": super().forward(batch[:2]), "num_items": rows}

        model = Masked(dtype=torch.float64)
        other = copy.deepcopy(model)
        first, second = make_batches(2, dtype=torch.float64)
        kernel = StepKernel(model, OPTIMIZERS["sgd"](model.parameters()), accumulate=2)
        alone = StepKernel(other, OPTIMIZERS["sgd"](other.parameters()))
        assert_same(kernel.step([(*first, 0), (*second, 6)]), alone.step([(*second, 6)]), **TIGHT)
        assert_same(state_of(model), state_of(other), **TIGHT)

    def test_no_items_at_all_skip_the_update(self):
        class Empty(Net):
            def forward(self, batch):
                return {"loss": super().forward(batch), "num_items": 0}

        model = Empty()
        before = state_of(model)
        metrics = StepKernel(model, OPTIMIZERS["adamw-fused"](model.parameters())).step(make_batches(1))
        assert metrics["grad_norm"].isnan()
        assert_same(state_of(model), before)

    def test_counts_beyond_what_float32_holds_are_exact_in_float64(self):
        class Huge(Net):
            def forward(self, batch):
                return {"loss": super().forward(batch), "num_items": torch.tensor(2**24 + 1)}

        (model, optimizer), _ = twins("sgd", dtype=torch.float64)
        model.__class__ = Huge
        other = Net(dtype=torch.float64)
        other.load_state_dict(model.state_dict())
        batches = make_batches(2, dtype=torch.float64)
        StepKernel(model, optimizer, accumulate=2).step(batches)
        plain_step(other, OPTIMIZERS["sgd"](other.parameters()), batches)
        assert_same(state_of(model), state_of(other), **TIGHT)

    def test_a_weight_is_cast_once_an_iteration(self):
        class Casts(TorchDispatchMode):
            count = 0

            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                if func is torch.ops.aten._to_copy.default and args[0] is weight:
                    self.count += 1
                return func(*args, **(kwargs or {}))

        model = Net()
        weight = model.first.weight
        kernel = StepKernel(model, OPTIMIZERS["sgd"](model.parameters()), precision="bf16", accumulate=3)
        with Casts() as casts:
            kernel.step(make_batches(3))
        assert casts.count == 1


class TestMetrics:
    def test_one_loss_is_total_loss_whatever_its_name(self):
        class Named(Net):
            def forward(self, batch):
                return {"mse": super().forward(batch)}

        model = Named()
        metrics = StepKernel(model, OPTIMIZERS["sgd"](model.parameters())).step(make_batches(1))
        assert set(metrics) == {"total_loss", "grad_norm"}

    def test_several_losses_are_returned_with_their_sum_and_in_fp16_with_the_scale(self):
        model = CountedNet()
        optimizer = OPTIMIZERS["sgd"](model.parameters())
        metrics = StepKernel(model, optimizer, precision="fp16").step(make_batches(1))
        assert set(metrics) == {"total_loss", "fit", "decay", "grad_norm", "loss_scale"}
        assert_same(metrics["total_loss"], metrics["fit"] + metrics["decay"])
        for value in metrics.values():
            assert value.ndim == 0
            assert value.dtype == torch.float32
            assert not value.requires_grad

    def test_a_loss_that_only_some_microbatches_have_counts_zero_in_the_others(self):
        class Sometimes(Net):
            def forward(self, batch):
                loss = super().forward(batch)
                return (
                    {"fit": loss, "extra": 2 * loss} if len(batch[0]) == 6 else {"fit": loss, "other": loss}
                )

        model = Sometimes(dtype=torch.float64)
        batches = make_batches(2, rows=[6, 3], dtype=torch.float64)
        first, second = (Net.forward(model, batch).detach() for batch in batches)
        metrics = StepKernel(model, OPTIMIZERS["sgd"](model.parameters()), accumulate=2).step(batches)
        assert_same(metrics["total_loss"], (3 * first + 2 * second) / 2, **TIGHT)
        assert_same(metrics["extra"], first, **TIGHT)
        assert_same(metrics["other"], second / 2, **TIGHT)

    def test_values_never_alias_what_the_model_or_the_kernel_changes_later(self):
        class Single(nn.Module):
            def __init__(self):
                super().__init__()
                self.weight = nn.Parameter(torch.tensor(3.0))

            def forward(self, batch):
                return self.weight  # The loss is the parameter itself.

        model = Single()
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0, fused=True)
        kernel = StepKernel(model, optimizer, precision="fp16")
        kept = [kernel.step([None]) for _ in range(3)]
        assert [float(metrics["total_loss"]) for metrics in kept] == [3.0, 2.0, 1.0]
        before = copy.deepcopy(kept)
        model.weight.grad.fill_(7)
        kernel.load_state_dict({"scale": torch.tensor(8.0), "growth_tracker": torch.tensor(5)})
        kernel.step([None])
        assert_same(kept, before)

    def test_no_gradients_at_all_have_norm_zero(self):
        class Elsewhere(Net):
            def forward(self, batch):
                return self.first(batch[0]).square().mean()

        model = Elsewhere()
        before = state_of(model)
        kernel = StepKernel(model, OPTIMIZERS["adamw-fused"](model.last.parameters()), clip_norm=1.0)
        assert kernel.step(make_batches(1))["grad_norm"] == 0
        assert_same(state_of(model), before)

    def test_half_gradients_have_a_norm_beyond_the_range_of_half(self):
        class Steep(nn.Module):
            def __init__(self):
                super().__init__()
                self.weight = nn.Parameter(torch.ones(4, dtype=torch.float16))

            def forward(self, batch):
                return (self.weight * 60000.0).sum(dtype=torch.float32)

        model = Steep()
        kernel = StepKernel(model, torch.optim.SGD(model.parameters(), lr=0.01), clip_norm=1.0)
        assert_same(kernel.step([None])["grad_norm"], torch.tensor(120000.0), rtol=1e-3, atol=0)
        assert_same(model.weight, torch.full((4,), 1 - 0.005, dtype=torch.float16), rtol=1e-3, atol=0)

    def test_half_losses_are_added_up_in_float32(self):
        class Half(Net):
            def forward(self, batch):
                loss = super().forward(batch)
                return (loss / loss.detach() * 1000 + 0 * loss).half()

        model = Half()
        batches = make_batches(70, rows=2)
        metrics = StepKernel(model, OPTIMIZERS["sgd"](model.parameters()), accumulate=70).step(batches)
        assert metrics["total_loss"].dtype == torch.float32
        assert metrics["total_loss"] == 1000  # 70,000 is beyond float16.


def skip_kinds():
    """Name -> (model class, a bad batch): what can be wrong while the rest is right."""

    class Sqrt(Net):
        """Finite loss, infinite gradient, where x is zero."""

        def forward(self, batch):
            return (
                super().forward(batch) + 0.1 * (self.first.weight.sum() * batch[0].abs().sum()).abs().sqrt()
            )

    class Detached(Net):
        """A loss that is not finite and has no gradient, where x is zero."""

        def forward(self, batch):
            return {"fit": super().forward(batch), "log": 0 * batch[0].abs().sum().log()}

    zeros = (torch.zeros(6, 4), torch.ones(6, 2))
    return {
        "nan-loss": (Net, nan_batch()),
        "inf-loss": (Net, (torch.ones(6, 4), torch.full((6, 2), math.inf))),
        "inf-gradient": (Sqrt, zeros),
        "nan-loss-without-gradient": (Detached, zeros),
    }


class TestSkips:
    @pytest.mark.parametrize(("name", "kind", "position"), rotated(list(skip_kinds()), [0, 1, 2]))
    def test_it_is_as_if_the_iteration_had_never_been(self, name, kind, position):
        cls, bad = skip_kinds()[kind]
        model = cls(norm=True)
        other = copy.deepcopy(model)
        optimizer, reference = (OPTIMIZERS[name](m.parameters()) for m in (model, other))
        kernel = StepKernel(model, optimizer, accumulate=3, clip_norm=0.3)
        healthy = StepKernel(other, reference, accumulate=3, clip_norm=0.3)
        good = [make_batches(3, seed=i) for i in range(3)]
        spoilt = [*good[2]]
        spoilt[position] = bad
        # The first iteration is bad too: fused momentum starts from memory that nobody has set.
        for iteration in (spoilt, good[0], spoilt, spoilt, good[1]):
            before = state_of(model, optimizer)
            metrics = kernel.step(iteration)
            if iteration is spoilt:
                assert metrics["grad_norm"].isnan()
                assert_same(state_of(model), before[:1])
                if before[1]["state"]:
                    assert_same(state_of(optimizer), before[1:])
            else:
                assert_same(metrics, healthy.step(iteration))
        assert_same(state_of(model, optimizer), state_of(other, reference))

    @pytest.mark.parametrize("name", ["momentum", "dampening-fused", "adamw", "adafactor"])
    def test_an_unfused_optimizer_has_no_state_after_a_skipped_first_update(self, name):
        model = Net()
        optimizer = OPTIMIZERS[name](model.parameters())
        StepKernel(model, optimizer).step([nan_batch()])
        assert optimizer.state_dict()["state"] == {}

    @pytest.mark.parametrize("name", WITHOUT_WAIT)
    def test_a_fused_optimizer_has_at_most_zeros_after_a_skipped_first_update(self, name):
        model = Net()
        optimizer = OPTIMIZERS[name](model.parameters())
        StepKernel(model, optimizer).step([nan_batch()])
        for state in optimizer.state.values():
            for value in state.values():
                assert_same(value, torch.zeros_like(value))

    @pytest.mark.parametrize("name", ["adamw", "adamw-fused"])
    def test_batch_norm_and_other_buffers_are_restored(self, name):
        class Buffers(Net):
            def __init__(self):
                super().__init__(norm=True)
                self.register_buffer("mean", torch.zeros(()))
                self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
                self.register_buffer("wide", torch.zeros(()).expand(5))
                self.register_buffer("graph", torch.eye(2).to_sparse(), persistent=False)
                self.register_buffer("hidden", torch.zeros(1), persistent=False)
                self.register_buffer("nothing", None)

            def forward(self, batch):
                self.mean = 0.9 * self.mean + batch[0].detach().mean()  # Assigned, not changed in place.
                self.calls += 1
                self.hidden = batch[0].detach()[:, 0]  # Of another shape each time.
                return super().forward(batch)

        model = Buffers()
        kernel = StepKernel(model, OPTIMIZERS[name](model.parameters()), accumulate=2)
        kernel.step(make_batches(2))
        assert model.norm.num_batches_tracked == 2
        assert model.calls == 2
        before = state_of(model)
        kernel.step([make_batches(1)[0], nan_batch()])
        assert_same(state_of(model), before)
        assert model.norm.running_mean.isfinite().all()
        kernel.step(make_batches(1, rows=5))
        assert model.calls == 3

    @pytest.mark.parametrize("name", FUSED)
    def test_nothing_is_left_behind_on_the_optimizer(self, name):
        model = Net()
        optimizer = OPTIMIZERS[name](model.parameters())
        StepKernel(model, optimizer).step([nan_batch()])
        assert not hasattr(optimizer, "found_inf")
        assert not hasattr(optimizer, "grad_scale")

    def test_an_optimizer_whose_fusion_was_turned_off_by_a_checkpoint_still_skips(self):
        model = Net()
        saved = OPTIMIZERS["adamw"](model.parameters()).state_dict()
        optimizer = OPTIMIZERS["adamw-fused"](model.parameters())
        optimizer.load_state_dict(saved)
        kernel = StepKernel(model, optimizer)
        before = state_of(model)
        kernel.step([nan_batch()])
        assert_same(state_of(model), before)
        kernel.step(make_batches(1))
        assert not torch.equal(model.last.bias, before[0]["last.bias"])


class HostReads(TorchDispatchMode):
    """Counts the operators that make the host wait for a device: each reads a value."""

    READS = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero")

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket.__name__ in self.READS
        return func(*args, **(kwargs or {}))


@pytest.fixture
def _device(monkeypatch):
    monkeypatch.setattr("hookline.kernel.step._HOST_DEVICES", ())


@pytest.mark.usefixtures("_device")
class TestWaits:
    @pytest.mark.parametrize("name", WITHOUT_WAIT)
    @pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
    def test_the_host_reads_nothing_with_a_fused_optimizer(self, name, precision):
        model = CountedNet(as_tensor=True, norm=True)
        optimizer = OPTIMIZERS[name](model.parameters())
        kernel = StepKernel(model, optimizer, precision=precision, accumulate=2, clip_norm=1.0)
        for batches in (make_batches(2), [nan_batch()], make_batches(2)):
            with HostReads() as reads:
                kernel.step(batches)
            assert reads.count == 0

    @pytest.mark.parametrize("precision", ["fp32", "fp16"])
    def test_the_host_reads_once_with_another_optimizer(self, precision):
        model = CountedNet(as_tensor=True, norm=True)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, foreach=True)
        kernel = StepKernel(model, optimizer, precision=precision, accumulate=2, clip_norm=1.0)
        for batches in (make_batches(2), [nan_batch()], make_batches(2)):
            with HostReads() as reads:
                kernel.step(batches)
            assert reads.count == 1


class TestLossScale:
    def kernel(self, name="adamw-fused", scale=None, growth_tracker=0):
        model = Net()
        kernel = StepKernel(model, OPTIMIZERS[name](model.parameters()), precision="fp16")
        if scale is not None:
            state = {"scale": torch.tensor(scale), "growth_tracker": torch.tensor(growth_tracker)}
            kernel.load_state_dict(state)
        return kernel

    @pytest.mark.parametrize("name", ["adamw", "adamw-fused"])
    def test_an_overflow_halves_it_skips_and_reports_inf(self, name):
        kernel = self.kernel(name, scale=2.0**40, growth_tracker=7)
        before = state_of(kernel.model)
        metrics = kernel.step(make_batches(1))
        assert metrics["grad_norm"] == math.inf
        assert metrics["total_loss"].isfinite()
        assert metrics["loss_scale"] == 2.0**40
        assert kernel.state_dict() == {"scale": torch.tensor(2.0**39), "growth_tracker": torch.tensor(0)}
        assert_same(state_of(kernel.model), before)

    def test_it_recovers_from_a_scale_that_is_far_too_high(self):
        kernel = self.kernel(scale=2.0**30)
        norms = [kernel.step(make_batches(1))["grad_norm"] for _ in range(20)]
        assert norms[0] == math.inf
        assert norms[-1].isfinite()

    def test_it_doubles_after_2000_good_updates(self):
        kernel = self.kernel(scale=64.0, growth_tracker=1998)
        scales = [float(kernel.step(make_batches(1))["loss_scale"]) for _ in range(3)]
        assert scales == [64.0, 64.0, 128.0]

    def test_a_nan_loss_is_nan_not_overflow(self):
        metrics = self.kernel().step([nan_batch()])
        assert metrics["grad_norm"].isnan()

    def test_it_stops_falling_where_an_overflow_is_no_longer_its_doing(self):
        cls, bad = skip_kinds()["inf-gradient"]
        model = cls()
        kernel = StepKernel(model, OPTIMIZERS["adamw-fused"](model.parameters()), precision="fp16")
        kernel.load_state_dict({"scale": torch.tensor(2 * MIN_SCALE), "growth_tracker": torch.tensor(0)})
        metrics = [kernel.step([bad]) for _ in range(3)]
        assert [float(m["loss_scale"]) for m in metrics] == [2 * MIN_SCALE, MIN_SCALE, MIN_SCALE]
        assert metrics[0]["grad_norm"] == math.inf
        assert metrics[1]["grad_norm"].isnan()
        assert metrics[2]["grad_norm"].isnan()

    def test_state_goes_round_and_is_not_aliased(self):
        kernel, restored = self.kernel(scale=2.0**22, growth_tracker=1996), self.kernel()
        restored.model.load_state_dict(kernel.model.state_dict())
        kernel.step(make_batches(1))
        restored.model.load_state_dict(kernel.model.state_dict())
        restored.optimizer.load_state_dict(copy.deepcopy(kernel.optimizer.state_dict()))
        state = kernel.state_dict()
        saved = copy.deepcopy(state)
        restored.load_state_dict(state)
        for i in range(8):
            assert_same(restored.step(make_batches(1, seed=i)), kernel.step(make_batches(1, seed=i)))
        assert_same(state, saved)
        assert_same(state_of(restored.model), state_of(kernel.model))

    def test_other_precisions_have_no_state_and_accept_any(self):
        model = Net()
        kernel = StepKernel(model, OPTIMIZERS["sgd"](model.parameters()))
        assert kernel.state_dict() == {}
        kernel.load_state_dict(self.kernel().state_dict())
        fp16 = self.kernel()
        fp16.load_state_dict({})
        assert fp16.state_dict()["scale"] == F16_SCALE

    def test_a_state_that_is_none_is_refused(self):
        with pytest.raises(ValueError, match=r"kernel state: expected a loss scale, got \['scael'\]"):
            self.kernel().load_state_dict({"scael": torch.tensor(1.0)})


class TestAfterBackward:
    @pytest.mark.parametrize("precision", ["fp32", "fp16"])
    def test_it_is_called_once_with_averaged_unscaled_unclipped_gradients(self, precision):
        model = Net(dtype=torch.float64)
        other = copy.deepcopy(model)
        model.forward = torch.autocast("cpu", enabled=False)(model.forward)
        optimizer = OPTIMIZERS["adamw-fused"](model.parameters())
        kernel = StepKernel(model, optimizer, precision=precision, accumulate=3, clip_norm=0.01)
        seen = []
        kernel.after_backward = lambda: seen.append([p.grad.clone() for p in model.parameters()])
        batches = make_batches(3, dtype=torch.float64)
        kernel.step(batches)
        other(joined(batches)).backward()
        assert len(seen) == 1
        assert_same(seen[0], [p.grad for p in other.parameters()], **TIGHT)

    @pytest.mark.parametrize("replace", [False, True])
    def test_what_it_changes_is_what_is_measured_clipped_and_applied(self, replace):
        (model, optimizer), (other, reference) = twins("sgd")

        def double():
            for p in model.parameters():
                if replace:
                    p.grad = 2 * p.grad
                else:
                    p.grad.mul_(2)

        batches = make_batches(1)
        kernel = StepKernel(model, optimizer, clip_norm=0.3)
        kernel.after_backward = double
        norm = kernel.step(batches)["grad_norm"]
        other(batches[0]).backward()
        for p in other.parameters():
            p.grad.mul_(2)
        assert_same(norm, nn.utils.clip_grad_norm_(other.parameters(), 0.3), **SUMMED)
        reference.step()
        assert_same(state_of(model), state_of(other), **ROUNDED["fp32"])

    @pytest.mark.parametrize("name", ["adamw", "adamw-fused"])
    def test_a_nan_that_it_writes_skips_the_update(self, name):
        (model, optimizer), _ = twins(name)
        kernel = StepKernel(model, optimizer)
        kernel.after_backward = lambda: model.last.bias.grad.fill_(math.nan)
        before = state_of(model)
        assert kernel.step(make_batches(1))["grad_norm"].isnan()
        assert_same(state_of(model), before)

    def test_it_is_called_in_a_skipped_iteration_too(self):
        (model, optimizer), _ = twins("adamw-fused")
        calls = []
        kernel = StepKernel(model, optimizer)
        kernel.after_backward = lambda: calls.append(model.last.bias.grad.isnan().any())
        kernel.step([nan_batch()])
        kernel.step(make_batches(1))
        assert calls == [True, False]


class TestGradients:
    def test_stale_ones_are_dropped_and_new_ones_stay_readable(self):
        (model, optimizer), (other, reference) = twins("sgd")
        for p in model.parameters():
            p.grad = torch.full_like(p, 1e6)
        batches = make_batches(1)
        StepKernel(model, optimizer, clip_norm=0.3).step(batches)
        plain_step(other, reference, batches, clip_norm=0.3)
        grads = [[p.grad for p in m.parameters()] for m in (model, other)]
        assert_same(*grads, **ROUNDED["fp32"])

    def test_one_that_a_forward_no_longer_reaches_is_none(self):
        class Half(Net):
            half = False

            def forward(self, batch):
                return self.first(batch[0]).square().mean() if self.half else super().forward(batch)

        model = Half()
        kernel = StepKernel(model, OPTIMIZERS["adamw-fused"](model.parameters()))
        kernel.step(make_batches(1))
        model.half = True
        before = model.last.weight.detach().clone()
        kernel.step(make_batches(1))
        assert model.last.weight.grad is None
        assert_same(model.last.weight.detach(), before)


Pair = namedtuple("Pair", "left right")


@dataclass(frozen=True)
class Sample:
    image: object
    size: int = 3
    area: int = field(init=False, default=0)

    def __post_init__(self):
        if self.area:
            raise AssertionError("made twice")
        object.__setattr__(self, "area", self.size**2)


class Movable:
    """Stands for a tensor on the host; ``to`` gives what stands for it on the device."""

    def __init__(self, device=None, non_blocking=False):
        self.device, self.non_blocking = device, non_blocking

    def to(self, device, non_blocking=False):
        return Movable(device, non_blocking)


@pytest.mark.usefixtures("_device")
class TestBatches:
    def received(self, batch):
        class Recorder(nn.Linear):
            def forward(self, batch):
                got.append(batch)
                return self.weight.sum()

        got = []
        model = Recorder(1, 1)
        StepKernel(model, OPTIMIZERS["sgd"](model.parameters()), device="cpu").step([batch])
        return got[0]

    @pytest.mark.parametrize(
        ("wrap", "unwrap"),
        [
            (lambda m: m, lambda b: b),
            (lambda m: {"a": [m]}, lambda b: b["a"][0]),
            (lambda m: [({"a": m},)], lambda b: b[0][0]["a"]),
            (lambda m: Pair(1, m), lambda b: b.right),
            (lambda m: OrderedDict(a=m), lambda b: b["a"]),
            (lambda m: defaultdict(list, a=m), lambda b: b["missing"] or b["a"]),
            (lambda m: Sample([m]), lambda b: b.image[0]),
            (lambda m: [Sample(Pair(m, None))], lambda b: b[0].image.left),
        ],
    )
    def test_tensors_in_any_nesting_go_to_the_device_without_blocking(self, wrap, unwrap):
        batch = wrap(Movable())
        moved = self.received(batch)
        assert type(moved) is type(batch)
        assert unwrap(moved).device == torch.device("cpu")
        assert unwrap(moved).non_blocking is True
        assert unwrap(batch).device is None  # The caller's batch is as it was.

    def test_everything_else_is_passed_through(self):
        batch = {"text": "a", "none": None, "number": 1, "kind": Sample, "set": {1}}
        assert self.received(batch) == batch

    def test_a_dataclass_is_copied_not_made_anew(self):
        moved = self.received(Sample(torch.ones(1), size=4))
        assert moved.area == 16

    def test_packed_sequences_arrive_whole(self):
        packed = nn.utils.rnn.pack_sequence([torch.ones(3), torch.ones(2)])
        moved = self.received([packed])[0]
        assert_same(list(moved[:2]), list(packed[:2]))

    @pytest.mark.parametrize("microbatches", [[], torch.ones(1), {"a": 1}, [1, 2, 3], None, iter([1])])
    def test_anything_but_a_list_of_1_to_accumulate_is_refused(self, microbatches):
        model = Net()
        kernel = StepKernel(model, OPTIMIZERS["sgd"](model.parameters()), accumulate=2)
        with pytest.raises(
            ValueError, match=r"^step: expected a list of 1 to 2 microbatches, as in \[batch\]"
        ):
            kernel.step(microbatches)


class TestModelOutputs:
    @pytest.mark.parametrize(
        ("output", "message"),
        [
            (lambda w: w, r"Odd\(batch\) total_loss: expected a 0-D .*, got a tensor of shape \(2,\)"),
            (lambda w: None, r"Odd\(batch\) total_loss: expected a 0-D .*, got None"),
            (lambda w: 1.5, r"expected a 0-D .*, got 1\.5"),
            (lambda w: (w.sum(), w), r"expected a 0-D .*, got \(tensor"),
            (lambda w: {"a": w.sum(), "b": w}, r"Odd\(batch\) b: expected a 0-D .*shape \(2,\)"),
            (lambda w: {"a": w.sum(), "b": torch.tensor(1)}, r"Odd\(batch\) b: expected a 0-D floating"),
            (lambda w: {}, r"expected losses not named .*, got \[\]"),
            (lambda w: {"num_items": 3}, r"expected losses not named .*, got \[\]"),
            (lambda w: {"a": w.sum(), "total_loss": w.sum()}, r"expected losses not named .*'total_loss'"),
            (lambda w: {"a": w.sum(), "grad_norm": w.sum()}, r"expected losses not named .*'grad_norm'"),
            (lambda w: {"a": w.sum(), "num_items": 1.5}, r"num_items: expected an int .*, got 1\.5"),
            (lambda w: {"a": w.sum(), "num_items": w}, r"num_items: expected .* shape \(2,\)"),
            (lambda w: w.detach().sum(), r"Odd\(batch\): expected a loss that depends on a trainable"),
        ],
    )
    def test_anything_but_losses_is_refused_by_name(self, output, message):
        class Odd(nn.Module):
            def __init__(self):
                super().__init__()
                self.weight = nn.Parameter(torch.ones(2))

            def forward(self, batch):
                return output(self.weight)

        model = Odd()
        with pytest.raises(ValueError, match=message):
            StepKernel(model, torch.optim.SGD(model.parameters())).step([None])


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"precision": "fp8"}, r"^precision: expected one of \['fp32', 'bf16', 'fp16'\], got 'fp8'\.$"),
            ({"accumulate": 0}, r"^accumulate: expected an int >= 1, got 0\.$"),
            ({"accumulate": 2.0}, r"^accumulate: expected an int >= 1, got 2\.0\.$"),
            ({"clip_norm": -1.0}, r"^clip_norm: expected a number >= 0"),
            ({"clip_norm": math.nan}, r"^clip_norm: expected a number >= 0.*, got nan"),
        ],
    )
    def test_out_of_range_is_refused(self, options, message):
        model = Net()
        with pytest.raises(ValueError, match=message):
            StepKernel(model, OPTIMIZERS["sgd"](model.parameters()), **options)

    def test_an_optimizer_that_needs_a_closure_is_refused_by_name(self):
        with pytest.raises(ValueError, match=r"^optimizer: expected one whose step\(\) .*, got 'LBFGS'"):
            StepKernel(Net(), torch.optim.LBFGS(Net().parameters()))

    def test_float16_parameters_are_refused_with_fp16(self):
        model = Net().half()
        with pytest.raises(ValueError, match=r"^precision: expected no float16 parameters"):
            StepKernel(model, OPTIMIZERS["sgd"](model.parameters()), precision="fp16")

    def test_an_optimizer_of_somebody_elses_needs_only_step_and_groups(self):
        class Sign(torch.optim.Optimizer):
            def __init__(self, params):
                super().__init__(params, {"lr": 0.5})

            def step(self, closure=None):
                for p in self.param_groups[0]["params"]:
                    p.data.sub_(0.5 * p.grad.sign())

        model = Net()
        kernel = StepKernel(model, Sign(model.parameters()))
        before = state_of(model)
        kernel.step([nan_batch()])
        assert_same(state_of(model), before)
        kernel.step(make_batches(1))
        assert_same((model.last.bias.detach() - before[0]["last.bias"]).abs(), torch.full((2,), 0.5))

    def test_compile_takes_options_and_leaves_the_model_alone(self):
        graphs = []

        def backend(graph, inputs):
            graphs.append(graph)
            return graph.forward

        (model, optimizer), (other, reference) = twins("adamw-fused", norm=True)
        names = list(model.state_dict())
        kernel = StepKernel(model, optimizer, accumulate=2, compile={"backend": backend, "fullgraph": True})
        for i in range(3):
            batches = make_batches(2, seed=i)
            kernel.step(batches)
            plain_step(other, reference, batches)
        assert len(graphs) == 1
        assert list(model.state_dict()) == names
        assert_same(state_of(model), state_of(other))

    def test_compile_true_is_torch_compile_with_its_defaults(self, monkeypatch):
        calls = []
        monkeypatch.setattr(
            torch, "compile", lambda model, **options: calls.append((model, options)) or model
        )
        model = Net()
        kernel = StepKernel(model, OPTIMIZERS["sgd"](model.parameters()), compile=True)
        assert calls == [(model, {})]
        kernel.step(make_batches(1))
