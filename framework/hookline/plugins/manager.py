"""The trainer's own pluggy manager: registers plugins, orders them, calls them, and says who failed."""

from __future__ import annotations

import inspect
import itertools
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from time import perf_counter
from types import ModuleType
from typing import Any

import pluggy

from hookline.errors import PluginError, add_note, did_you_mean, notes
from hookline.hookspecs import HookBase, HookSpecs
from hookline.plugins.implementation import HookCall, Implementation, rank
from hookline.plugins.lint import HOOK_NAMES, lint
from hookline.plugins.order import Place, call_order, place_reasons

__all__ = ["HookManager"]


class HookManager(pluggy.PluginManager):
    """Calls each hook of each registered plugin, in the order registered and declared.

    It stays a plain pluggy manager: ``manager.hook.after_step(trainer=trainer)`` calls the same functions
    in the same order as ``manager.call("after_step", trainer=trainer)``. The latter knows at each moment
    whose function runs, so it can name the plugin in an exception and measure its time.
    """

    def __init__(self) -> None:
        super().__init__("hookline")
        self.add_hookspecs(HookSpecs)
        self.sources: dict[str, str] = {}
        """Where each plugin came from, by instance name: distribution and version, or module."""
        self.seconds: defaultdict[str, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
        """Measured time by plugin and hook, seconds; see `call`."""
        self.sample: defaultdict[tuple[str, str], float] = defaultdict(float)
        """The same of the calls measured since it was last cleared, by plugin and hook, not weighted."""
        self.switched_off: dict[str, str] = {}
        """Why, by the name of each plugin that failed and was switched off."""
        self._watches: list[Callable[[HookCall], AbstractContextManager[Any]]] = []
        self._policies: dict[str, str] = {}
        self._num_failures: Counter[str] = Counter()
        self._implementations: dict[str, list[Implementation]] = {hook: [] for hook in HOOK_NAMES}
        self._defaults = {hook: _defaults(hook) for hook in HOOK_NAMES}

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
            self.register(plugin, name)
        except (ValueError, pluggy.PluginValidationError) as error:
            raise PluginError(f"{name}: expected a plugin that pluggy accepts, got: {error}.") from error
        self.sources[name] = source or _module_of(plugin)
        self._policies[name] = on_error or "raise"
        self._arrange()
        return name

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

    def watch(self, around: Callable[[HookCall], AbstractContextManager[Any]]) -> None:
        """Enter ``around(call)`` around every call of a plugin from now on, and leave it after.

        For tools that look at calls: a trace, a check. A wrapper's two halves are two calls.
        Costs nothing until it is used.
        """
        self._watches.append(around)

    @contextmanager
    def timed(self, plugin: str, act: str) -> Iterator[None]:
        """Count the time inside for ``plugin``, as that of ``act``: what it does besides its hooks."""
        start = perf_counter()
        try:
            yield
        finally:
            self._count(plugin, act, perf_counter() - start, weight=1)

    def call(self, hook: str, *, weight: int = 0, **offered: Any) -> None:
        """Call ``hook`` of every plugin; the first exception ends it, with a note of who raised it.

        Args:
            hook: A hook's name.
            weight: Add the time that each plugin takes to ``seconds`` so many times: 0 measures nothing,
                16 suits a caller that measures one call in 16.
            offered: The arguments of the spec; each implementation gets those it names.
        """
        offered = {**self._defaults[hook], **offered}
        with ExitStack() as wrappers:
            for implementation in self._implementations[hook]:
                if implementation.wrapper:
                    wrappers.enter_context(self._around(implementation, offered, weight))
                    continue
                try:
                    with self._attributed(implementation, offered, weight):
                        implementation(offered)
                except Exception as error:
                    if not self._forgiven(implementation.plugin, error):
                        raise

    def call_each(self, hook: str, **offered: Any) -> list[BaseException]:
        """Call ``hook`` of every plugin, each in its own try; return what they raised, with a note each."""
        errors: list[BaseException] = []
        offered = {**self._defaults[hook], **offered}
        with ExitStack() as wrappers:
            for implementation in self._implementations[hook]:
                try:
                    if implementation.wrapper:
                        wrappers.enter_context(_collecting(errors))
                        wrappers.enter_context(self._around(implementation, offered, weight=1))
                    else:
                        with self._attributed(implementation, offered, weight=1):
                            implementation(offered)
                except BaseException as error:
                    if not (isinstance(error, Exception) and self._forgiven(implementation.plugin, error)):
                        errors.append(error)
        return errors

    def _forgiven(self, name: str, error: Exception) -> bool:
        """Return whether training goes on after ``error`` of a plugin, by its policy."""
        policy = self._policies[name]
        if policy == "raise":
            return False
        self._num_failures[name] += 1
        described = f"{type(error).__name__}: {error} ({'; '.join(notes(error))})"
        if policy == "retry" and self._num_failures[name] < _MAX_FAILURES:
            _log.warning("%s. It is called again next time.", described)
            return True
        _log.warning("%s. The plugin is switched off, training goes on.", described)
        self.switched_off[name] = described
        self.unregister(name=name)
        self._arrange()
        return True

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

    @contextmanager
    def _around(
        self, implementation: Implementation, offered: Mapping[str, Any], weight: int
    ) -> Iterator[None]:
        """Run a wrapper: up to its yield, then what is inside, then the rest."""
        name, wrapper, is_entered = implementation.plugin, contextmanager(implementation)(offered), False
        with self._forgiving(name), self._attributed(implementation, offered, weight, "before"):
            wrapper.__enter__()
            is_entered = True
        try:
            yield
        except BaseException as error:
            is_handled: bool | None = False
            if is_entered:
                with self._forgiving(name, error), self._attributed(implementation, offered, weight, "after"):
                    is_handled = wrapper.__exit__(type(error), error, error.__traceback__)
                    if not is_handled:
                        raise
            if not is_handled:
                raise
        else:
            if is_entered:
                with self._forgiving(name), self._attributed(implementation, offered, weight, "after"):
                    wrapper.__exit__(None, None, None)

    @contextmanager
    def _forgiving(self, name: str, passing: BaseException | None = None) -> Iterator[None]:
        """Go on after an exception of the plugin if its policy says so; not after one that is ``passing``."""
        try:
            yield
        except Exception as error:
            if error is passing or not self._forgiven(name, error):
                raise

    @contextmanager
    def _attributed(
        self, implementation: Implementation, offered: Mapping[str, Any], weight: int, half: str = ""
    ) -> Iterator[None]:
        """Name the plugin in an exception that starts here, and measure the time."""
        start = perf_counter() if weight else 0.0
        try:
            if self._watches:
                with self._watched(implementation.as_call(offered, half)):
                    yield
            else:
                yield
        except BaseException as error:
            if not any(note.startswith(_NOTE) for note in notes(error)):
                add_note(error, self._note(implementation, offered))
            raise
        finally:
            if weight:
                self._count(implementation.plugin, implementation.hook, perf_counter() - start, weight)

    def _count(self, plugin: str, act: str, seconds: float, weight: int) -> None:
        self.seconds[plugin][act] += weight * seconds
        self.sample[plugin, act] += seconds

    @contextmanager
    def _watched(self, call: HookCall) -> Iterator[None]:
        with ExitStack() as watches:
            for around in self._watches:
                watches.enter_context(around(call))
            yield

    def _note(self, implementation: Implementation, offered: Mapping[str, Any]) -> str:
        where = f"hook {implementation.hook}, iteration {getattr(offered.get('trainer'), 'iter', '?')}"
        return f"{_NOTE} {implementation.plugin!r} ({self.sources[implementation.plugin]}), {where}"


_NOTE = "Raised by plugin"
_MAX_FAILURES = 3

_log = logging.getLogger(__name__)


@contextmanager
def _collecting(errors: list[BaseException]) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        errors.append(error)


def _defaults(hook: str) -> dict[str, Any]:
    """Return the arguments of the spec that a caller need not pass: those that were added to it later."""
    parameters = inspect.signature(getattr(HookSpecs, hook)).parameters.values()
    return {each.name: each.default for each in parameters if each.default is not each.empty}


def _trait(plugin: Any, name: str) -> tuple[str, ...]:
    value = getattr(plugin, name, ())
    return (value,) if isinstance(value, str) else tuple(value)


def _default_name(plugin: Any) -> str:
    if isinstance(plugin, ModuleType):
        return plugin.__name__.rpartition(".")[2]
    return type(plugin).__name__


def _module_of(plugin: Any) -> str:
    return plugin.__name__ if isinstance(plugin, ModuleType) else type(plugin).__module__
