"""Weights that a plugin keeps: loaded in a notebook, measured, and trained on with."""

from __future__ import annotations

import json

import pytest
import torch

from hookline import CheckpointError, load_model

NEGATED = """
from hookline import HookBase

class Negated(HookBase):
    def after_step(self):
        pass

    def state_dict(self):
        return {"model": {name: -value for name, value in self.trainer.model.state_dict().items()}}

    def load_state_dict(self, state):
        pass
"""


@pytest.fixture
def run(project):
    """Return a project with a finished run, in which the plugin ``mirror`` keeps the weights negated."""
    (project.path / "negated.py").write_text(NEGATED)
    hook = "{mirror: {use: ./negated.py:Negated}}"
    result = project.hookline("train", "run.yaml", f"hooks+={hook}")
    assert result.exit_code == 0, result.output
    return project


def weight(model):
    return model.linear.weight.item()


def test_load_model_gives_them(run):
    trained = weight(load_model("runs/line/latest"))
    assert weight(load_model("runs/line/latest", weights_of="mirror")) == -trained != 0


def test_load_model_gives_them_where_a_trainer_builds_the_model(project):
    (project.path / "negated.py").write_text(NEGATED)
    (project.path / "own.py").write_text(
        "import runpy\n\nfrom hookline import DefaultTrainer\n\n"
        "class Own(DefaultTrainer):\n    def build_model(self):\n"
        f"        return runpy.run_path({str(project.path / 'line.py')!r})['Line']()\n"
    )
    overrides = ("hooks+={mirror: {use: ./negated.py:Negated}}", "trainer={target: ./own.py:Own}")
    result = project.hookline("train", "run.yaml", *overrides)
    assert result.exit_code == 0, result.output
    trained = weight(load_model("runs/line/latest"))
    assert weight(load_model("runs/line/latest", weights_of="mirror")) == -trained != 0


def test_evaluate_measures_them_and_says_whose_they_are(run):
    result = run.hookline("evaluate", "runs/line/latest", "--weights-of", "mirror")
    measured = json.loads(result.stdout)
    assert measured["weights_of"] == "mirror"
    assert result.stderr == ""
    model = load_model("runs/line/latest", weights_of="mirror")
    x = torch.linspace(-1, 1, 16).unsqueeze(1)
    assert measured["eval/total_loss"] == pytest.approx(model((x, 3 * x + 1)).item(), rel=1e-5)


def test_evaluate_without_a_name_says_on_standard_error_that_there_are_others(run):
    result = run.hookline("evaluate", "runs/line/latest")
    assert json.loads(result.stdout).keys() == {"checkpoint", "eval/total_loss"}
    assert "measured the weights that were trained" in result.stderr
    assert result.stderr.rstrip().endswith("also holds: --weights-of mirror")


def test_training_begins_with_them(run):
    result = run.hookline(
        "train", "run.yaml", "--weights", "runs/line/latest", "--weights-of", "mirror", "optimizer.lr=0",
        "run.name=again",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert weight(load_model("runs/again/latest")) == weight(
        load_model("runs/line/latest", weights_of="mirror")
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["evaluate", "runs/line/latest", "--weights-of", "mirrow"], "There is: mirror."),
        (["evaluate", "runs/line/latest", "--weights-of", "checkpoint"], "There is: mirror."),
        (["train", "run.yaml", "--weights-of", "mirror"], "expected --weights with it, got none"),
        (["train", "run.yaml", "--resume", "latest", "--weights-of", "mirror"], "expected --weights with it"),
        (["train", "run.yaml", "--weights", "none", "--weights-of", "mirror"], "none"),
    ],
)
def test_wrong_names_are_refused_with_exit_code_2(run, arguments, said):
    result = run.hookline(*arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert "Traceback" not in result.stderr


def test_a_plugin_whose_weights_are_of_another_model_is_refused(run):
    (run.path / "other.py").write_text(NEGATED.replace("{name: -", "{'x.' + name: -"))
    assert run.hookline("train", "run.yaml", "hooks+={mirror: {use: ./other.py:Negated}}").exit_code == 0
    with pytest.raises(CheckpointError, match="2 unknown"):
        load_model("runs/line/latest", weights_of="mirror")
