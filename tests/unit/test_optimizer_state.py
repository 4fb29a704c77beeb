"""An optimizer gets the state of its own parameters, or none."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from hookline import CheckpointError
from hookline.trainer.optimizer_state import check_optimizer_state, for_parameters, parameter_names

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
