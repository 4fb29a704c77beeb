"""The trainer's own pluggy manager: registers plugins, and orders them for the calls."""

from __future__ import annotations

import inspect
import itertools
from types import ModuleType
from typing import Any

import pluggy

from hookline.errors import PluginError, add_note, did_you_mean
from hookline.hookspecs import HookBase
from hookline.plugins.dispatch import Dispatcher
from hookline.plugins.implementation import Implementation, rank
from hookline.plugins.lint import HOOK_NAMES, lint
from hookline.plugins.order import Place, call_order, place_reasons

__all__ = ["HookManager"]


class HookManager(Dispatcher):
    """Calls each hook of each registered plugin, in the order registered and declared.

    It stays a plain pluggy manager: ``manager.hook.after_step(trainer=trainer)`` calls the same functions
    in the same order as ``manager.call("after_step", trainer=trainer)``. The latter knows at each moment
    whose function runs, so it can name the plugin in an exception and measure its time; and it is faster.
    """

    def parse_hookimpl_opts(self, plugin: Any, name: str) -> Any:
        """Take every override of a `HookBase` as an implementation, marked or not."""
        marked = super().parse_hookimpl_opts(plugin, name)
        if marked is not None or name not in HOOK_NAMES or not isinstance(plugin, HookBase):
            return marked
        overridden = inspect.getattr_static(plugin, name) is not inspect.getattr_static(HookBase, name)
        return {} if overridden else None

    def add(
        self, plugin: Any, name: str | None = None, source: str | None = None, on_error: str | None = None
    ) -> str:
        """Register ``plugin`` after those already there, and return its instance name.

        Args:
            plugin: A `HookBase` instance, or an object or module with ``@hookimpl`` functions.
            name: Its instance name; by default that of its class or module, numbered from the second on.
            source: Where it came from; by default the module it is defined in.
            on_error: What to do when it raises: ``raise``, the default, ends the run; ``disable`` switches
                it off; ``retry`` calls it again next time, and switches it off after the third failure.

        Raises:
            PluginError: If something in it would be ignored in silence, if its name is taken, or if
                its place among the others is contradictory.
        """
        name = name or self._free_name(plugin)
        if on_error in ("disable", "retry") and getattr(plugin, "collective", False):
            raise PluginError(
                f"{name}.on_error: expected 'raise', got {on_error!r}. It communicates with other ranks, "
                "which would wait for it for ever."
            )
        try:
            lint(plugin, name)
        except PluginError as error:
            if source is not None:
                add_note(error, f"The plugin {name!r} comes from {source}.")
            raise
        if self.has_plugin(name):
            raise PluginError(
                f"hooks: expected a plugin name that is not taken, got {name!r} a second time. "
                f"Registered: {', '.join(self.names())}. Give one of them another name "
                "(in a config: '- other-name: {use: …}')."
            )
        if any(plugin is other for other in self.get_plugins()):
            raise PluginError(
                f"hooks: expected each plugin object once, got the same one again as {name!r}. "
                "Make a second one."
            )
        try:
            super().register(plugin, name)
        except (ValueError, pluggy.PluginValidationError) as error:
            raise PluginError(f"{name}: expected a plugin that pluggy accepts, got: {error}.") from error
        self.sources[name] = source or _module_of(plugin)
        self._policies[name] = on_error or "raise"
        self.plugins_off.pop(name, None)
        del self._num_failures[name]
        try:
            self._arrange()
        except PluginError:
            super().unregister(name=name)
            raise
        return name

    def register(self, plugin: Any, name: str | None = None) -> str:
        """Do what `add` does; pluggy's word for it."""
        return self.add(plugin, name)

    def unregister(self, plugin: Any = None, name: str | None = None) -> Any:
        """Take a plugin out, by itself or its name, and return it; a call that runs ends as it began."""
        removed = super().unregister(plugin, name)
        self._arrange()
        return removed

    def names(self) -> list[str]:
        """Return the instance names of all plugins, in call order."""
        return self._ordered_names()

    def implements(self, hook: str) -> list[str]:
        """Return the names of the plugins that implement ``hook``, in call order."""
        return [implementation.plugin for implementation in self._implementations[hook]]

    def explain(self, hook: str) -> list[Place]:
        """Return the plugins that implement ``hook`` in call order, each with the reason for its place.

        Raises:
            PluginError: If there is no such hook.
        """
        if hook not in HOOK_NAMES:
            raise PluginError(
                f"explain: expected a hook's name, got {hook!r}. {did_you_mean(hook, HOOK_NAMES)}".rstrip()
            )
        names, before, after = self._declared()
        reasons = place_reasons(names, before, after)
        called = {found.plugin: i for i, found in enumerate(self._implementations[hook])}
        places = []
        for found in self._implementations[hook]:
            name, mark = found.plugin, [found.mark] if found.mark else []
            position = {other: called.get(other, called[name]) - called[name] for other in names}
            for trait, others in {
                "before": [other for other in before[name] if position.get(other, 0) < 0],
                "after": [other for other in after[name] if position.get(other, 0) > 0],
            }.items():
                if others:
                    mark.append(f"a mark outweighs its {trait}={tuple(others)}")
            places.append(Place(name, "; ".join([*mark, *reasons[name]]), self.sources[name]))
        return places

    def _free_name(self, plugin: Any) -> str:
        first = _default_name(plugin)
        names = itertools.chain([first], (f"{first}-{number}" for number in itertools.count(2)))
        return next(name for name in names if not self.has_plugin(name))

    def _ordered_names(self) -> list[str]:
        return call_order(*self._declared())

    def _declared(self) -> tuple[list[str], dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]]:
        """Return the names in the order registered, and what each declares as before and as after."""
        plugins = dict(self.list_name_plugin())
        before, after = (
            {name: _trait(plugin, trait) for name, plugin in plugins.items()} for trait in ("before", "after")
        )
        return list(plugins), before, after

    def _arrange(self) -> None:
        """Put the implementations of every hook into call order."""
        position = {name: i for i, name in enumerate(self._ordered_names())}
        for hook in HOOK_NAMES:
            caller = getattr(self.hook, hook)
            # pluggy walks this list backwards, wrappers standing last. Left alone it would call the plugin
            # registered last first, and there is no public way to place several `trylast` in config order.
            caller._hookimpls.sort(key=lambda impl: (rank(impl), position[impl.plugin_name]), reverse=True)
            self._implementations[hook] = [
                Implementation.of(hook, impl) for impl in reversed(caller._hookimpls)
            ]
        self._plan()


def _trait(plugin: Any, name: str) -> tuple[str, ...]:
    value = getattr(plugin, name, ())
    return (value,) if isinstance(value, str) else tuple(value)


def _default_name(plugin: Any) -> str:
    if isinstance(plugin, ModuleType):
        return plugin.__name__.rpartition(".")[2]
    return type(plugin).__name__


def _module_of(plugin: Any) -> str:
    return plugin.__name__ if isinstance(plugin, ModuleType) else type(plugin).__module__
