"""What a run is made of: its config, plugins and environment as files, its choices as hyper-parameters."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hookline.config import Config, Target, to_yaml
from hookline.config.lengths import Epochs
from hookline.plan import Plan, PlannedPlugin
from hookline.rundir import RunDir

__all__ = ["hyper_parameters", "write"]

_SECTIONS = ("model", "data", "optimizer", "schedule", "train")


def write(run: RunDir, config: Config, trainer: type, plan: Plan, call_order: Sequence[str]) -> None:
    """Write what the run is made of into its directory; of a resumed run, what it is made of now.

    Args:
        run: Where.
        config: What was asked for.
        trainer: The class that builds it. Whoever reads the config later, to resume or evaluate, needs it.
        plan: What was found under the names in the config.
        call_order: The hooks' instance names.
    """
    target = None if trainer.__module__ == "hookline.default" else _target_of(trainer)
    complete = replace(config, trainer=Target(target)) if target and config.trainer is None else config
    (run.path / "config.yaml").write_text(to_yaml(complete), "utf-8")
    (run.path / "config.source.yaml").write_text(config.source_text, "utf-8")
    run.write_json("overrides.json", {"overrides": list(config.overrides)})
    run.write_environment()
    run.write_json(
        "plugins.json",
        {
            "hooks": [_described(plan) for plan in plan.hooks],
            "writers": [_described(plan) for plan in plan.writers],
            "call_order": list(call_order),
        },
    )


def hyper_parameters(config: Config) -> dict[str, bool | int | float | str]:
    """Return what was chosen for the model, the data and how to train, by dotted key."""
    chosen = {key: value for key, value in config.to_dict(absolute=False).items() if key in _SECTIONS}
    chosen["train"] = {key: value for key, value in chosen["train"].items() if key != "stop_at"}
    flat: dict[str, bool | int | float | str] = {}

    def flatten(value: Any, key: str) -> None:
        if isinstance(value, Mapping):
            for name, item in value.items():
                flatten(item, f"{key}.{name}".lstrip("."))
        elif value is not None:
            flat[key] = value if isinstance(value, bool | int | float | str) else str(value)

    flatten(chosen, "")
    return flat


def _target_of(cls: type) -> str | None:
    """Return the target that `resolve_target` finds ``cls`` by, or None for a class of a notebook."""
    module = sys.modules[cls.__module__]
    is_file = module.__name__ == "__main__" or module.__name__.startswith("hookline_local_")
    file = getattr(module, "__file__", None)
    if not is_file:
        return f"{module.__name__}:{cls.__qualname__}"
    return f"{Path(file).resolve()}:{cls.__qualname__}" if file else None


def _described(plan: PlannedPlugin) -> dict[str, Any]:
    return {
        "name": plan.name,
        "source": plan.loaded.source,
        "options": {
            name: str(value) if isinstance(value, Epochs) else value for name, value in plan.options.items()
        },
    }
