"""The optimizer's parameter groups, by patterns of parameter names."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from typing import Any

from torch import nn

from hookline.config import Config
from hookline.errors import ConfigError, Problem

__all__ = ["parameter_groups"]


def parameter_groups(model: nn.Module, config: Config) -> list[dict[str, Any]]:
    """Return the trainable parameters by the first group whose pattern matches their name; the rest last."""
    specs = config.optimizer.groups
    groups: list[dict[str, Any]] = [{"params": [], **spec.options} for spec in specs]
    rest: dict[str, Any] = {"params": []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            matching = (
                group
                for spec, group in zip(specs, groups, strict=True)
                if any(fnmatch.fnmatchcase(name, pattern) for pattern in spec.match)
            )
            next(matching, rest)["params"].append(parameter)
    problems = [
        Problem(
            config.where(f"optimizer.groups.{i}.match"),
            "a pattern that matches a parameter",
            spec.match,
            exists=f"Parameters: {_listed(name for name, _ in model.named_parameters())}",
        )
        for i, (spec, group) in enumerate(zip(specs, groups, strict=True))
        if not group["params"]
    ]
    if problems:
        raise ConfigError(problems)
    return [group for group in [*groups, rest] if group["params"]]


def _listed(names: Iterable[str], limit: int = 12) -> str:
    shown = list(names)
    return ", ".join(shown[:limit]) + (f", … ({len(shown)} in all)" if len(shown) > limit else "")
