"""The fingerprint of all that training depends on, and the watch that compares it around each call."""

from __future__ import annotations

import random
from itertools import chain

import numpy as np
import pytest
import torch
from torch import nn

from hookline import HookBase, Loader, SimpleTrainer, TrainerBase, hookimpl
from hookline.purity import Change, described, differences, fingerprint, observe, observers
from hookline.purity.digests import _CHUNK, _sum_on_device, digests


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.norm = nn.BatchNorm1d(2)

    def forward(self, batch):
        return self.norm(self.linear(batch)).square().mean()


class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return 16

    def __getitem__(self, index):
        return torch.tensor([index / 16, 1.0])


def make_trainer(*hooks, optimizer=torch.optim.AdamW):
    torch.manual_seed(0)
    model = Net()
    trainer = SimpleTrainer(model, Loader(Rows(), batch_size=4), optimizer(model.parameters(), lr=0.1))
    trainer.register_hooks(hooks)
    return trainer


@pytest.fixture
def trained():
    trainer = make_trainer()
    trainer.train(0, 2)
    return trainer


@pytest.fixture(autouse=True)
def settings():
    """Put back what the tests change of the process."""
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    yield
    torch.set_default_dtype(dtype)
    torch.set_num_threads(threads)
    torch.set_grad_enabled(True)
    torch.use_deterministic_algorithms(False)
    torch.set_float32_matmul_precision("highest")
    torch.set_default_device(None)
    torch.set_flush_denormal(False)
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.enable_flash_sdp(True)


def zero_first(tensor):
    tensor.data.view(-1)[0] = 7


def next_batch(trainer):
    next(iter(trainer.data_loader))


def state_of(trainer, name):
    return next(iter(trainer.optimizer.state.values()))[name]


CHANGES = {
    "weights/linear.weight": lambda t: zero_first(t.model.linear.weight),
    "weights/norm.bias": lambda t: setattr(t.model.norm.bias, "data", t.model.norm.bias.data.double()),
    "buffers/norm.running_var": lambda t: t.model.norm.running_var.mul_(1 + 1e-6),
    "requires_grad/linear.bias": lambda t: t.model.linear.bias.requires_grad_(False),
    "gradients/linear.weight": lambda t: zero_first(t.model.linear.weight.grad),
    "training mode/norm": lambda t: t.model.norm.eval(),
    "optimizer options/0.lr": lambda t: t.optimizer.param_groups[0].update(lr=0.2),
    "optimizer state/linear.weight.exp_avg": lambda t: zero_first(state_of(t, "exp_avg")),
    "optimizer state/linear.weight.step": lambda t: state_of(t, "step").add_(1),
    "random numbers/Python": lambda t: random.random(),
    "random numbers/NumPy": lambda t: np.random.rand(),
    "random numbers/torch": lambda t: torch.rand(()),
    "data/position": next_batch,
    "data/batches of the iteration": lambda t: zero_first(t.microbatches[0]),
    "trainer/max_iter": lambda t: setattr(t, "max_iter", 99),
    "kernel/clip_norm": lambda t: setattr(t.kernel, "clip_norm", 0.5),
    "torch settings/default dtype": lambda t: torch.set_default_dtype(torch.float64),
    "torch settings/default device": lambda t: torch.set_default_device("meta"),
    "torch settings/gradients on": lambda t: torch.set_grad_enabled(False),
    "torch settings/threads": lambda t: torch.set_num_threads(torch.get_num_threads() + 1),
    "torch settings/deterministic algorithms": lambda t: torch.use_deterministic_algorithms(True),
    "torch settings/cudnn": lambda t: setattr(torch.backends.cudnn, "benchmark", True),
    "torch settings/attention": lambda t: torch.backends.cuda.enable_flash_sdp(False),
}


@pytest.mark.parametrize("part", CHANGES)
def test_a_change_shows_in_its_part_alone(trained, part):
    before = fingerprint(trained)
    CHANGES[part](trained)
    assert differences(before, fingerprint(trained)) == (part,)


def test_the_precision_of_matrix_products_is_seen(trained):
    before = fingerprint(trained)
    torch.set_float32_matmul_precision("medium")
    assert "torch settings/matmul precision" in differences(before, fingerprint(trained))


def test_flushing_of_denormals_is_seen(trained):
    before = fingerprint(trained)
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot")
    assert differences(before, fingerprint(trained)) == ("torch settings/flushing of denormals",)


def test_a_fingerprint_changes_nothing_and_is_the_same_again(trained):
    first, second = fingerprint(trained), fingerprint(trained)
    assert first == second


def test_a_loader_that_draws_when_asked_for_its_state_does_not_disturb_random_numbers(trained):
    class Drawing(list):
        def state_dict(self):
            return {"drawn": torch.rand(()).item()}

    trained.data_loader = Drawing()
    state = torch.get_rng_state()
    assert fingerprint(trained) == fingerprint(trained)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_weight_replaced_by_an_equal_one_is_seen_as_not_updated_any_more(trained):
    before = fingerprint(trained)
    trained.model.linear.bias = nn.Parameter(trained.model.linear.bias.detach().clone())
    assert "optimizer options/0.params" in differences(before, fingerprint(trained))


def test_a_second_model_and_optimizer_of_a_trainer_are_in_its_fingerprint():
    class Two(TrainerBase):
        def __init__(self):
            super().__init__()
            self.critic = nn.Linear(1, 1)
            self.critic_optimizer = torch.optim.SGD(self.critic.parameters(), lr=0.1)
            self.noise = torch.Generator()

    trainer = Two()
    before = fingerprint(trainer)
    zero_first(trainer.critic.bias)
    trainer.critic_optimizer.param_groups[0]["lr"] = 1.0
    torch.rand((), generator=trainer.noise)
    assert differences(before, fingerprint(trainer)) == (
        "random numbers/noise",
        "weights/critic.bias",
        "optimizer options/critic_optimizer.0.lr",
    )


def test_the_state_of_a_torch_schedule_is_in_the_fingerprint(trained):
    trained.schedule = torch.optim.lr_scheduler.StepLR(trained.optimizer, 1)
    before = fingerprint(trained)
    trained.schedule.last_epoch += 1
    assert differences(before, fingerprint(trained)) == ("schedule/last_epoch",)


# ---- digests


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.tensor([0.0]), torch.tensor([-0.0])),
        (torch.zeros(2), torch.zeros(2, 1)),
        (torch.zeros(4), torch.zeros(4, dtype=torch.int32)),
        (torch.arange(4.0).view(2, 2), torch.arange(4.0).view(2, 2).t().contiguous().t()),
        (torch.eye(2).to_sparse(), (torch.eye(2) * 2).to_sparse()),
        (torch.tensor(1.0, dtype=torch.bfloat16), torch.tensor(1.0078125, dtype=torch.bfloat16)),
        (np.zeros(2), np.zeros(2, dtype=np.float32)),
        ({"a": [torch.zeros(1)]}, {"a": [torch.ones(1)]}),
        ([1, [2]], [[1, 2]]),
        ("1", 1),
        (True, 1),
        (None, "None"),
    ],
)  # fmt: skip
def test_values_that_differ_have_digests_that_differ(one, other):
    found = digests({"one": one, "other": other})
    assert found["one"] != found["other"]


@pytest.mark.parametrize(
    "value",
    [
        torch.tensor(float("nan")),
        torch.empty(0),
        torch.zeros(3, 2)[:, 0],
        torch.tensor([1j]).conj(),
        object(),
    ],
)
def test_equal_values_have_equal_digests(value):
    again = value.clone() if isinstance(value, torch.Tensor) and value.is_contiguous() else value
    assert digests({"": value}) == digests({"": again})


def test_objects_of_one_kind_are_not_told_apart_by_their_address():
    assert digests({"": object()}) == digests({"": object()})


def test_the_sum_on_a_device_sees_every_byte_and_its_place():
    data = torch.arange(27, dtype=torch.uint8)
    sums = {_sum_on_device(data).item()}
    for place in range(27):
        changed = data.clone()
        changed[place] ^= 1
        sums.add(_sum_on_device(changed).item())
    swapped = torch.cat([data[8:16], data[:8], data[16:]])
    sums.add(_sum_on_device(swapped).item())
    sums.add(_sum_on_device(torch.zeros(27, dtype=torch.uint8)).item())
    assert len(sums) == 30


def test_the_sum_on_a_device_sees_the_highest_bit_of_every_word():
    data = torch.zeros(64, dtype=torch.uint8)
    sums = {_sum_on_device(data).item()}
    for place in range(7, 64, 8):
        changed = data.clone()
        changed[place] = 0x80
        assert _sum_on_device(changed).item() not in sums


def test_the_sum_on_a_device_is_of_the_whole_however_long_it_is():
    data = torch.zeros(_CHUNK + 3, dtype=torch.uint8)
    sums = {_sum_on_device(data).item()}
    for place in (0, _CHUNK - 1, _CHUNK, _CHUNK + 2):
        changed = data.clone()
        changed[place] = 1
        sums.add(_sum_on_device(changed).item())
    assert len(sums) == 5


# ---- the watch


class Observer(HookBase):
    observer = True

    def after_step(self):
        pass


class Seventh(HookBase):
    observer = True

    def after_step(self):
        if self.trainer.iter % 7 == 6:
            self.trainer.model.linear.bias.data.add_(1e-4)


class Draws(HookBase):
    def before_step(self):
        torch.rand(())


def test_observe_finds_the_call_that_changed_something():
    trainer = make_trainer(Observer(), Seventh())
    watch = observe(trainer)
    trainer.train(0, 14)
    parts = ("weights/linear.bias",)
    assert watch.changes == [Change("Seventh", "after_step", at, parts) for at in (6, 13)]
    assert watch.calls == {("Observer", "after_step"): 14, ("Seventh", "after_step"): 14}


def test_observe_looks_at_observers_unless_told_names():
    trainer = make_trainer(Draws(), Observer())
    assert observers(trainer) == ["Observer"]
    silent, told = observe(trainer), observe(trainer, ["Draws"])
    trainer.train(0, 1)
    assert silent.changes == []
    assert told.changes == [Change("Draws", "before_step", 0, ("random numbers/torch",))]
    assert set(chain.from_iterable(told.calls)) == {"Draws", "before_step"}


def test_watching_changes_nothing():
    plain, watched = make_trainer(Seventh()), make_trainer(Seventh())
    observe(watched)
    torch.manual_seed(1)
    plain.train(0, 8)
    after_plain = fingerprint(plain)
    torch.manual_seed(1)
    watched.train(0, 8)
    assert fingerprint(watched) == after_plain


def test_a_change_of_a_call_that_raises_is_seen():
    class Raises(HookBase):
        observer = True

        def after_step(self):
            self.trainer.model.linear.bias.data.zero_()
            raise ValueError("no")

    trainer = make_trainer(Raises())
    watch = observe(trainer)
    with pytest.raises(ValueError, match="no"):
        trainer.train(0, 3)
    assert watch.changes == [Change("Raises", "after_step", 0, ("weights/linear.bias",))]


def test_the_halves_of_a_wrapper_are_compared_each():
    class Wraps(HookBase):
        observer = True

        @hookimpl(wrapper=True)
        def after_step(self):
            yield
            torch.rand(())

    trainer = make_trainer(Draws(), Wraps())
    watch = observe(trainer)
    trainer.train(0, 1)
    assert watch.changes == [Change("Wraps", "after_step", 0, ("random numbers/torch",))]
    assert watch.calls["Wraps", "after_step"] == 2


class Swaps(HookBase):
    """Evaluates with another bias, and puts back what ``restored`` says."""

    observer = True

    def __init__(self, restored=True):
        self.restored = restored

    def before_train(self):
        self.trainer.evaluations["eval"] = lambda: {
            "eval/bias": float(self.trainer.model.linear.bias.detach()[0])
        }

    def after_step(self):
        if self.trainer.iter == 1:
            self.trainer.request_evaluation("eval")

    def before_evaluate(self):
        torch.rand(())
        self.kept = self.trainer.model.linear.bias.detach().clone()
        self.trainer.model.linear.bias.data.zero_()

    def after_evaluate(self):
        torch.rand(())
        if self.restored:
            self.trainer.model.linear.bias.data.copy_(self.kept)


def test_weights_may_be_swapped_and_random_numbers_drawn_for_an_evaluation():
    trainer = make_trainer(Swaps())
    watch = observe(trainer)
    trainer.train(0, 4)
    assert trainer.storage.latest()["eval/bias"][0] == 0
    assert watch.changes == []


def test_weights_that_are_not_put_back_after_an_evaluation_are_a_change_of_it():
    trainer = make_trainer(Swaps(restored=False))
    watch = observe(trainer)
    trainer.train(0, 4)
    parts = ("weights/linear.bias",)
    assert watch.changes == [Change("Swaps", "before_evaluate", at, parts) for at in (1, 3)]


def test_two_that_put_weights_back_in_the_wrong_order_are_both_named():
    trainer = make_trainer(Swaps())
    trainer.register_hook(Swaps(), "second")
    watch = observe(trainer)
    trainer.train(0, 1)
    assert {change.plugin for change in watch.changes} == {"Swaps", "second"}


def test_a_watch_does_not_keep_its_trainer_alive(trained):
    import gc
    import weakref

    trainer = make_trainer(Observer())
    watch = observe(trainer)
    alive = weakref.ref(trainer)
    trainer.train(0, 1)
    del trainer
    gc.collect()
    assert alive() is None
    assert watch.changes == []


def test_parts_are_described_by_kind_and_shortened():
    parts = ["weights/a", "weights/b", "weights/c", "random numbers/torch"]
    assert described(parts) == "weights (a, b and 1 more), random numbers (torch)"
    assert described(parts[2:]) == "weights (c), random numbers (torch)"
    assert described([]) == ""
