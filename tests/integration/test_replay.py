"""An iteration that went wrong is kept, and ``hookline replay`` runs it again and says where."""

from __future__ import annotations

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from hookline import DefaultTrainer, capsules
from hookline.errors import NonFiniteError, notes
from hookline.replay import replay

TROUBLE = """
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from hookline import DefaultTrainer


@dataclass
class Pair:
    x: torch.Tensor
    y: torch.Tensor


class Opaque:
    def __init__(self, x, y):
        self.x, self.y = x, y

    def to(self, *args, **kwargs):
        return self


class Points(TensorDataset):
    def __init__(self, shape="tuple", at=21, x=None, y=None, noise=0.0):
        xs = torch.linspace(0.1, 1, 64).unsqueeze(1)
        ys = 3 * xs + 1
        if x is not None:
            xs[at] = float(x)
        if y is not None:
            ys[at] = float(y)
        super().__init__(xs, ys)
        self.shape, self.noise = shape, noise

    def get_batch(self, indices):
        x, y = (tensor[indices] for tensor in self.tensors)
        x = x + self.noise * torch.rand_like(x)
        if self.shape == "dict":
            return {"x": x, "y": y, "name": "points"}
        if self.shape == "nested":
            return {"inputs": [(x,)], "y": y.numpy(), "scale": torch.tensor(1.0), "name": "points"}
        if self.shape == "dataclass":
            return Pair(x, y)
        if self.shape == "opaque":
            return Opaque(x, y)
        return x, y


def shuffled(**options):
    return DataLoader(Points(**options), batch_size=8, shuffle=True)


class Stream:
    def __init__(self, shape="tuple"):
        data = Points(shape=shape, at=21, x="nan")
        self.batches = [data.get_batch(torch.arange(8 * i, 8 * i + 8)) for i in range(8)]

    def __iter__(self):
        return iter(self.batches)


class Net(nn.Module):
    def __init__(self, form="line", width=4):
        super().__init__()
        self.form = form
        self.layers = nn.Sequential(nn.Linear(1, width), nn.Dropout(0.2), nn.Linear(width, 1))
        self.norm = Norm() if form != "line" else nn.Identity()

    def forward(self, batch):
        if isinstance(batch, dict):
            x = batch["x"] if "x" in batch else batch["inputs"][0][0]
            y = torch.as_tensor(batch["y"])
        else:
            x, y = (batch.x, batch.y) if hasattr(batch, "x") else batch
        if self.form == "log":
            x = self.norm(x)
        prediction = self.layers(x)
        loss = (prediction - y).square().mean()
        if self.form == "root":
            loss = loss + (prediction * x).abs().sqrt().mean()
        if self.form == "huge":
            loss = loss * 1e25
        return {"loss": loss, "size": prediction.float().abs().mean() * 1e-3}


class Norm(nn.Module):
    def forward(self, x):
        return torch.log(x + 1)


class Own(DefaultTrainer):
    def run_step(self):
        if not hasattr(self, "own"):
            self.own = iter(self.data_loader)
        batch = next(self.own)
        self.microbatches = [batch]
        self.storage.put_scalars(self.kernel.step([batch]))
"""

CONFIG = """
run: {name: trouble}
model: {target: ./trouble.py:Net}
data: {train: {target: ./trouble.py:Points, loader: {batch_size: 8, shuffle: false}}}
optimizer: {target: torch.optim.AdamW, lr: 0.01}
schedule: {target: hookline.schedules:Cosine, warmup_iters: 2}
train: {max_iter: 7, device: cpu, threads: 1, log_period: 3}
hooks:
  - capsule: {}
writers: [json]
"""

NAN = "data.train.x=nan"


@pytest.fixture
def trouble(project):
    (project.path / "trouble.py").write_text(TROUBLE)
    (project.path / "run.yaml").write_text(CONFIG)
    return project


@pytest.fixture(scope="module")
def nan_runs(tmp_path_factory) -> Path:
    """Return the folder of a run that ended by a NaN in its data; trained once, as many tests need it."""
    folder = tmp_path_factory.mktemp("nan")
    (folder / "trouble.py").write_text(TROUBLE)
    (folder / "run.yaml").write_text(CONFIG)
    trainer = DefaultTrainer(folder / "run.yaml", [NAN, f"run.dir={folder / 'runs'}"])
    with pytest.raises(NonFiniteError):
        trainer.train()
    return folder / "runs"


@pytest.fixture
def capsule(trouble, nan_runs) -> Path:
    """Return the capsule of that run, copied to where the test may spoil it."""
    shutil.copytree(nan_runs, trouble.path / "runs", symlinks=True)
    (capsule,) = trouble.runs()[0].glob("capsules/iter_*")
    return capsule


def kept(project, *overrides, code=1) -> Path:
    """Train until something goes wrong; return the newest capsule."""
    done = project.hookline("train", "run.yaml", *overrides)
    assert done.exit_code == code, done.output
    return sorted(project.runs()[-1].glob("capsules/iter_*"))[-1]


def lines(result) -> dict[str, list[str]]:
    """Return what was printed, by the first word of each line."""
    found: dict[str, list[str]] = {}
    for line in result.stdout.splitlines():
        name, _, text = line.partition("  ")
        found.setdefault(name, []).append(text.strip())
    return found


def line_of(text: str) -> str:
    number = next(i for i, line in enumerate(TROUBLE.splitlines(), 1) if text in line)
    return f"trouble.py:{number}: {text}"


def test_a_nan_in_the_data_is_found_with_its_sample(trouble, capsule):
    result = trouble.hookline("replay", str(capsule))
    found = lines(result)
    assert result.exit_code == 0, result.output
    assert capsule.name == "iter_0000002"
    assert found["total_loss"] == ["nan, as recorded"]
    assert found["weights"] == ["from the capsule"]
    assert found["samples"] == ["epoch 0, batch 2: 16 17 18 19 20 21 22 23"]
    assert "0: float32 [8, 1], min" in found["batch 0"][0]
    assert found["batch 0"][0].endswith("1 NaN, 0 inf in row 5 (sample 21)")
    assert "layers.0 (Linear) is the first to return" in found["module"][0]
    assert found["result"] == ["reproduced, to the bit"]
    assert "leave out the samples" in found["next"][0]
    assert "first" not in found  # no operation made it


def test_the_operation_that_makes_nan_is_found_with_its_module_and_line(trouble):
    capsule = kept(trouble, "data.train.x=-2", "model.form=log")
    found = lines(trouble.hookline("replay", str(capsule)))
    assert found["first"] == [f"forward, log made NaN in norm (Norm): {line_of('return torch.log(x + 1)')}"]
    assert "with clamp or an epsilon" in found["next"][0]


def test_a_gradient_alone_that_is_not_finite_is_found_with_its_parameter_and_line(trouble):
    capsule = kept(trouble, "data.train.x=0", "model.form=root")
    found = lines(trouble.hookline("replay", str(capsule)))
    assert re.fullmatch(r"[\d.]+, as recorded", found["total_loss"][0])
    assert found["grad_norm"] == ["nan, as recorded"]
    line = line_of("loss = loss + (prediction * x).abs().sqrt().mean()")
    assert found["first"] == [f"backward, SqrtBackward0 (div) made inf: {line}"]
    assert found["and"] == [f"backward, AbsBackward0 (mul) made NaN of inf: {line}"]
    assert re.match(r"layers\.2\.\w+: 1 of 1 not finite", found["gradient"][0])


def test_gradients_that_overflow_only_together_are_told_as_that(trouble):
    found = lines(trouble.hookline("replay", str(kept(trouble, "model.form=huge"))))
    assert re.match(r"update, \w*norm made inf", found["first"][0])
    assert found["next"] == ["Every gradient is finite, and together they are not. Make the loss smaller."]


def test_weights_that_were_not_finite_before_are_named(trouble, capsule):
    weights = {**capsules.read(capsule).weights, "layers.2.bias": torch.tensor([math.inf])}
    spoilt = capsules.write(trouble.path / "spoilt", replace(capsules.read(capsule), weights=weights))
    found = lines(trouble.hookline("replay", str(spoilt)))
    assert found["weight"] == ["layers.2.bias is not finite to begin with"]
    assert "The weights were not finite before" in found["next"][0]


def test_an_overflow_of_fp16_is_told_as_one(trouble):
    capsule = kept(trouble, "data.train.x=1e6", "train.precision=fp16")
    found = lines(trouble.hookline("replay", str(capsule)))
    assert "_to_copy made inf in layers.0 (Linear)" in found["first"][0]
    assert "Use train.precision=bf16" in found["next"][0]
    assert found["loss_scale"] == ["16384, as recorded"]  # lowered twice before
    assert found["result"] == ["reproduced, to the bit"]
    other = lines(trouble.hookline("replay", str(capsule), "train.precision=fp32"))
    assert "differs from what was recorded" in other["total_loss"][0]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_of_several_microbatches_the_bad_one_is_named(trouble, precision):
    overrides = ["train.accumulate=4", f"train.precision={precision}", "data.train.at=52", NAN]
    capsule = kept(trouble, *overrides)
    result = trouble.hookline("replay", str(capsule))
    found = lines(result)
    assert capsule.name == "iter_0000001"
    assert found["result"] == ["reproduced, to the bit"]
    assert [text.split(": ")[0] for text in found["samples"]] == [f"epoch 0, batch {i}" for i in range(4, 8)]
    assert "1 NaN" in found["batch 2"][0]
    assert not any("NaN" in found[f"batch {i}"][0] for i in (0, 1, 3))


@pytest.mark.parametrize("shape", ["tuple", "dict", "nested"])
def test_a_batch_of_plain_containers_is_kept_as_it_is(trouble, shape):
    capsule = kept(trouble, NAN, f"data.train.shape={shape}")
    result = trouble.hookline("replay", str(capsule))
    assert result.exit_code == 0, result.output
    assert lines(result)["batch"] == ["as kept"]


def test_a_batch_of_a_type_of_its_own_is_filled_with_what_was_kept(trouble):
    capsule = kept(trouble, NAN, "data.train.shape=dataclass")
    assert capsules.read(capsule).unstored == "Pair"
    result = trouble.hookline("replay", str(capsule), "data.train.x=0.5")
    assert result.exit_code == 0, result.output
    assert lines(result)["batch"] == ["as kept, each in a Pair that was drawn again"]
    assert "1 NaN" in result.stdout


def test_a_batch_that_cannot_be_filled_is_refused(trouble):
    capsule = kept(trouble, NAN, "data.train.shape=dataclass")
    result = trouble.hookline("replay", str(capsule), "data.train.shape=opaque")
    assert result.exit_code == 2
    assert "expected batches of 2 tensors, got 1 in a Opaque" in result.stderr


def test_a_batch_that_no_file_can_hold_is_drawn_again(trouble):
    capsule = kept(trouble, NAN, "data.train.shape=opaque")
    assert capsules.read(capsule).batches is None
    result = trouble.hookline("replay", str(capsule))
    assert result.exit_code == 0, result.output
    assert lines(result)["batch"] == ["drawn again: a Opaque could not be stored"]


def test_a_loader_of_ones_own_needs_no_position(trouble):
    config = yaml.safe_load(CONFIG)
    config["data"]["train"] = {"target": "./trouble.py:Stream"}
    (trouble.path / "run.yaml").write_text(yaml.safe_dump(config))
    result = trouble.hookline("replay", str(kept(trouble)))
    assert result.exit_code == 0, result.output
    assert "samples" not in lines(result)


def test_a_trainer_of_ones_own_is_replayed_by_its_own_run_step(trouble):
    capsule = kept(trouble, NAN, "trainer.target=./trouble.py:Own")
    assert not capsules.read(capsule).is_drawn
    result = trouble.hookline("replay", str(capsule))
    assert result.exit_code == 0, result.output
    assert lines(result)["result"] == ["reproduced, to the bit"]


SPIKE = ["data.train.y=1e4", "data.train.at=45", "hooks.capsule.spike=20", "hooks.capsule.window=3"]


@pytest.mark.parametrize("checkpoints", [True, False])
def test_a_spike_is_trained_up_to_again_and_its_batch_is_the_same_to_the_bit(trouble, checkpoints):
    hooks = ["hooks+={checkpoint: {period: 2}}"] if checkpoints else []
    capsule = kept(trouble, *SPIKE, *hooks, code=0)
    before = {path: path.read_bytes() for path in capsule.parents[1].rglob("*") if path.is_file()}
    result = trouble.hookline("replay", str(capsule))
    found = lines(result)
    assert result.exit_code == 0, result.output
    assert capsule.name == "iter_0000005"
    start = (
        "iter_0000003, trained 1 iteration on"
        if checkpoints
        else "the run's beginning, trained 5 iterations on"
    )
    assert found["weights"] == [f"from {start}"]
    assert found["batch"] == ["drawn again, the same to the bit"]
    assert found["result"] == ["reproduced, to the bit"]
    assert "times the median" in found["spike"][0]
    assert found["batch 0"][1].endswith(", largest in row 5 (sample 45)")
    after = {path: path.read_bytes() for path in capsule.parents[1].rglob("*") if path.is_file()}
    assert after == before  # nothing is written
    assert len(trouble.runs()) == 1


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ("nested", "drawn again, the same to the bit"),
        ("dataclass", "drawn again, the same to the bit"),
        ("opaque", "drawn again; a Opaque could not be stored to compare with"),
    ],
)
def test_a_batch_of_any_shape_is_compared_with_the_one_drawn_again(trouble, shape, said):
    found = replay(kept(trouble, *SPIKE, f"data.train.shape={shape}", code=0))
    assert (found.verdict, found.batch) == ("equal", said)


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(trouble):
    capsule = kept(trouble, *SPIKE, "hooks+={checkpoint: {period: 2, keep: 0}}", code=0)
    (capsule.parents[1] / "checkpoints/iter_0000003/model.safetensors").unlink()
    found = replay(capsule)
    assert found.weights_from == "iter_0000001, trained 3 iterations on"
    assert found.verdict == "equal"


@pytest.mark.parametrize("overrides", [(NAN,), SPIKE], ids=["nan", "spike"])
def test_data_that_draws_random_numbers_is_the_same_again(trouble, overrides):
    capsule = kept(trouble, *overrides, "data.train.noise=0.1", code=1 if NAN in overrides else 0)
    found = replay(capsule)
    assert (found.verdict, found.is_same_batch) == ("equal", True)


@pytest.mark.parametrize("overrides", [(NAN,), SPIKE], ids=["nan", "spike"])
def test_a_loader_of_torch_that_shuffles_is_the_same_again(trouble, overrides):
    config = yaml.safe_load(CONFIG)
    config["data"]["train"] = {"target": "./trouble.py:shuffled"}
    (trouble.path / "run.yaml").write_text(yaml.safe_dump(config))
    overrides = [*overrides, "hooks.capsule.window=2"]
    capsule = kept(trouble, *overrides, code=1 if NAN in overrides else 0)
    found = replay(capsule)
    assert (found.verdict, found.is_same_batch) == ("equal", True)


def test_a_spike_whose_data_is_another_now_is_told(trouble):
    capsule = kept(trouble, *SPIKE, code=0)
    result = trouble.hookline("replay", str(capsule), "data.train.y=1e3")
    found = lines(result)
    assert result.exit_code == 1
    assert found["batch"] == ["drawn again, and not the one that was kept, which was used"]
    assert found["result"] == ["not reproduced"]


def test_a_model_that_has_changed_is_told_with_both_values(trouble):
    capsule = kept(trouble, "data.train.x=-2", "model.form=log")
    result = trouble.hookline("replay", str(capsule), "model.form=line")
    assert result.exit_code == 1
    assert re.search(r"total_loss +[\d.]+, differs from what was recorded: nan", result.stdout)
    assert re.search(r"next +Has the code or the data changed since", result.stdout)


def test_without_anomaly_mode_the_iteration_runs_as_it_did(trouble, capsule):
    result = trouble.hookline("replay", str(capsule), "--no-anomaly")
    assert result.exit_code == 0
    assert not {"first", "module", "gradient"} & lines(result).keys()


def test_a_run_stands_for_its_newest_capsule(trouble, capsule):
    result = trouble.hookline("replay", str(capsule.parents[1]))
    assert result.exit_code == 0
    assert capsule.name in lines(result)["capsule"][0]


def test_a_run_that_ends_by_it_says_how_to_look_into_it(trouble):
    done = trouble.hookline("train", "run.yaml", NAN)
    (run,) = trouble.runs()
    shown = run.relative_to(trouble.path) / "capsules/iter_0000002"
    assert done.exit_code == 1
    assert done.stderr.splitlines()[-1] == f"Its batch is kept. Look into it with: hookline replay {shown}"


def test_a_run_does_not_go_on_from_a_capsule(trouble):
    assert trouble.hookline("train", "run.yaml", NAN).exit_code == 1
    capsule = trouble.runs()[0] / "capsules/iter_0000002"
    result = trouble.hookline("train", "run.yaml", "--resume", str(capsule))
    assert result.exit_code == 2
    assert f"resume: {capsule}: expected a run or a checkpoint, got 'a capsule'" in result.output


def test_a_resumed_run_keeps_what_is_needed_from_its_own_checkpoints(trouble):
    hooks = "hooks+={checkpoint: {period: 2}}"
    assert trouble.hookline("train", "run.yaml", *SPIKE, hooks, "train.stop_at=4").exit_code == 0
    done = trouble.hookline("train", "run.yaml", *SPIKE, hooks, "--resume", "latest", "train.max_iter=9")
    assert done.exit_code == 0, done.output
    (capsule,) = trouble.runs()[0].glob("capsules/iter_*")
    kept_then = capsules.read(capsule)
    assert (kept_then.generation, kept_then.checkpoint) == (2, "checkpoints/iter_0000003")
    assert kept_then.max_iter == 9
    result = trouble.hookline("replay", str(capsule))
    assert result.exit_code == 0, result.output


def damaged(capsule: Path) -> None:
    file = capsule / "batches.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "overrides", "message"),
    [
        (lambda capsule: shutil.rmtree(capsule), (), "expected a capsule, or a run that has one, got 'nothing there'"),
        (lambda capsule: (capsule / "rng.json").unlink(), (), "no rng.json"),
        (damaged, (), "batches.safetensors with other content"),
        (lambda capsule: (capsule / "manifest.json").write_text("{}"), (), "manifest.json"),
        (lambda capsule: (capsule / "rng.json").rename(capsule / "more.json"), (), "rng.json"),
        (lambda capsule: None, ("model.width=5",), "expected the weights of Net, got 3 of another shape"),
        (lambda capsule: None, ("model.breadth=5",), "model.breadth"),
        (lambda capsule: None, ("train.device=nowhere",), "train.device"),
        (lambda capsule: None, ("what=1",), "what"),
        (lambda capsule: None, ("trainer.target=./trouble.py:Net",), "trainer.target"),
    ],
    ids=[
        "gone", "a file gone", "a bit flipped", "no manifest", "renamed", "other model", "no such option",
        "no such device", "no such section", "no trainer",
    ],
)  # fmt: skip
def test_what_cannot_be_replayed_is_refused_in_one_message(trouble, capsule, spoil, overrides, message):
    spoil(capsule)
    result = trouble.hookline("replay", str(capsule), *overrides)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert result.stderr.startswith("hookline: ")
    assert "Traceback" not in result.output


def test_code_that_is_gone_is_named(trouble):
    capsule = kept(trouble, NAN)
    (trouble.path / "trouble.py").rename(trouble.path / "moved.py")
    result = trouble.hookline("replay", str(capsule))
    assert result.exit_code == 2
    assert "expected a file that exists" in result.stderr


def test_random_generators_that_are_none_are_refused(trouble, capsule):
    forged = capsules.write(trouble.path / "forged", replace(capsules.read(capsule), rng={"python": 1}))
    result = trouble.hookline("replay", str(forged))
    assert result.exit_code == 2
    assert "expected the state of random generators" in result.stderr


def test_what_the_model_raises_while_it_is_watched_says_how_to_leave_that_away(trouble, capsule, monkeypatch):
    monkeypatch.setattr("torch.nn.Dropout.forward", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError) as raised:
        replay(capsule)
    assert "try --no-anomaly" in notes(raised.value)[-1]
    with pytest.raises(ZeroDivisionError) as raised:
        replay(capsule, anomaly=False)
    assert notes(raised.value) == []


def test_a_capsule_of_a_trainer_without_a_config_is_refused(trouble, capsule):
    bare = capsules.write(trouble.path / "bare", replace(capsules.read(capsule), config=None))
    result = trouble.hookline("replay", str(bare))
    assert result.exit_code == 2
    assert "expected a capsule with a config" in result.stderr


def test_a_checkpoint_is_no_capsule(trouble):
    assert trouble.hookline("train", "run.yaml", "hooks=[checkpoint]").exit_code == 0
    (path,) = trouble.runs()[0].glob("checkpoints/iter_*")
    result = trouble.hookline("replay", str(path))
    assert result.exit_code == 2
    assert "expected a capsule, got 'a checkpoint'" in result.stderr


def test_a_spike_without_its_checkpoints_is_refused(trouble):
    capsule = kept(trouble, *SPIKE, "hooks+={checkpoint: {period: 2}}", code=0)
    shutil.rmtree(capsule.parents[1] / "checkpoints")
    result = trouble.hookline("replay", str(capsule))
    assert result.exit_code == 2
    assert "expected the checkpoint iter_0000003 or one before it" in result.stderr


def test_a_batch_that_is_nowhere_is_refused(trouble):
    config = yaml.safe_load(CONFIG)
    config["data"]["train"] = {"target": "./trouble.py:Stream", "shape": "opaque"}
    (trouble.path / "run.yaml").write_text(yaml.safe_dump(config))
    result = trouble.hookline("replay", str(kept(trouble)))
    assert result.exit_code == 2
    assert "a Opaque cannot be stored, and Stream does not say where it was" in result.stderr


def of_rank_1(capsule, **changed):
    """Write the capsule that a second process would have kept beside ``capsule``; return its path."""
    kept_then = replace(capsules.read(capsule), rank=1, world_size=2, weights=None, **changed)
    return capsules.write(capsules.folder_of(capsule.parents[1], 1), kept_then)


def test_the_part_of_one_rank_is_replayed_alone(trouble, capsule):
    result = trouble.hookline("replay", str(of_rank_1(capsule)))
    found = lines(result)
    assert result.exit_code == 0, result.output
    assert found["capsule"][0].endswith("(iteration 2, non-finite, rank 1 of 2)")
    assert found["total_loss"] == ["nan on this rank alone; the run recorded nan, of all ranks"]
    fine = [(torch.ones(8, 1), torch.ones(8, 1))]
    result = trouble.hookline("replay", str(of_rank_1(capsule, batches=fine)))
    assert result.exit_code == 1
    assert lines(result)["next"] == ["This rank's part is finite. Look at the capsules of the other ranks."]


def test_a_rank_without_weights_is_replayed_with_those_of_the_checkpoint(trouble):
    capsule = kept(trouble, NAN, "hooks+={checkpoint: {period: 1}}", "hooks.checkpoint.keep=0")
    other = of_rank_1(capsule)
    shutil.rmtree(capsule)
    result = trouble.hookline("replay", str(other))
    assert result.exit_code == 0, result.output
    assert lines(result)["weights"] == ["from iter_0000001, the nearest that there are"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [({"why": "spike"}, "without, of a spike"), ({"checkpoint": None}, "without, and no checkpoint")],
)
def test_what_one_process_cannot_do_alone_is_refused(trouble, capsule, changed, message):
    other = of_rank_1(capsule, **changed)
    shutil.rmtree(capsule)
    result = trouble.hookline("replay", str(other))
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_capsule_runs_no_code_of_its_own(trouble, capsule):
    assert {path.suffix for path in capsule.iterdir()} == {".json", ".safetensors"}
    assert json.loads((capsule / "capsule.json").read_text())["config"].startswith("run:")


def test_hooks_that_take_part_in_training_take_part_in_the_replay(trouble):
    (trouble.path / "doubling.py").write_text(
        "from hookline import HookBase\n\n\nclass Doubling(HookBase):\n    def after_backward(self):\n"
        "        for parameter in self.trainer.model.parameters():\n            parameter.grad.mul_(2)\n\n\n"
        "class Looking(HookBase):\n    observer = True\n\n    def after_step(self):\n"
        "        with open('looked', 'a') as file:\n            file.write('.')\n\n\ndef looking():\n    return Looking()\n"
    )
    hooks = ("hooks+=./doubling.py:Doubling", "hooks+=./doubling.py:looking")
    capsule = kept(trouble, *SPIKE, *hooks, code=0)
    found = replay(capsule)
    assert (trouble.path / "looked").read_text() == "." * 7  # an observer is left out
    assert found.verdict == "equal"
    assert found.values["grad_norm"] > 0
    assert not math.isnan(found.values["grad_norm"])
    assert torch.is_grad_enabled()
