"""The config of a run: read, overridden, checked and shown.

A config names code that is imported and called: treat one as you treat a script.
"""

from __future__ import annotations

from hookline.config.instances import DEFAULT_HOOKS
from hookline.config.lengths import Epochs, MaxIter, Period, is_due, to_iterations
from hookline.config.load import load_config
from hookline.config.options import Option, check_options, describe_options
from hookline.config.render import render, to_yaml
from hookline.config.schema import Config, DataSpec, Group, Loader, Optimizer, PluginSpec, Run, Target, Train
from hookline.config.targets import resolve_target

__all__ = [
    "DEFAULT_HOOKS",
    "Config",
    "DataSpec",
    "Epochs",
    "Group",
    "Loader",
    "MaxIter",
    "Optimizer",
    "Option",
    "Period",
    "PluginSpec",
    "Run",
    "Target",
    "Train",
    "check_options",
    "describe_options",
    "is_due",
    "load_config",
    "render",
    "resolve_target",
    "to_iterations",
    "to_yaml",
]
