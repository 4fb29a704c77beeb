"""What a config names, imported and checked; nothing is built until all of it is right."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from hookline.config import (
    Config,
    Optimizer,
    PluginSpec,
    Target,
    check_options,
    describe_options,
    resolve_target,
)
from hookline.config.instances import own
from hookline.errors import ConfigError, HooklineError, PluginError, Problem
from hookline.plugins import HOOKS, WRITERS, LoadedPlugin, load

__all__ = ["Plan", "PlannedPlugin", "given_to"]


@dataclass(frozen=True)
class PlannedPlugin:
    """A plugin that can be built: its key in the config, its instance name, and what makes it."""

    key: str
    name: str
    loaded: LoadedPlugin
    options: Mapping[str, Any]
    on_error: str | None = None

    def make(self, **resolved: Any) -> Any:
        """Return the plugin, built with its options, of which ``resolved`` replaces some.

        Raises:
            PluginError: If it cannot be built.
        """
        try:
            return self.loaded.make({**self.options, **resolved})
        except Exception as error:
            at = traceback.extract_tb(error.__traceback__)[-1]
            got = f"{type(error).__name__}: {error}".rstrip(".")
            raise PluginError(
                f"{self.name} ({self.loaded.source}): expected a plugin that can be built, got "
                f"{got}. It was raised at {at.filename}:{at.lineno}."
            ) from error


class Plan:
    """The parts of a run, by their key in the config: importable, with options that they take.

    Args:
        config: Names them.
        hooks: Which of the config's hooks.
        writers: Which of the config's writers.
        required: The keys of targets that must be there.
        only: The keys of the targets that will be built; by default all.
    """

    def __init__(
        self,
        config: Config,
        hooks: Iterable[PluginSpec],
        writers: Iterable[PluginSpec],
        required: Collection[str] = (),
        only: Collection[str] | None = None,
    ) -> None:
        self._config = config
        self._problems: list[Problem | HooklineError] = []
        self._makers: dict[str, partial[Any]] = {}
        for key, target in _targets(config):
            if only is None or key in only:
                self._collect(partial(self._add_target, key, target))
        if only is None:
            self._check_compile()
        self._problems += [
            Problem(key, "a mapping such as {target: package.module:Name}", missing=True)
            for key in required
            if tuple(key.split(".")) not in config.origins
        ]
        self._hook_specs = [hook for hook in hooks if hook is not None]
        self.hooks = self._plugins(self._hook_specs, HOOKS)
        self.writers = self._plugins(writers, WRITERS)

    @property
    def problems(self) -> list[Problem | HooklineError]:
        """What is wrong; nothing may be made while there is any."""
        return self._problems

    def require_data(self, use: str) -> None:
        """Note as a problem each part of ``data`` that a hook named ``use`` asks for and the config lacks."""
        data = self._config.data or {}
        for hook in self._hook_specs:
            name = hook.options.get("data", "eval") if hook.use == use else None
            # Anything else may be batches, in Python.
            words = name if isinstance(name, list) else [name]
            if all(isinstance(word, str | int) for word in words) and str(name) not in data:
                where = self._config.where(f"hooks.{hook.name}.data")
                exists = f"There is: {', '.join(data) or 'none'}"
                problem = Problem(where, "a key of the section data", name, exists, f"Add data.{name}")
                self._problems.append(problem)

    def __contains__(self, key: str) -> bool:
        return key in self._makers

    @property
    def keys(self) -> list[str]:
        """The keys of the targets, such as ``model`` and ``data.eval``."""
        return list(self._makers)

    def wants(self, key: str, parameter: str) -> bool:
        """Return whether the target at ``key`` takes ``parameter``."""
        return parameter in inspect.signature(self._makers[key]).parameters

    def make(self, key: str, **given: Any) -> Any:
        """Return the part at ``key``, built with its options and what is ``given``."""
        try:
            return self._makers[key](**given)
        except (TypeError, ValueError, RuntimeError) as error:
            at = traceback.extract_tb(error.__traceback__)[-1]
            exists = f"It was raised at {at.filename}:{at.lineno}"
            got = f"{type(error).__name__}: {error}"
            where = self._config.where(f"{key}.target")
            expected = "a target that can be built with its options"
            named = ", ".join(self._makers[key].keywords)
            fix = f"Its options in the config are {named}" if named else ""
            raise ConfigError([Problem(where, expected, got, exists, fix)]) from error

    def _add_target(self, key: str, target: Target) -> None:
        factory = resolve_target(target.target, self._config.base, self._config.where(f"{key}.target"))
        if not callable(factory):
            raise ConfigError(
                [Problem(self._config.where(f"{key}.target"), "a class or a function", factory)]
            )
        given = given_to(key, factory)
        options, problems = check_options(
            factory, self._with_functions(factory, target.options, key), key, self._config.origin, given
        )
        self._problems += problems
        if isinstance(target, Optimizer):
            for i, group in enumerate(target.groups):
                if group is None:
                    continue  # wrong in itself, which is a problem already
                where = f"{key}.groups.{i}"
                _, problems = check_options(factory, group.options, where, self._config.origin, given)
                self._problems += (problem for problem in problems if not problem.missing)
        self._makers[key] = partial(factory, **options)

    def _check_compile(self) -> None:
        given = self._config.train and self._config.train.compile
        if not isinstance(given, Mapping):
            return
        import torch  # what compiles nothing needs no torch

        # torch knows the options of a backend, and says which are wrong; their annotation lacks some.
        own = {**given, "options": {}} if isinstance(given.get("options"), Mapping) else given
        where, origin = "train.compile", self._config.origin
        _, problems = check_options(torch.compile, own, where, origin, given=("model",))
        self._problems += problems

    def _plugins(self, specs: Iterable[PluginSpec], group: str) -> list[PlannedPlugin]:
        planned: list[PlannedPlugin] = []
        for spec in specs:
            if spec is not None:
                self._collect(lambda spec=spec: planned.append(self._plugin(spec, group)))  # type: ignore[misc]
        return planned

    def _plugin(self, spec: PluginSpec, group: str) -> PlannedPlugin:
        section = group.rpartition(".")[2]
        key = f"{section}.{spec.name}"
        loaded = load(own(spec.use, section), group, self._config.base, self._config.where(key))
        given = self._with_functions(loaded.options_of, spec.options, key)
        options, problems = check_options(loaded.options_of, given, key, self._config.origin)
        self._problems += problems
        return PlannedPlugin(key, spec.name, loaded, options, spec.on_error)

    def _with_functions(self, factory: Any, options: Mapping[str, Any], key: str) -> dict[str, Any]:
        """Return ``options`` with the targets of those that are functions imported."""
        functions = {option.name for option in describe_options(factory) if "Callable" in option.type}
        imported = dict(options)
        for name in [name for name in options if name in functions and isinstance(options[name], str)]:
            where = self._config.where(f"{key}.{name}")
            imported[name] = _not_found  # so that the other options are checked, too
            self._collect(
                lambda name=name, where=where: imported.update(  # type: ignore[misc]
                    {name: resolve_target(options[name], self._config.base, where)}
                )
            )
        return imported

    def _collect(self, add: Callable[[], None]) -> None:
        try:
            add()
        except ConfigError as error:
            self._problems += error.problems
        except PluginError as error:
            self._problems.append(error)


def _targets(config: Config) -> Iterator[tuple[str, Target]]:
    """Yield every target of ``config`` but the trainer, with its key."""
    sections = {"model": config.model, "optimizer": config.optimizer, "schedule": config.schedule}
    yield from ((key, target) for key, target in sections.items() if target is not None)
    for name, data in (config.data or {}).items():
        if data is None:
            continue
        yield f"data.{name}", data
        yield from (
            (f"data.{name}.metrics.{metric}", target)
            for metric, target in data.metrics.items()
            if target is not None
        )


def _not_found() -> None:
    """Stand for a function that a config names and nobody finds."""


def given_to(key: str, factory: Any) -> tuple[str, ...]:
    """Return the parameters that the trainer fills in for the target at ``key``."""
    if key == "optimizer":
        return ("params",)
    if key != "schedule" or not isinstance(factory, type):
        return ()
    from torch.optim.lr_scheduler import LRScheduler  # what has no schedule needs no torch

    return ("optimizer",) if issubclass(factory, LRScheduler) else ()
