"""The model that a run has trained, without the run."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from hookline import runs
from hookline.config import load_config
from hookline.default import DefaultTrainer, trainer_class
from hookline.errors import ConfigError
from hookline.plan import Plan
from hookline.trainer import load_weights, saved_weights

__all__ = ["load_model"]


def load_model(run: str | Path, weights_of: str | None = None) -> nn.Module:
    """Return the trained model of a run in evaluation mode, on the CPU; nothing but its class is imported.

    Args:
        run: A run directory (its newest checkpoint), ``…/checkpoints/best``, or one checkpoint.
        weights_of: A plugin that keeps weights of its own, such as an average, by its name in the config;
            by default the weights are those that were trained.

    Raises:
        RunError: If there is no such run.
        CheckpointError: If it has no undamaged checkpoint, or the plugin no weights in it.
    """
    found = runs.find(str(run), Path())
    config = load_config(found.path / "config.yaml")
    cls = trainer_class(config)
    if cls.build_model is not DefaultTrainer.build_model:
        trainer = cls(config, plugins=False)
        trainer.load_weights(run, weights_of)
        return trainer.model.cpu().eval()
    plan = Plan(config, [], [], required=("model",), only=("model",))
    if plan.problems:
        raise ConfigError(plan.problems)
    model: nn.Module = plan.make("model")
    load_weights(model, saved_weights(Path(run), weights_of), str(run))
    return model.eval()
