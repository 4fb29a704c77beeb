"""Weights alone, without the rest of a run's state."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hookline import checkpoint
from hookline.checkpoint import tensors
from hookline.errors import CheckpointError, Problem

__all__ = ["find_weights", "load_weights", "offered_weights", "saved_weights", "weights_in"]

_RULE = "a run, a checkpoint or a .safetensors file"

_log = logging.getLogger(__name__)


def load_weights(
    model: nn.Module, weights: Mapping[str, torch.Tensor], where: str, *, exact: bool = False
) -> None:
    """Load ``weights`` into ``model``: all of them, each of the shape it has there, or nothing.

    Weights of another type are converted, and a warning says so; with ``exact`` they are refused. A module
    that overrides ``_load_from_state_dict``, and is none of torch's layers, takes its own as it likes.

    Raises:
        CheckpointError: With the names that are missing, too many, of another shape or of another type.
    """
    own = model.state_dict()
    own_affair = tuple(
        f"{name}." if name else "" for name, module in model.named_modules() if _loads_by_itself(module)
    )
    both = {
        name
        for name in own.keys() & weights.keys()
        if not name.endswith("_extra_state") and f"{name.rpartition('.')[0]}.".lstrip(".") not in own_affair
    }
    other_shape = {name for name in both if _shape(own[name]) != _shape(weights[name])}
    other_type = {name for name in both - other_shape if _type(own[name]) != _type(weights[name])}
    differing = {
        "missing": own.keys() - weights.keys(),
        "unknown": weights.keys() - own.keys(),
        "of another shape": {
            f"{name}: {_listed_shape(weights[name])} instead of {_listed_shape(own[name])}"
            for name in other_shape
        },
        "of another type": other_type if exact else (),
    }
    found = [f"{len(names)} {what} ({_listed(names)})" for what, names in differing.items() if names]
    if found:
        raise CheckpointError(
            f"{where}: expected the weights of {type(model).__name__}, got {', '.join(found)}. "
            "Use the model they were saved from."
        )
    if other_type:
        _log.warning("%s: %d weights were of another type (%s).", where, len(other_type), _listed(other_type))
    try:
        model.load_state_dict(weights)  # as it is: beside its items it holds the versions of the modules
    except RuntimeError as error:
        raise CheckpointError(
            f"{where}: expected the weights of {type(model).__name__}, got: {' '.join(str(error).split())}. "
            "Use the model they were saved from."
        ) from error


def find_weights(source: Path) -> Path:
    """Return the undamaged checkpoint or the ``.safetensors`` file that ``source`` means.

    Raises:
        CheckpointError: If there is none.
    """
    if source.suffix == ".safetensors" and source.is_file():
        return source
    is_run = source.is_dir() or checkpoint.read_pointer(source.parent, source.name) is not None
    if not is_run and not any(source.parent.glob("iter_*")):
        got = "a file of another kind" if source.is_file() else "nothing there"
        fix = "safetensors.torch.save_file(model.state_dict(), 'weights.safetensors') writes such a file"
        raise CheckpointError(str(Problem(f"--weights {source}", _RULE, got, fix=fix)))
    return checkpoint.resolve(source)


def saved_weights(source: Path, of: str | None = None) -> Mapping[str, torch.Tensor]:
    """Return the model's weights in a run, a checkpoint or a ``.safetensors`` file, on the CPU.

    Args:
        source: Where they are.
        of: A plugin, by its instance name, whose state has weights under ``model``: these take the place of
            those that were trained; what it has none of, such as buffers, is as trained.

    Raises:
        CheckpointError: If there is none, or it is damaged.
    """
    return weights_in(find_weights(source), of)


def weights_in(path: Path, of: str | None = None) -> Mapping[str, torch.Tensor]:
    """Return what `saved_weights` does of ``path``, which `find_weights` returned."""
    if path.suffix != ".safetensors":
        if of is not None and of not in (offered := offered_weights(path)):
            raise CheckpointError(
                f"weights of {of!r}: expected a plugin with weights of its own in {path}, got none of that "
                f"name. There is: {', '.join(offered) or 'none'}. Name one of these, or leave the name away."
            )
        state = checkpoint.load(path, ["model"] if of is None else ["model", "hooks"])
        weights: Mapping[str, torch.Tensor] = state["model"]
        if of is not None:
            state["model"].update(state["hooks"][of]["state"]["model"])
        return weights
    if of is not None:
        raise CheckpointError(
            f"weights of {of!r}: expected a run or a checkpoint to find them in, got the file {path}. "
            "Name the run."
        )
    try:
        return tensors.read(path)
    except Exception as error:  # what a library makes of a stranger's file may be anything
        got = f"{type(error).__name__}: {error}"
        raise CheckpointError(str(Problem(f"weights {path}", "a file of safetensors", got))) from error


def offered_weights(path: Path) -> list[str]:
    """Return the names of the plugins that have weights of the model in their state in the checkpoint."""
    states = checkpoint.outline(path, "hooks") or {}
    return [
        name
        for name, saved in states.items()
        if isinstance(saved, dict) and isinstance(state := saved.get("state"), dict)
        if _are_weights(state.get("model"))
    ]


def _are_weights(node: Any) -> bool:
    """Return whether ``node`` of an outline is a mapping of tensors, apart from modules' extra state."""
    match node:
        case {"$ordered": [dict() as items, *_]}:
            node = items
    if not isinstance(node, dict):
        return False
    values = [value for name, value in node.items() if not name.endswith("_extra_state")]
    return bool(values) and all(isinstance(value, dict) and value.keys() == {"$tensor"} for value in values)


def _loads_by_itself(module: nn.Module) -> bool:
    """Return whether others than torch's layers say how ``module`` takes what was saved of it."""
    place: str = type(module)._load_from_state_dict.__module__
    return not place.startswith("torch.nn.")


def _shape(value: Any) -> torch.Size | None:
    return value.shape if isinstance(value, torch.Tensor) else None


def _listed_shape(value: Any) -> str:
    return "no tensor" if (shape := _shape(value)) is None else str(list(shape))


def _type(value: Any) -> torch.dtype | None:
    return value.dtype if isinstance(value, torch.Tensor) else None


def _listed(names: Collection[str], limit: int = 3) -> str:
    return ", ".join(sorted(names)[:limit]) + (", …" if len(names) > limit else "")
