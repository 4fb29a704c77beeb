"""A config made ready for a short run that writes into a folder of its own alone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hookline.config import Config, describe_options, load_config
from hookline.config.lengths import Epochs
from hookline.default import DefaultTrainer, trainer_class
from hookline.plan import PlannedPlugin

__all__ = ["Options", "adapted", "checked", "changed_options", "period_of"]

Options = dict[str, dict[str, Any]]


def checked(config: str, overrides: Sequence[str]) -> tuple[Config, type[DefaultTrainer]]:
    """Return the config and the class that builds it.

    Raises:
        ConfigError: If anything in it is wrong.
    """
    found = load_config(config, overrides, also=lambda config: trainer_class(config).planned(config).problems)
    return found, trainer_class(found)


def adapted(
    config: Config, folder: Path, max_iter: int, options: Options, off: Collection[str] = ()
) -> Config:
    """Return ``config`` for a run of ``max_iter`` iterations that writes into ``folder``, and has no writers.

    Args:
        config: Of the user.
        folder: Where the run writes.
        max_iter: How long.
        options: What is changed of each hook's options, as `changed_options` returns it.
        off: Instance names of the hooks that are left out.
    """
    return replace(
        config,
        run=replace(config.run, dir=str(folder)),
        train=replace(config.train, max_iter=max_iter, stop_at=None, time_limit=None),
        hooks=[
            replace(spec, options={**spec.options, **options.get(spec.name, {})})
            for spec in config.hooks
            if spec.name not in off
        ],
        writers=[],
    )


def changed_options(
    config: Config, num_iters: int, may_shorten: Callable[[PlannedPlugin], bool] = lambda plan: True
) -> Options:
    """Return the options of each hook that a short run changes.

    A period in which nothing would be due in ``num_iters`` becomes one that is due twice. What a hook writes
    beside the run's own directory, where a run of the user's may be, goes into that directory.

    Args:
        config: Of the user.
        num_iters: How long a run is.
        may_shorten: Whether the period of a hook may be changed.
    """
    found: Options = {}
    for plan in trainer_class(config).planned(config).hooks:
        changed = found[plan.name] = {}
        if plan.options.get("dir") is not None and _default(plan, "dir", "") is None:
            changed["dir"] = None
        period = period_of(plan)
        is_long = isinstance(period, Epochs) or (isinstance(period, int) and period > num_iters)
        if is_long and may_shorten(plan):
            changed["period"] = max(num_iters // 2, 1)
    return found


def period_of(plan: PlannedPlugin) -> Any:
    """Return the option ``period`` of a hook, or its default; None where it has none."""
    return plan.options.get("period", _default(plan, "period"))


def _default(plan: PlannedPlugin, name: str, missing: Any = None) -> Any:
    defaults = {option.name: option.default for option in describe_options(plan.loaded.options_of)}
    return defaults.get(name, missing)
