"""What is kept of an iteration that went wrong: data alone, written and checked as checkpoints are."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from hookline import checkpoint
from hookline.errors import CheckpointError, Problem
from hookline.nesting import map_tensors

__all__ = ["Capsule", "find", "folder_of", "is_capsule", "leaves", "parts", "read", "write"]

_VERSION = 1
_NAMES = "iter_*"
_SAMPLE = {"epoch", "batch", "indices"}


@dataclass(frozen=True)
class Capsule:
    """One iteration of one process, and all that it takes to run it again.

    Args:
        iteration: Which one.
        why: ``non-finite``, or ``spike``.
        values: The losses, the gradient norm and the loss scale that it had.
        median: What a spike was compared with.
        max_iter: Where the run was to end: a schedule depends on it.
        rank: The process.
        world_size: How many there were.
        generation: How often training had been started in the run directory.
        config: The run's config as YAML; None where the trainer had none.
        checkpoint: The newest one before it, relative to the run directory where it is in there.
        is_drawn: Whether ``rng`` is as it was when the batches had been drawn, not before that.
        samples: Of each batch epoch, number and indices of its samples, where the loader knows them.
        unstored: What kind of batch could not be stored as it is; empty where it is.
        batches: The batches as the loader gave them; where that cannot be stored, the list of tensors in
            each, and None where not even these could be.
        rng: The random generators of the process.
        weights: The model's, as they were before it; None where they had changed since.
        versions: Of hookline and torch.
    """

    iteration: int
    why: str
    values: Mapping[str, float]
    max_iter: int
    batches: Sequence[Any] | None
    rng: Mapping[str, Any]
    median: float | None = None
    rank: int = 0
    world_size: int = 1
    generation: int = 0
    config: str | None = None
    checkpoint: str | None = None
    is_drawn: bool = True
    samples: Sequence[Mapping[str, Any]] | None = None
    unstored: str = ""
    weights: Mapping[str, Tensor] | None = None
    versions: Mapping[str, str] = field(default_factory=dict)


_PARTS = ("batches", "rng", "weights")
_WHOLE, _TEXT = (int,), (str, type(None))
_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("iteration", "max_iter", "rank", "world_size", "generation"), _WHOLE),
    **dict.fromkeys(("config", "checkpoint"), _TEXT),
    **dict.fromkeys(("why", "unstored"), (str,)),
    **dict.fromkeys(("values", "rng", "versions"), (dict,)),
    **dict.fromkeys(("batches", "samples"), (list, type(None))),
    "median": (float, type(None)),
    "is_drawn": (bool,),
    "weights": (Mapping, type(None)),
}
_ABOUT = [one.name for one in fields(Capsule) if one.name not in _PARTS]


def folder_of(run_dir: Path, rank: int) -> Path:
    """Return where the capsules of a process are in a run directory: each has a folder of its own."""
    return run_dir / "capsules" / f"rank_{rank}" if rank else run_dir / "capsules"


def write(
    folder: Path,
    capsule: Capsule,
    fence: checkpoint.Fence = checkpoint.no_fence,
    ledger: checkpoint.Ledger | None = None,
) -> Path:
    """Write ``capsule`` into ``folder``, whole or not at all, and return its directory.

    A batch of a type that no file can hold without code is stored as the tensors in it, if it has any.

    Args:
        folder: Where; one process at a time writes there.
        capsule: What to write.
        fence: As for `hookline.checkpoint.save`, as is ``ledger``.
        ledger: Is told of the capsule.

    Raises:
        CheckpointError: If the disk refuses.
    """
    capsule = _storable(capsule)
    state = {
        "capsule": {"version": _VERSION, **{name: getattr(capsule, name) for name in _ABOUT}},
        **{name: getattr(capsule, name) for name in _PARTS if getattr(capsule, name) is not None},
    }
    return checkpoint.save(
        folder, capsule.iteration, state, generation=capsule.generation, fence=fence, ledger=ledger
    )


def find(place: Path) -> Path:
    """Return the capsule at ``place``: itself, or the newest one of a run or a folder of capsules.

    Raises:
        CheckpointError: If there is none.
    """
    for folder in (place / "capsules", place):
        if found := sorted(path for path in folder.glob(_NAMES) if path.is_dir()):
            return found[-1]
    if not place.is_dir() or not (place / "manifest.json").is_file():
        problem = Problem(
            f"replay: {place}",
            "a capsule, or a run that has one",
            "a file" if place.is_file() else "a directory without one" if place.is_dir() else "nothing there",
            _beside(place),
            "The hook 'capsule' writes them, when a loss is not finite or a spike",
        )
        raise CheckpointError(str(problem))
    return place


def is_capsule(path: Path) -> bool:
    """Return whether a capsule is at ``path``, damaged or not: a checkpoint has no such file."""
    return (path / "capsule.json").is_file()


def read(path: Path) -> Capsule:
    """Return the capsule at ``path``, with tensors on the CPU; every file is checked before it is read.

    Reads data only: what a capsule holds is never run. Its config names code, for whoever builds it.

    Raises:
        CheckpointError: If it is damaged, or no capsule.
    """
    if "capsule" not in checkpoint.verify(path).components:
        fix = "Name one of the directories in 'capsules' of the run"
        raise CheckpointError(str(Problem(f"replay: {path}", "a capsule", "a checkpoint", fix=fix)))
    state = checkpoint.load(path)
    about = dict(state["capsule"])
    if (version := about.pop("version", None)) != _VERSION:
        expected, fix = f"a capsule of version {_VERSION}", "Use the hookline that wrote it"
        raise CheckpointError(str(Problem(f"replay: {path}", expected, version, fix=fix)))
    try:
        capsule = Capsule(**{**about, **{name: state.get(name) for name in _PARTS}})
    except TypeError as error:
        raise CheckpointError(str(Problem(f"replay: {path}", "a whole capsule", str(error)))) from error
    _check_types(capsule, path)
    if capsule.rank and capsule.weights is None:
        return dataclasses.replace(capsule, weights=_weights_of_main(path))
    return capsule


def leaves(value: Any) -> list[Any]:
    """Return the tensors in ``value``, and what else can be sent to a device, in their order."""
    found: list[Any] = []
    map_tensors(value, found.append)
    return found


def parts(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield what is in ``value`` that holds nothing else, with the path to it, such as ``image``, ``0.1``."""
    items: Iterator[tuple[Any, Any]]
    if isinstance(value, Mapping):
        items = iter(value.items())
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    elif is_dataclass(value) and not isinstance(value, type):
        items = ((one.name, getattr(value, one.name)) for one in fields(value))
    else:
        yield name, value
        return
    for key, item in items:
        yield from parts(item, f"{name}.{key}".lstrip("."))


def _check_types(capsule: Capsule, path: Path) -> None:
    """Return if nothing in ``capsule`` is of a type that `write` never puts there."""
    wrong = [name for name, types in _TYPES.items() if not isinstance(getattr(capsule, name), types)]
    if not all(isinstance(value, float) for value in dict(capsule.values).values()):
        wrong.append("values")
    is_whole = all(isinstance(one, dict) and one.keys() == _SAMPLE for one in capsule.samples or ())
    if not is_whole or (capsule.samples and len(capsule.samples) != len(capsule.batches or capsule.samples)):
        wrong.append("samples")
    if wrong:
        raise CheckpointError(str(Problem(f"replay: {path}", "a whole capsule", f"another {wrong[0]}")))


def _storable(capsule: Capsule) -> Capsule:
    """Return ``capsule`` with its batches as they can be stored."""
    try:
        checkpoint.encode(capsule.batches, component="batches")
    except CheckpointError:
        kind = _strange(capsule.batches)
    else:
        return capsule
    tensors = [leaves(batch) for batch in capsule.batches or ()]
    try:
        plain = [[_plain(tensor) for tensor in batch] for batch in tensors]
        checkpoint.encode(plain, component="batches")
    except (CheckpointError, TypeError):
        return dataclasses.replace(capsule, batches=None, unstored=kind)
    return dataclasses.replace(capsule, batches=plain if all(plain) else None, unstored=kind)


def _plain(leaf: Any) -> Tensor:
    if not isinstance(leaf, Tensor):
        raise TypeError(f"a tensor is needed, not a {type(leaf).__name__}")
    return leaf.detach().as_subclass(Tensor)


def _strange(value: Any) -> str:
    """Return the type in ``value`` that a file cannot hold as it is; empty where it can."""
    items = value.values() if type(value) is dict else value if type(value) in (list, tuple) else ()
    if inner := next(filter(None, map(_strange, items)), ""):
        return inner
    try:
        checkpoint.encode(value)
    except CheckpointError:
        return type(value).__qualname__
    return ""


def _weights_of_main(path: Path) -> Mapping[str, Tensor] | None:
    """Return the weights in the capsule of rank 0 that ``path``, another rank's, goes with."""
    of_main = path.parent.parent / path.name
    if not of_main.is_dir() or "weights" not in checkpoint.verify(of_main).components:
        return None
    weights: Mapping[str, Tensor] = checkpoint.load(of_main, ["weights"])["weights"]
    return weights


def _beside(place: Path) -> str:
    """Say which capsules there are in the folder that ``place`` was looked for in."""
    found = sorted(path.name for path in place.parent.glob(_NAMES) if path.is_dir())
    return f"{place.parent} has {', '.join(found[-5:])}" if found else ""
