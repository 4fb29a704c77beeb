"""Who is called when, and why: the hooks of a config registered as a run would, without a trainer."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

from hookline.config import Config, load_config
from hookline.config.lengths import Epochs
from hookline.errors import ConfigError
from hookline.hookspecs import HookSpecs
from hookline.plan import Plan
from hookline.plugins import HookManager, Place
from hookline.plugins.lint import HOOK_NAMES, hook_arguments

__all__ = ["HookOrder", "hook_orders"]

_BARE = {"run": {"name": "bare"}, "optimizer": {"target": "torch.optim:SGD"}, "train": {"max_iter": 1}}


@dataclass(frozen=True)
class HookOrder:
    """One hook and the plugins that implement it.

    Args:
        hook: Its name.
        arguments: What it offers.
        doc: When it is called, one line.
        places: The plugins in call order.
    """

    hook: str
    arguments: tuple[str, ...]
    doc: str
    places: list[Place]


def hook_orders(config: Config | None = None) -> list[HookOrder]:
    """Return every hook with the final call order; without a config, that of what every run has.

    Imports and builds the hooks that the config names, and nothing else of it.

    Raises:
        ConfigError: If a hook cannot be found, imported or built as the config asks.
    """
    manager = _manager(config if config is not None else load_config(_BARE))
    return [
        HookOrder(hook, hook_arguments(hook), _first_line(hook), manager.explain(hook)) for hook in HOOK_NAMES
    ]


def _manager(config: Config) -> HookManager:
    plan = Plan(config, config.hooks, [], only=())
    if plan.problems:
        raise ConfigError(plan.problems)
    manager = HookManager()
    for hook in plan.hooks:
        # How long an epoch is only the data tells, and no place depends on it.
        lengths = {
            name: value.num_epochs for name, value in hook.options.items() if isinstance(value, Epochs)
        }
        manager.add(hook.make(**lengths), hook.name, hook.loaded.source, hook.on_error)
    return manager


def _first_line(hook: str) -> str:
    return (inspect.getdoc(getattr(HookSpecs, hook)) or "").partition("\n")[0]
