"""An optimizer gets the state of its own parameters, or none."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from hookline import CheckpointError, SimpleTrainer
from hookline.trainer.optimizer_state import (
    are_equal,
    check_optimizer_state,
    for_parameters,
    keep_types,
    parameter_names,
)

OPTIMIZERS = {
    "adamw": lambda p: torch.optim.AdamW(p, amsgrad=True, fused=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adagrad": torch.optim.Adagrad,
    "adadelta": torch.optim.Adadelta,
    "adamax": torch.optim.Adamax,
    "nadam": torch.optim.NAdam,
    "rmsprop": lambda p: torch.optim.RMSprop(p, centered=True, momentum=0.1),
    "rprop": torch.optim.Rprop,
    "asgd": torch.optim.ASGD,
    "adafactor": torch.optim.Adafactor,
}


def stepped(make):
    """Return an optimizer of two groups after one step, the second without a gradient for its last one."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    unused = nn.Parameter(torch.zeros(2))
    groups = [{"params": model[0].parameters()}, {"params": [*model[1].parameters(), unused]}]
    optimizer = make(groups)
    model(torch.ones(4, 2)).sum().backward()
    optimizer.step()
    return optimizer


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_its_own_state_is_right_and_one_of_another_shape_or_type_is_not(name):
    optimizer = stepped(OPTIMIZERS[name])
    state = optimizer.state_dict()
    check_optimizer_state(optimizer, state)
    fresh = stepped(OPTIMIZERS[name])
    fresh.state.clear()
    check_optimizer_state(fresh, state)
    same_shape = [
        key
        for key, value in state["state"][0].items()
        if isinstance(value, torch.Tensor) and value.shape == optimizer.param_groups[0]["params"][0].shape
    ]
    assert same_shape or name == "adafactor"
    for key in same_shape:
        forged = copy.deepcopy(state)
        forged["state"][0][key] = torch.zeros(1)
        with pytest.raises(ValueError, match=rf"of parameter 0 {key} of shape \[1\] instead of \[3, 2\]"):
            check_optimizer_state(optimizer, forged)
        forged["state"][0][key] = state["state"][0][key].double()
        with pytest.raises(ValueError, match=rf"of parameter 0 {key} of type torch.float64 instead of"):
            check_optimizer_state(optimizer, forged)


def test_state_of_a_parameter_that_is_not_there_is_refused():
    optimizer = stepped(OPTIMIZERS["sgd"])
    state = optimizer.state_dict()
    state["state"][9] = {"momentum_buffer": torch.zeros(1)}
    with pytest.raises(ValueError, match="state of parameter 9, where there are 5"):
        check_optimizer_state(optimizer, state)


def test_an_optimizer_of_ones_own_may_keep_what_it_likes():
    class Mine(torch.optim.SGD):
        pass

    Mine.__module__ = "mine"
    optimizer = stepped(lambda p: Mine(p, lr=0.1, momentum=0.9))
    state = optimizer.state_dict()
    state["state"]["all"] = {"momentum_buffer": 1}
    state["state"][0]["momentum_buffer"] = state["state"][0]["momentum_buffer"].double()
    check_optimizer_state(optimizer, state)

    state["state"][0]["momentum_buffer"] = torch.zeros(1)
    check_optimizer_state(optimizer, state)


class Precise(torch.optim.Optimizer):
    """Keeps what torch converts when it loads it."""

    def __init__(self, params):
        super().__init__(params, {"lr": 1.0})

    def step(self, closure=None):
        for parameter in self.param_groups[0]["params"]:
            self.state[parameter] = {
                "step": torch.tensor(2.0, dtype=torch.float64),
                "sum": torch.full_like(parameter, 1 / 3, dtype=torch.float64),
                "seed": torch.tensor(2**62 + 1),
                "history": [{"norm": torch.tensor(1 / 3, dtype=torch.float64)}, 7],
            }


class Loads(Precise):
    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)


def test_an_optimizers_state_keeps_the_types_that_it_was_saved_in():
    saved = stepped(lambda p: Precise(p[0]["params"])).state_dict()
    for make, is_kept in [(Precise, True), (Loads, False)]:
        optimizer = make(nn.Linear(2, 3).parameters())
        optimizer.load_state_dict(saved)
        keep_types(optimizer, saved)
        for number, kept in enumerate(optimizer.state.values()):
            then = saved["state"][number]
            assert kept["sum"].dtype == (torch.float64 if is_kept else torch.float32)
            assert torch.equal(kept["sum"], then["sum"]) == is_kept
            assert (kept["seed"].dtype == torch.int64 and int(kept["seed"]) == 2**62 + 1) == is_kept
            assert torch.equal(kept["history"][0]["norm"], then["history"][0]["norm"]) == is_kept
            assert (kept["step"].dtype, kept["history"][1]) == (torch.float64, 7)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_torchs_optimizers_go_on_with_what_they_had(name):
    before, after = stepped(OPTIMIZERS[name]), stepped(OPTIMIZERS[name])
    state = before.state_dict()
    after.load_state_dict(copy.deepcopy(state))
    keep_types(after, state)
    for number, kept in after.state_dict()["state"].items():
        for key, value in kept.items():
            then = state["state"][number][key]
            assert getattr(value, "dtype", None) == getattr(then, "dtype", None)
            assert are_equal(value, then)


def test_a_state_of_another_form_is_left_to_the_optimizer():
    _, optimizer = trained("a", "bc")
    state = {"inner": optimizer.state_dict(), "slow": []}
    check_optimizer_state(optimizer, state)
    assert for_parameters(state, [["a"], ["b"]], [["b"], ["a"]]) is state


def test_options_that_are_tensors_are_equal_if_all_of_their_elements_are():
    assert are_equal(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.0]))
    assert not are_equal(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 3.0]))
    assert not are_equal(torch.tensor([1.0, 2.0]), 1.0)
    assert not are_equal(None, torch.tensor([1.0, 2.0]))
    assert are_equal((0.9, 0.999), (0.9, 0.999))


def test_a_rate_that_is_a_tensor_is_as_it_was_or_as_it_is_configured_now():
    def trainer_of(lr):
        model = nn.Linear(1, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=torch.tensor(lr))
        optimizer.param_groups[0]["task_weights"] = torch.tensor([1.0, 2.0])
        return SimpleTrainer(model, [torch.zeros(1)], optimizer)

    first, same, other = trainer_of(1.0), trainer_of(1.0), trainer_of(0.5)
    first.optimizer.param_groups[0]["lr"].mul_(0.25)
    state = copy.deepcopy(first.state_dict())
    for trainer, expected in [(same, 0.25), (other, 0.125)]:
        trainer.load_state_dict(copy.deepcopy(state))
        (group,) = trainer.optimizer.param_groups
        assert float(group["lr"]) == expected
        assert group["task_weights"].tolist() == [1.0, 2.0]
    group["initial_lr"].mul_(2)
    assert [float(options["lr"]) for options in other.state_dict()["trainer"]["configured"]] == [0.5]


def test_a_resume_with_such_a_state_is_an_error_that_says_what_is_wrong(make_trainer):
    trainer = make_trainer()
    trainer.train(0, 2)
    state = copy.deepcopy(trainer.state_dict())
    state["optimizer"]["state"][0]["momentum_buffer"] = torch.zeros(5)
    with pytest.raises(
        CheckpointError, match=r"got: of parameter 0 momentum_buffer of shape \[5\] instead of \[1, 1\]"
    ):
        make_trainer().load_state_dict(state)


def named(*groups, model=None):
    """Return a model of three equal layers and its optimizer, with the layers of each group in order."""
    torch.manual_seed(0)
    model = model or nn.ModuleDict({name: nn.Linear(2, 2, bias=False) for name in "abc"})
    params = [{"params": [model[name].weight for name in names]} for names in groups]
    return model, torch.optim.SGD(params, lr=0.1, momentum=0.9)


def momenta(model, optimizer):
    return {name: optimizer.state[model[name].weight].get("momentum_buffer") for name in model}


def trained(*groups):
    model, optimizer = named(*groups)
    for value, layer in enumerate(model.values()):
        layer.weight.grad = torch.full((2, 2), float(value)) if value else None  # the first has no state
    optimizer.step()
    return model, optimizer


@pytest.mark.parametrize("groups", [("a", "bc"), ("c", "ab"), ("cb", "a"), ("ab", "c")])
def test_each_parameter_gets_its_own_state_whatever_its_place_and_group(groups):
    old, before = trained("a", "bc")
    model, optimizer = named(*groups)
    state = for_parameters(
        before.state_dict(), parameter_names(old, before), parameter_names(model, optimizer)
    )
    check_optimizer_state(optimizer, state)
    optimizer.load_state_dict(state)
    got = momenta(model, optimizer)
    assert got["a"] is None
    assert (got["b"] == 1).all()
    assert (got["c"] == 2).all()


def test_tied_unknown_and_named_parameters_and_state_of_all_find_their_place():
    model = nn.ModuleDict({"a": nn.Linear(2, 2, bias=False), "tied": nn.Linear(2, 2, bias=False)})
    model["tied"].weight = model["a"].weight
    other = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([{"params": [("a", model["a"].weight), ("x", other)]}])
    assert parameter_names(model, optimizer) == [["a.weight", "parameter 0 of no model"]]
    state = {
        "state": {0: {"m": 1}, "all": {}},
        "param_groups": [{"params": [0, 1], "param_names": ["a", "x"]}],
    }
    assert for_parameters(state, [["one", "two"]], [["two", "one"]]) == {
        "state": {1: {"m": 1}, "all": {}},
        "param_groups": [{"params": [0, 1]}],
    }


@pytest.mark.parametrize(
    ("now", "words"),
    [
        ([["a", "b", "c"]], "that of 2 parameter groups, where there are 1"),
        ([["a"], ["b"]], "other parameters: c, which it does not update now"),
        ([["a"], ["b", "c", "d"]], "other parameters: d, of which nothing was saved"),
    ],
)
def test_other_parameters_or_another_number_of_groups_is_refused(now, words):
    _, before = trained("a", "bc")
    with pytest.raises(ValueError, match=words):
        for_parameters(before.state_dict(), [["a"], ["b", "c"]], now)


@pytest.mark.parametrize("has_names", [True, False])
def test_a_trainer_finds_the_state_by_name_where_there_are_names(make_trainer, has_names):
    trainer = make_trainer()
    trainer.train(0, 2)
    state = copy.deepcopy(trainer.state_dict())
    again = make_trainer()
    if has_names:
        again.optimizer.param_groups[0]["params"].reverse()
    else:
        del state["trainer"]["parameters"]
    again.load_state_dict(state)
    for one, two in zip(trainer.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(
            trainer.optimizer.state[one]["momentum_buffer"], again.optimizer.state[two]["momentum_buffer"]
        )
