"""Which way an update goes, and that every way is as right as the fused one."""

from __future__ import annotations

import copy
import warnings
from functools import wraps

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from hookline.kernel import StepKernel, backward, fused
from hookline.kernel.update import Update


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, batch):
        return mse_loss(self.last(torch.tanh(self.first(batch[0]))), batch[1])


@pytest.fixture(autouse=True, params=["host", "device"])
def _seeded(request, monkeypatch):
    if request.param == "device":
        monkeypatch.setattr("hookline.kernel.step._HOST_DEVICES", ())
    torch.manual_seed(0)


def batches(count):
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(5, 3, generator=generator), torch.randn(5, 2, generator=generator)) for _ in range(count)
    ]


def train(model, optimizer, iterations, **options):
    kernel = StepKernel(model, optimizer, **options)
    metrics = [kernel.step([batch]) for batch in iterations]
    return metrics, copy.deepcopy([model.state_dict(), optimizer.state_dict()])


class Calls:
    """Counts the calls of torch's fused function, which stands behind ``optimizer.step()`` too."""

    def __init__(self, monkeypatch):
        self.steps = 0
        original = torch.optim.AdamW.step

        def step(optimizer, *args):
            self.steps += 1
            return original(optimizer, *args)

        monkeypatch.setattr(torch.optim.AdamW, "step", step)


class TestFusedIsTurnedOn:
    @pytest.mark.parametrize("cls", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
    def test_where_nobody_chose(self, cls):
        model, other = Net(), Net()
        other.load_state_dict(model.state_dict())
        optimizer = cls(model.parameters(), lr=0.01)
        ours = train(model, optimizer, batches(5))
        theirs = train(other, cls(other.parameters(), lr=0.01, fused=True), batches(5))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
        assert optimizer.param_groups[0]["fused"] is True

    def test_for_a_group_that_is_added_later_too(self):
        model = Net()
        optimizer = torch.optim.AdamW(model.first.parameters(), lr=0.01)
        kernel = StepKernel(model, optimizer)
        kernel.step(batches(1))
        optimizer.add_param_group({"params": list(model.last.parameters())})
        kernel.step(batches(1))
        assert [group["fused"] for group in optimizer.param_groups] == [True, True]
        assert not kernel._update.obstacle()

    def test_again_after_the_state_of_a_plain_loop_was_loaded(self):
        model = Net()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        saved = copy.deepcopy(optimizer.state_dict())
        kernel = StepKernel(model, optimizer)
        optimizer.load_state_dict(saved)
        kernel.step(batches(1))
        assert optimizer.param_groups[0]["fused"] is True

    @pytest.mark.parametrize(
        "make",
        [
            lambda p: torch.optim.AdamW(p, fused=False),
            lambda p: torch.optim.AdamW(p, foreach=True),
            lambda p: torch.optim.AdamW(p, foreach=False),
            lambda p: torch.optim.AdamW([nn.Parameter(torch.ones(2, dtype=torch.complex64))]),
            lambda p: torch.optim.Adam(p, differentiable=True),
            lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.5),
            lambda p: torch.optim.Adagrad(p),
            lambda p: type("Own", (torch.optim.AdamW,), {})(p),
            lambda p: torch.optim.SGD([{"params": p[:1]}, {"params": p[1:], "foreach": True}], lr=0.1),
        ],
    )
    def test_not_where_something_else_was(self, make):
        optimizer = make(list(Net().parameters()))
        before = [group["fused"] for group in optimizer.param_groups]
        update = Update(optimizer)
        assert [group["fused"] for group in optimizer.param_groups] == before
        assert update.obstacle()

    def test_not_for_sparse_gradients_which_torch_cannot_fuse(self):
        model = nn.Embedding(10, 3, sparse=True)
        model.forward = lambda words: nn.Embedding.forward(model, words).square().mean()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        kernel = StepKernel(model, optimizer)
        before = model.weight.detach().clone()
        kernel.step([torch.tensor([1, 1, 4])])
        assert optimizer.param_groups[0]["fused"] is None
        assert set((model.weight != before).any(1).nonzero().flatten().tolist()) == {1, 4}


def replaced_after_a_schedule(optimizer):
    torch.optim.lr_scheduler.StepLR(optimizer, 9)
    inner = optimizer.step

    @wraps(inner)
    def step(*args):
        return inner(*args)

    optimizer.step = step


class TestWhoUpdates:
    """The fused function where it can, ``optimizer.step()`` where somebody must see it or torch has another."""

    def test_the_function_itself(self, monkeypatch):
        calls, model = Calls(monkeypatch), Net()
        train(model, torch.optim.AdamW(model.parameters()), batches(3))
        assert calls.steps == 0

    @pytest.mark.parametrize(
        "watch",
        [
            lambda o: o.register_step_pre_hook(lambda *_: None),
            lambda o: o.register_step_post_hook(lambda *_: None),
            lambda o: setattr(o, "step", lambda original=o.step: original()),
            replaced_after_a_schedule,
        ],
    )
    def test_step_where_it_is_watched_with_the_same_result(self, monkeypatch, watch):
        calls, model, other = Calls(monkeypatch), Net(), Net()
        other.load_state_dict(model.state_dict())
        watched = torch.optim.AdamW(model.parameters())
        watch(watched)
        options = {"clip_norm": 0.1}
        ours = train(model, watched, batches(3), **options)
        assert calls.steps == 3
        theirs = train(other, torch.optim.AdamW(other.parameters()), batches(3), **options)
        for state in (ours, theirs):
            state[1][1]["param_groups"][0].pop("initial_lr", None)
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)

    def test_step_where_torch_has_other_arguments_with_the_same_result(self, monkeypatch):
        model, other = Net(), Net()
        other.load_state_dict(model.state_dict())
        expected = train(other, torch.optim.AdamW(other.parameters()), batches(3))
        monkeypatch.setitem(fused._ARGUMENTS, "_fused_adamw_", "self grads something_new")
        calls = Calls(monkeypatch)
        ours = train(model, torch.optim.AdamW(model.parameters(), fused=True), batches(3))
        assert calls.steps == 3
        torch.testing.assert_close(ours, expected, rtol=0, atol=0)

    def test_torch_has_the_arguments_that_are_expected(self):
        for cls in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW):
            assert fused.fused_function(cls(Net().parameters(), lr=0.1)) is not None


class Conv(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.conv(x).square().mean()


OPTIMIZERS = {
    "sgd": lambda p, **more: torch.optim.SGD(p, lr=0.1, momentum=0.9, **more),
    "adamw": lambda p, **more: torch.optim.AdamW(p, lr=0.01, **more),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
class TestLayouts:
    """torch's fused functions walk through raw memory; ours is that of torch's loop, whatever the layout."""

    def same(self, name, act, hook=None):
        model = Conv()
        other = copy.deepcopy(model)
        kernels = []
        for each, more in ((model, {}), (other, {"fused": False})):
            kernels.append(StepKernel(each, OPTIMIZERS[name](each.parameters(), **more)))
        x = torch.randn(2, 3, 6, 6)
        for i in range(6):
            for kernel in kernels:
                if i == 3:
                    act(kernel)
                if hook is not None:
                    kernel.after_backward = lambda kernel=kernel: hook(kernel)
                kernel.step([x])
        torch.testing.assert_close(model.state_dict(), other.state_dict(), rtol=1e-5, atol=1e-6)
        assert kernels[0].optimizer.param_groups[0]["fused"] is True

    def test_of_weights_that_change_it(self, name):
        self.same(name, lambda kernel: kernel.model.to(memory_format=torch.channels_last))

    def test_of_state_that_is_loaded(self, name):
        def act(kernel):
            saved = copy.deepcopy(kernel.optimizer.state_dict())
            kernel.model.to(memory_format=torch.channels_last)
            kernel.optimizer.load_state_dict(saved)

        self.same(name, act)

    def test_of_gradients_that_a_hook_makes(self, name):
        def hook(kernel):
            weight = kernel.model.conv.weight
            weight.grad = weight.grad.contiguous(memory_format=torch.channels_last)
            kernel.model.conv.bias.grad = torch.ones(1).expand(4)

        self.same(name, lambda kernel: None, hook)

    def test_of_a_parameter_that_is_part_of_another_tensor(self, name):
        big = torch.randn(4, 5)
        expected = big.clone()

        class Part(nn.Module):
            def __init__(self):
                super().__init__()
                self.weight = nn.Parameter(big[:, :3])

            def forward(self, x):
                return (self.weight * x).square().sum()

        model = Part()
        optimizer = OPTIMIZERS[name](model.parameters())
        StepKernel(model, optimizer).step([torch.ones(3)])
        assert torch.equal(big[:, 3:], expected[:, 3:])
        assert not torch.equal(big[:, :3], expected[:, :3])
        assert optimizer.param_groups[0]["fused"] is None


class TestWhatNobodySharesWithTheKernel:
    def test_a_parameter_that_is_added_to_the_loss_by_a_view(self):
        class Added(Net):
            def __init__(self):
                super().__init__()
                self.offset = nn.Parameter(torch.zeros(1))

            def forward(self, batch):
                return super().forward(batch) + self.offset.squeeze()

        model = Added()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        kernel = StepKernel(model, optimizer, clip_norm=0.1)
        for batch in batches(4):
            kernel.step([batch])
            optimizer.zero_grad(set_to_none=False)
        kernel.after_backward = lambda: seen.append(model.offset.grad.item())
        seen = []
        kernel.step(batches(1))
        assert seen == [1.0]

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
    def test_another_default_dtype(self, dtype):
        model, iterations = Net(), batches(2)
        torch.set_default_dtype(dtype)
        try:
            train(model, torch.optim.AdamW(model.parameters()), iterations, clip_norm=0.1)
        finally:
            torch.set_default_dtype(torch.float32)
        assert all(p.isfinite().all() for p in model.parameters())

    def test_compiled_losses_have_memory_of_their_own(self):
        model = Net()
        kernel = StepKernel(model, torch.optim.SGD(model.parameters(), lr=0.1), compile={"backend": "eager"})
        first = kernel.step(batches(1))["total_loss"]
        assert first._base is None

    def test_what_torch_compile_refuses_is_refused_by_name(self):
        model = Net()
        for wrong in ({"mode": "fastest"}, {"mod": 1}, None, "yes"):
            with pytest.raises(ValueError, match="^compile: expected"):
                StepKernel(model, torch.optim.SGD(model.parameters(), lr=0.1), compile=wrong)

    def test_an_optimizer_without_parameters_is_refused(self):
        with pytest.raises(ValueError, match="optimizer: expected one with parameters"):
            StepKernel(Net(), torch.optim.SGD([{"params": []}], lr=0.1))


class TestNorm:
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("bad", [0.0, torch.nan, torch.inf])
    def test_is_that_of_all_gradients_in_one_piece_or_in_parts(self, monkeypatch, dtype, bad):
        model = Net().to(dtype)
        for p in model.parameters():
            p.grad = torch.randn_like(p) * 100
        model.last.bias.grad[0] = bad
        everything = torch.cat([p.grad.double().flatten() for p in model.parameters()])
        rtol = 1e-12 if dtype == torch.float64 else 1e-6
        grads = [p.grad for p in model.parameters()]
        for max_flat in (0, 2**17):
            monkeypatch.setattr("hookline.kernel.update._MAX_FLAT", max_flat)
            norm = Update(torch.optim.SGD(model.parameters(), lr=0.1)).norm(grads)
            assert norm.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
            torch.testing.assert_close(norm.double(), everything.norm(), rtol=rtol, atol=0, equal_nan=True)

    def test_without_the_private_function_it_is_taken_in_parts(self, monkeypatch):
        model = Net()
        grads = [torch.randn_like(p) for p in model.parameters()]
        update = Update(torch.optim.SGD(model.parameters(), lr=0.1))
        expected = update.norm(grads)
        monkeypatch.setattr("hookline.kernel.update._flat", None)
        torch.testing.assert_close(update.norm(grads), expected)

    def test_parameters_of_several_dtypes_have_one_norm(self):
        model = Net()
        model.last.half()
        grads = [torch.ones_like(p) for p in model.parameters()]
        norm = Update(torch.optim.SGD(model.parameters(), lr=0.1)).norm(grads)
        torch.testing.assert_close(norm, torch.tensor(26.0).sqrt())


class TestStepCounts:
    def test_are_counted_up_by_one_operation_and_stay_each_parameters_own(self):
        model = Net()
        optimizer = torch.optim.AdamW(model.parameters())
        kernel = StepKernel(model, optimizer)
        for batch in batches(3):
            kernel.step([batch])
        steps = [state["step"] for state in optimizer.state.values()]
        assert [float(step) for step in steps] == [3, 3, 3, 3]
        assert len({step.untyped_storage().data_ptr() for step in steps}) == 1
        (bucket,) = kernel._update._bound[None]
        assert len(bucket.counted) == 1
        model.first.requires_grad_(False)
        kernel.step(batches(1))
        assert [float(state["step"]) for state in optimizer.state.values()] == [3, 3, 4, 4]

    def test_a_skipped_update_is_not_counted(self):
        model = Net()
        optimizer = torch.optim.AdamW(model.parameters())
        kernel = StepKernel(model, optimizer)
        kernel.step(batches(1))
        kernel.step([(torch.full((5, 3), torch.nan), torch.zeros(5, 2))])
        assert [float(state["step"]) for state in optimizer.state.values()] == [1, 1, 1, 1]


class TestBackward:
    def test_without_the_engine_it_is_the_same(self, monkeypatch):
        model, other = Net(), Net()
        other.load_state_dict(model.state_dict())
        expected = train(other, torch.optim.SGD(other.parameters(), lr=0.1), batches(3))
        monkeypatch.setattr(backward, "_engine", lambda has_threads: None)
        ours = train(model, torch.optim.SGD(model.parameters(), lr=0.1), batches(3))
        torch.testing.assert_close(ours, expected, rtol=0, atol=0)

    @pytest.mark.parametrize("has_threads", [False, True])
    def test_this_torch_has_the_engine_that_is_expected(self, has_threads):
        assert backward._engine(has_threads) is not None

    def test_a_loss_of_another_class_does_it_in_its_own_way(self):
        class Loss(torch.Tensor):
            calls = []

            def backward(self, *args, **kwargs):
                self.calls.append(args)
                return super().backward(*args, **kwargs)

        class Own(Net):
            def forward(self, batch):
                return super().forward(batch).as_subclass(Loss)

        model = Own()
        train(model, torch.optim.SGD(model.parameters(), lr=0.1), batches(2))
        assert len(Loss.calls) == 2


class TestBuffers:
    def test_one_that_is_resized_in_place(self):
        class Observing(Net):
            def __init__(self):
                super().__init__()
                self.register_buffer("seen", torch.zeros(0))

            def forward(self, batch):
                self.seen.resize_(len(batch[0])).copy_(batch[0][:, 0])
                return super().forward(batch)

        model = Observing()
        kernel = StepKernel(model, torch.optim.SGD(model.parameters(), lr=0.1))
        for batch in batches(3):
            kernel.step([batch])
        before = model.seen.clone()
        kernel.step([(torch.full((5, 3), torch.nan), torch.zeros(5, 2))])
        assert torch.equal(model.seen, before)

    def test_those_of_a_scripted_module(self):
        class Scripted(Net):
            def __init__(self):
                super().__init__()
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    self.norm = torch.jit.trace(nn.BatchNorm1d(3), torch.randn(5, 3))

            def forward(self, batch):
                return super().forward((self.norm(batch[0]), batch[1]))

        model = Scripted()
        kernel = StepKernel(model, torch.optim.SGD(model.parameters(), lr=0.1))
        kernel.step(batches(1))
        before = copy.deepcopy(model.state_dict())
        kernel.step([(torch.full((5, 3), torch.nan), torch.zeros(5, 2))])
        torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)

    def test_a_module_that_comes_later_is_restored_too(self):
        class Growing(Net):
            def forward(self, batch):
                x = self.norm(batch[0]) if hasattr(self, "norm") else batch[0]
                return super().forward((x, batch[1]))

        model = Growing()
        kernel = StepKernel(model, torch.optim.SGD(model.parameters(), lr=0.1))
        kernel.step(batches(1))
        model.norm = nn.BatchNorm1d(3, affine=False)
        before = copy.deepcopy(model.state_dict())
        kernel.step([(torch.full((5, 3), torch.nan), torch.zeros(5, 2))])
        torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
        kernel.step(batches(1))
        assert model.norm.num_batches_tracked == 1
        model.norm = nn.BatchNorm1d(3, affine=False)  # Another one in its place.
        kernel.step([(torch.full((5, 3), torch.nan), torch.zeros(5, 2))])
        assert model.norm.num_batches_tracked == 0
