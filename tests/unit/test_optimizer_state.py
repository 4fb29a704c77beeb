"""An optimizer gets the state of its own parameters, or none."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from hookline import CheckpointError
from hookline.trainer.optimizer_state import check_optimizer_state

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
