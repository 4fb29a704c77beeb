"""What a config holds: every section and key, with its rule and its default."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Interval

from hookline.config.durations import TimeLimit
from hookline.config.instances import DEFAULT_HOOKS, LISTS, name_in
from hookline.config.lengths import Epochs, MaxIter, Period
from hookline.config.rules import WORD, Rule
from hookline.config.targets import absolute_target
from hookline.config.tree import located, nearest

__all__ = [
    "Config",
    "DataSpec",
    "Group",
    "Loader",
    "Optimizer",
    "PluginSpec",
    "Plugins",
    "Run",
    "Target",
    "Train",
]


def _matching(pattern: str, text: str, schema: str) -> Rule:
    """Return the rule of a string; ``schema`` is ``pattern`` as JSON Schema has it, where \\w is ASCII."""

    def parse(value: Any) -> str:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise ValueError
        return value

    return Rule(text, parse, {"type": "string", "pattern": schema})


def _patterns(value: Any) -> list[str]:
    patterns = [value] if isinstance(value, str) else value
    if not isinstance(patterns, list) or not patterns or not all(isinstance(one, str) for one in patterns):
        raise ValueError
    return patterns


_SYNC_CHECKS = ("off", "warn", "error")


def _sync_check(value: Any) -> str:
    if value is False:  # how YAML reads a bare `off`
        return "off"
    if value not in _SYNC_CHECKS:
        raise ValueError
    return str(value)


_RUN_NAME = _matching(r"\w[\w.-]*", "a name of letters, digits, '.', '_' and '-'", rf"^{WORD}({WORD}|[.-])*$")
_TARGET = _matching(
    r".+[.:]\w+", "a target such as package.module:Name or ./file.py:Name", rf"^.+[.:]{WORD}+$"
)
_PLUGIN = _matching(r".+", "a plugin: its name, distribution:name or ./file.py:Name", "^.+$")
_SYNC_CHECK = Rule(f"one of {', '.join(_SYNC_CHECKS)}", _sync_check, {"enum": [*_SYNC_CHECKS, False]})
_PATTERNS = Rule(
    "a pattern of parameter names such as '*.bias', or a list of them",
    _patterns,
    {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]},
)


@dataclass(frozen=True)
class Run:
    """What the run is called and where it is kept.

    Args:
        name: Name of the run's folder.
        dir: Folder of all runs.
        seed: Seed of Python, NumPy and torch.
    """

    name: Annotated[str, _RUN_NAME]
    dir: str = "runs"
    seed: Annotated[int, Interval(ge=0, lt=2**32)] = 0


@dataclass(frozen=True)
class Target:
    """Something to import and call.

    Args:
        target: What to import; see `resolve_target`.
        options: Its keyword arguments; a config writes them beside ``target``.
    """

    target: Annotated[str, _TARGET]
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Loader:
    """How a dataset is read in batches.

    Args:
        batch_size: Items of a microbatch, on each rank.
        shuffle: Draw a new order each epoch; when not given, only for ``data.train``.
        drop_last: Leave out the last batch when it is not full.
        num_workers: Processes that read items; 0 reads in the training process.
        pin_memory: Pin the memory of batches ahead; ``train.prefetch`` otherwise does it as it sends them.
    """

    batch_size: Annotated[int, Ge(1)]
    shuffle: bool = True
    drop_last: bool = False
    num_workers: Annotated[int, Ge(0)] = 0
    pin_memory: bool = False


@dataclass(frozen=True)
class DataSpec(Target):
    """A dataset and how it is read and measured.

    Args:
        loader: None when the target itself yields batches.
        metrics: By name, what an evaluation on it measures beside the losses.
    """

    loader: Loader | None = None
    metrics: dict[str, Target] = field(default_factory=dict)


@dataclass(frozen=True)
class Group:
    """Options of the parameters whose names match; of several groups that match, the first counts.

    Args:
        match: Shell patterns of parameter names, such as ``*.bias``; a config may write a single one.
        options: The optimizer's options for them; a config writes them beside ``match``.
    """

    match: Annotated[list[str], _PATTERNS]
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Optimizer(Target):
    """The optimizer, and groups of parameters with options of their own.

    No weight decay on norms and biases: ``groups: [{match: ["*.bias", "*norm*"], weight_decay: 0}]``.

    Args:
        groups: Parameters with options of their own, by name; of several that match the first counts.
    """

    groups: list[Group] = field(default_factory=list)


@dataclass(frozen=True)
class Train:
    """How long and how to train.

    Args:
        max_iter: Where training ends; the schedule is relative to it.
        stop_at: Iteration to pause at, before ``max_iter``; nothing is rescaled.
        time_limit: Pause in time to have saved and ended after so long, such as ``3h50m``.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, …
        threads: CPU threads of torch; 0 leaves its own choice.
        precision: Precision of forward and backward; weights stay in their own.
        accumulate: Microbatches of an iteration.
        clip_norm: Largest norm of all gradients together; 0 does not clip.
        max_skips: Updates in a row that may be skipped because a loss or gradient is not finite.
        deterministic: Repeat a GPU run to the bit, at some cost.
        compile: Use ``torch.compile``; a mapping is passed to it as options.
        kernel: ``eager``; ``graph`` replays iterations as a CUDA graph; ``auto`` keeps the faster of the two.
        prefetch: Send batches to a GPU beside what it computes; on a CPU it has no effect.
        sync_check: ``warn`` or ``error`` where the host waits for a GPU within an iteration.
        log_period: Iterations of one logging period.
    """

    max_iter: MaxIter
    stop_at: Annotated[int, Ge(1)] | None = None
    time_limit: TimeLimit | None = None
    device: str = "auto"
    threads: Annotated[int, Ge(0)] = 0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    accumulate: Annotated[int, Ge(1)] = 1
    clip_norm: Annotated[float, Ge(0)] = 0.0
    max_skips: Annotated[int, Ge(0)] = 0
    deterministic: bool = False
    compile: bool | dict[str, Any] = False
    kernel: Literal["eager", "graph", "auto"] = "eager"
    prefetch: bool = True
    sync_check: Annotated[Literal["off", "warn", "error"], _SYNC_CHECK] = "off"
    log_period: Annotated[int, Ge(1)] = 20


@dataclass(frozen=True)
class PluginSpec:
    """One hook or writer of the config.

    Args:
        name: Instance name, unique in its list.
        use: Name of its entry point, ``distribution:name`` or ``./file.py:Name``.
        on_error: What happens when it raises; None leaves the default of its kind.
        period: Of a writer, the length between the points of a scalar; None leaves ``train.log_period``.
        options: Keyword arguments of the plugin, the ``period`` of a hook among them.
    """

    name: str
    use: Annotated[str, _PLUGIN]
    on_error: Literal["raise", "disable", "retry"] | None = None
    period: Period | None = None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Plugins:
    """What is asked of the plugins of a run together.

    Args:
        on_change: What happens when a run is resumed with other plugins than it was saved with; by default
            ``error`` where a saved state would be lost, else ``warn``. Another ``model.target`` is an error
            unless it is ``warn`` or ``ignore``.
    """

    on_change: Literal["error", "warn", "ignore"] | None = None


@dataclass(frozen=True, kw_only=True)
class Config:
    """A checked config, and where each of its values was written.

    ``hooks`` are in call order, the default ones included. ``base`` is the folder that relative targets are
    looked up in, ``source`` the file that was read, ``source_text`` its YAML, ``overrides`` what was applied
    to it. ``model`` and ``data`` may be missing: a trainer may build them itself.

    Args:
        run: What the run is called and where it is kept.
        model: What returns the model, a ``torch.nn.Module``.
        data: By name, what the model learns from (``train``) and what it is measured on.
        optimizer: The optimizer, and groups of parameters with options of their own.
        schedule: The learning rate over time.
        train: How long and how to train.
        hooks: Hooks in call order, besides those that every run has.
        writers: Where the metrics go.
        trainer: A trainer class of your own.
        plugins: What holds for all hooks and writers.
    """

    run: Run
    model: Target | None = None
    data: dict[str, DataSpec] = field(default_factory=dict)
    optimizer: Optimizer
    schedule: Target | None = None
    train: Train
    hooks: list[PluginSpec]
    writers: list[PluginSpec]
    plugins: Plugins = field(default_factory=Plugins)
    trainer: Target | None = None
    base: Path = field(compare=False)
    source: Path | None = field(compare=False)
    overrides: tuple[str, ...] = field(compare=False)
    source_text: str = field(compare=False, repr=False)
    origins: dict[tuple[str, ...], str] = field(compare=False, repr=False)

    def origin(self, path: str) -> str:
        """Return where the value at ``path`` was written: ``run.yaml:12``, ``override '…'`` or ``default``.

        A path below what the config holds has the origin of the nearest part that it holds.
        """
        return nearest(self.origins, tuple(path.split(".")))

    def where(self, path: str) -> str:
        """Return ``path`` with its origin, as messages begin: ``model.target (run.yaml:3)``."""
        return located(path, self.origin(path))

    def to_dict(self, absolute: bool = True) -> dict[str, Any]:
        """Return the config as plain data that `load_config` accepts, defaults filled in.

        Args:
            absolute: Write ``./file.py:Name`` with the file's full path, so that it means the same anywhere.
        """
        base = self.base if absolute else None
        sections = {
            item.name: _plain(getattr(self, item.name), base) for item in fields(self) if item.compare
        }
        for name in LISTS:
            sections[name] = [_listed(spec, base) for spec in getattr(self, name)]
        enabled = {hook.name for hook in self.hooks}
        sections["hooks"][:0] = [{name: False} for name in DEFAULT_HOOKS if name not in enabled]
        return {name: value for name, value in sections.items() if value not in (None, {})}


def _plain(value: Any, base: Path | None, skip: str = "") -> Any:
    """Return a section as plain data, its options beside its own keys, keys that are None left out."""
    if isinstance(value, Mapping):
        return {key: _plain(item, base) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, base) for item in value]
    if not is_dataclass(value) or isinstance(value, Epochs):
        return str(value) if isinstance(value, Epochs) else value
    items: dict[str, Any] = {}
    for key in (item.name for item in fields(value) if item.name != skip):
        part = getattr(value, key)
        if key == "options":
            items.update(_plain(part, base))
        elif part not in (None, {}, []):  # what may be left out
            is_target = key in ("target", "use")
            items[key] = absolute_target(part, base) if base and is_target else _plain(part, base)
    return items


def _listed(spec: PluginSpec, base: Path | None) -> Any:
    """Return an item of hooks or writers in its shortest form."""
    body = _plain(spec, base, skip="name")
    if set(body) == {"use"} and name_in(body["use"]) == spec.name:
        return body["use"]
    return {spec.name: {key: value for key, value in body.items() if (key, value) != ("use", spec.name)}}
