"""Weights without the rest of a run: those that were trained, and those that a plugin keeps."""

from __future__ import annotations

import json
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from hookline import CheckpointError, HookBase, checkpoint
from hookline.testing import tiny_trainer
from hookline.trainer import load_weights, offered_weights, saved_weights


class Doubled(HookBase):
    """Keeps twice the weights, but not the buffers."""

    def after_step(self):
        pass

    def state_dict(self):
        parameters = dict(self.trainer.model.named_parameters())
        return {"model": {name: 2 * value.detach() for name, value in parameters.items()}}

    def load_state_dict(self, state):
        pass


class Counter(HookBase):
    def __init__(self, state):
        self.state = state

    def after_step(self):
        pass

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        pass


@pytest.fixture
def saved(tmp_path):
    """Return a model and a checkpoint of it, in which some plugins have a state."""
    trainer = tiny_trainer(max_iter=2)
    trainer.register_hook(Doubled(), "doubled")
    states = {
        "count": {"num": 3},
        "empty": {"model": {}},
        "backbone": {"model": "resnet18"},
        "sizes": {"model": {"depth": 18, "width": 64}},
        "mixed": {"model": {"name": "resnet18", "layers.0.weight": torch.zeros(1)}},
        "listed": {"model": [torch.zeros(1)]},
        "extra": {"model": {"layers.0._extra_state": torch.zeros(1)}},
        "none": {"model": None},
    }
    for name, state in states.items():
        trainer.register_hook(Counter(state), name)
    trainer.train()
    state = trainer.state_dict()
    state["hooks"] |= {"text": {"state": "model"}, "list": {"state": [1]}, "neither": 1}
    return trainer.model, checkpoint.save(tmp_path / "checkpoints", 1, state)


def test_without_a_name_the_weights_are_those_that_were_trained(saved):
    model, path = saved
    for name, value in saved_weights(path).items():
        assert torch.equal(model.state_dict()[name], value), name


def test_a_plugins_weights_take_the_place_of_those_it_has_and_buffers_are_as_trained(saved):
    model, path = saved
    weights = saved_weights(path, "doubled")
    assert weights.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        expected = 2 * value if name in dict(model.named_parameters()) else value
        assert torch.equal(expected, weights[name]), name


def test_only_plugins_that_have_weights_offer_them(saved):
    assert offered_weights(saved[1]) == ["doubled"]


@pytest.mark.parametrize("extra", [{}, {"layers.0._extra_state": {"version": 1}}])
@pytest.mark.parametrize("kind", [dict, OrderedDict])
def test_a_state_dict_of_any_kind_is_offered(tmp_path, kind, extra):
    trainer = tiny_trainer(max_iter=2)
    state = kind({**trainer.model.state_dict(), **extra})
    trainer.register_hook(Counter({"model": state}), "kept")
    trainer.train()
    assert offered_weights(checkpoint.save(tmp_path, 1, trainer.state_dict())) == ["kept"]


def test_what_a_module_saves_itself_is_offered(tmp_path):
    trainer = tiny_trainer(max_iter=2)
    trainer.register_hook(Counter({"model": trainer.model.state_dict()}), "kept")
    trainer.train()
    assert offered_weights(checkpoint.save(tmp_path, 1, trainer.state_dict())) == ["kept"]


@pytest.mark.parametrize(
    "name", ["empty", "count", "text", "backbone", "sizes", "mixed", "listed", "extra", "doublet", ""]
)
def test_a_name_without_weights_is_refused_with_the_names_that_have_some(saved, name):
    with pytest.raises(
        CheckpointError, match=rf"weights of '{name}': expected .* There is: doubled\. Name one"
    ):
        saved_weights(saved[1], name)


def test_a_checkpoint_without_plugins_offers_nothing(tmp_path):
    path = checkpoint.save(tmp_path, 1, {"model": nn.Linear(1, 1).state_dict()})
    assert offered_weights(path) == []
    with pytest.raises(CheckpointError, match="There is: none"):
        saved_weights(path, "ema")


def test_a_file_of_weights_has_none_of_a_plugin(tmp_path):
    save_file(nn.Linear(1, 1).state_dict(), tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="weights of 'ema': expected a run or a checkpoint"):
        saved_weights(tmp_path / "a.safetensors", "ema")


def test_weights_of_another_model_are_refused_by_name(saved):
    model, path = saved
    weights = {**saved_weights(path, "doubled"), "unknown": torch.zeros(1)}
    with pytest.raises(
        CheckpointError, match=r"expected the weights of TinyModel, got 1 unknown \(unknown\)"
    ):
        load_weights(model, weights, "there")


def test_weights_of_another_shape_are_refused_and_none_is_loaded():
    model, before = nn.Linear(2, 3), nn.Linear(2, 3).state_dict()
    model.load_state_dict(before)
    weights = {"weight": torch.ones(3, 2), "bias": torch.ones(1)}
    with pytest.raises(CheckpointError, match=r"got 1 of another shape \(bias: \[1\] instead of \[3\]\)"):
        load_weights(model, weights, "there")
    with pytest.raises(CheckpointError, match=r"shape \(bias: no tensor instead of \[3\]\)"):
        load_weights(model, {"weight": torch.ones(3, 2), "bias": [1.0]}, "there")
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())


def test_weights_of_another_type_are_converted_and_said_and_never_in_a_resume(caplog):
    model = nn.Linear(2, 3)
    weights = {"weight": torch.ones(3, 2, dtype=torch.float64), "bias": torch.ones(3)}
    load_weights(model, weights, "there")
    assert "there: 1 weights were of another type (weight)" in caplog.text
    assert model.weight.dtype == torch.float32
    assert (model.weight == 1).all()
    with pytest.raises(
        CheckpointError, match=r"there: expected the weights of Linear, got 1 of another type"
    ):
        load_weights(model, weights, "there", exact=True)


def test_the_extra_state_of_a_module_is_its_own_affair():
    class Extra(nn.Linear):
        def get_extra_state(self):
            return torch.zeros(2)

        def set_extra_state(self, state):
            self.extra = state

    model = Extra(1, 1)
    load_weights(model, {**model.state_dict(), "_extra_state": torch.ones(7)}, "there", exact=True)
    assert model.extra.tolist() == [1.0] * 7


class Scaled(nn.Linear):
    """Holds ten times what its first version held."""

    _version = 2

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *rest):
        if local_metadata.get("version", 1) < 2:
            state_dict[f"{prefix}weight"] = state_dict[f"{prefix}weight"] * 10
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)


@pytest.mark.parametrize(("of", "factor"), [(None, 1), ("doubled", 2)])
def test_a_module_sees_the_version_that_its_weights_were_saved_by(tmp_path, of, factor):
    model, loaded = nn.Sequential(Scaled(2, 2)), nn.Sequential(Scaled(2, 2))
    doubled = {name: 2 * value for name, value in model.state_dict().items()}
    hooks = {"doubled": {"version": 1, "state": {"model": doubled}}}
    path = checkpoint.save(tmp_path, 1, {"model": model.state_dict(), "hooks": hooks})
    load_weights(loaded, saved_weights(path, of), "there", exact=True)
    assert torch.equal(loaded[0].weight, factor * model[0].weight)


class Growing(nn.Module):
    """Takes a buffer of any length back, as observers do."""

    def __init__(self, length):
        super().__init__()
        self.inner = nn.Linear(1, 1)
        self.register_buffer("seen", torch.arange(float(length)))

    def _load_from_state_dict(self, state_dict, prefix, *rest):
        if state_dict[f"{prefix}seen"].dim() == 1:
            self.seen = torch.empty_like(state_dict[f"{prefix}seen"])
        super()._load_from_state_dict(state_dict, prefix, *rest)


@pytest.mark.parametrize("around", [lambda module: module, nn.Sequential])
def test_a_module_that_takes_its_weights_by_itself_may_take_other_shapes(around):
    model, weights = around(Growing(0)), around(Growing(3)).state_dict()
    load_weights(model, weights, "there", exact=True)
    assert model.state_dict().keys() == weights.keys()
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    (seen,) = [name for name in weights if name.endswith("seen")]
    with pytest.raises(CheckpointError, match=r"there: expected the weights of .* got: .*size mismatch"):
        load_weights(model, {**weights, seen: torch.zeros(2, 2)}, "there", exact=True)
    (inner,) = [name for name in weights if name.endswith("inner.bias")]
    with pytest.raises(CheckpointError, match=r"got 1 of another shape"):
        load_weights(model, {**weights, inner: torch.zeros(2)}, "there", exact=True)


def test_an_outline_that_cannot_be_read_is_a_damaged_checkpoint(saved):
    (saved[1] / "hooks.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"hooks\.json of 1 bytes instead of"):
        checkpoint.outline(saved[1], "hooks")


def test_an_outline_names_tensors_without_reading_them(saved):
    outline = checkpoint.outline(saved[1], "hooks")
    assert outline == json.loads((saved[1] / "hooks.json").read_text())
    assert outline["count"]["state"] == {"num": 3}
    (saved[1] / "hooks.safetensors").unlink()
    assert checkpoint.outline(saved[1], "hooks") == outline


@pytest.mark.parametrize(("name", "got"), [("w.pt", "a file of another kind"), ("nope", "nothing there")])
def test_what_holds_no_weights_is_refused_with_what_does(tmp_path, name, got):
    (tmp_path / "w.pt").touch()
    with pytest.raises(CheckpointError, match=rf"--weights .*{name}: expected a run, .* '{got}'.*save_file"):
        saved_weights(tmp_path / name)
