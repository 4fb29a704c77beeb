"""Calling the implementations of a hook: in order, knowing whose function runs, at next to no cost."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from time import perf_counter
from typing import Any

import pluggy

from hookline.errors import add_note, notes
from hookline.hookspecs import HookSpecs
from hookline.plugins.implementation import HookCall, Implementation, spec_defaults
from hookline.plugins.lint import HOOK_NAMES
from hookline.plugins.straight import Straight

__all__ = ["Dispatcher"]

_NOTE = "Raised by plugin"
_MAX_FAILURES = 3

_Before = Callable[[str, Any, Mapping[str, Any]], None]
_Act = Callable[[Mapping[str, Any]], Any]
_After = Callable[[pluggy.Result[Any], str, Any, Mapping[str, Any]], None]

_log = logging.getLogger(__name__)


class Dispatcher(pluggy.PluginManager):
    """Calls hooks as pluggy does, and names the plugin in an exception, measures it, and forgives it.

    Where no wrapper is among the implementations of a hook and nobody watches, they are called `Straight`;
    else by `_walk`, which does the same for whatever there may be.
    """

    def __init__(self) -> None:
        super().__init__("hookline")
        self.add_hookspecs(HookSpecs)
        self.sources: dict[str, str] = {}
        """Where each plugin came from, by instance name: distribution and version, or module."""
        self.sample: defaultdict[tuple[str, str], float] = defaultdict(float)
        """Time of the calls measured since it was last cleared, seconds, by plugin and hook, not weighted."""
        self.switched_off: dict[str, str] = {}
        """Why, by the name of each plugin that failed and was switched off."""
        self.plugins_off: dict[str, Any] = {}
        """Each of these plugins, by name."""
        self._totals: defaultdict[tuple[str, str], float] = defaultdict(float)
        self._watches: list[Callable[[HookCall], AbstractContextManager[Any]]] = []
        self._monitors: list[tuple[_Before, _After]] = []
        self._policies: dict[str, str] = {}
        self._num_failures: Counter[str] = Counter()
        self._defaults = spec_defaults()
        self._implementations: dict[str, list[Implementation]] = {hook: [] for hook in HOOK_NAMES}
        self._straight: dict[str, Straight | None] = {}
        self._plan()

    @property
    def seconds(self) -> dict[str, dict[str, float]]:
        """Measured time by plugin and hook, seconds; see `call`."""
        found: dict[str, dict[str, float]] = {}
        for (plugin, act), seconds in self._totals.items():
            found.setdefault(plugin, {})[act] = seconds
        return found

    def forget_seconds(self) -> None:
        """Begin ``seconds`` anew."""
        self._totals.clear()

    @property
    def failures(self) -> dict[str, dict[str, Any]]:
        """What `load_failures` takes of each plugin that has failed and was forgiven, by name."""
        return {
            name: {"on_error": self._policies[name], "number": number, "off": self.switched_off.get(name)}
            for name, number in self._num_failures.items()
        }

    def load_failures(self, name: str, saved: Mapping[str, Any]) -> None:
        """Go on counting the failures of the plugin ``name``, off if it was; with another policy, anew."""
        if saved["on_error"] != self._policies[name]:
            return
        self._num_failures[name] = saved["number"]
        if saved["off"] is not None:
            _log.warning(
                "%s is switched off, as it was: %s. To have it again, change its on_error or another option.",
                name,
                saved["off"],
            )
            self._switch_off(name, saved["off"])

    def watch(self, around: Callable[[HookCall], AbstractContextManager[Any]]) -> None:
        """Enter ``around(call)`` around every call of a plugin from now on, and leave it after.

        For tools that look at calls: a trace, a check. A wrapper's two halves are two calls.
        Costs nothing until it is used.
        """
        self._watches.append(around)
        self._plan()

    def unwatch(self, around: Callable[[HookCall], AbstractContextManager[Any]]) -> None:
        """Enter ``around`` no more."""
        self._watches.remove(around)
        self._plan()

    def add_hookcall_monitoring(self, before: _Before, after: _After) -> Callable[[], None]:
        """See pluggy; ``call`` and ``call_each`` are monitored as ``hook`` is."""
        undo_pluggys = super().add_hookcall_monitoring(before, after)
        former, self._monitors = self._monitors, [*self._monitors, (before, after)]
        self._plan()

        def undo() -> None:
            undo_pluggys()
            self._monitors = former
            self._plan()

        return undo

    @contextmanager
    def timed(self, plugin: str, act: str) -> Iterator[None]:
        """Count the time inside for ``plugin``, as that of ``act``: what it does besides its hooks."""
        start = perf_counter()
        try:
            yield
        finally:
            self._count((plugin, act), perf_counter() - start, weight=1)

    def call(self, hook: str, *, weight: int = 0, **offered: Any) -> None:
        """Call ``hook`` of every plugin; the first exception ends it, with a note of who raised it.

        Costs 0.03 µs for each implementation, 0.2 µs where it is measured, and nothing that matters where
        there is none.

        Args:
            hook: A hook's name.
            weight: Add the time that each plugin takes to ``seconds`` so many times: 0 measures nothing,
                16 suits a caller that measures one call in 16.
            offered: The arguments of the spec, all of them; each implementation gets those it names.
        """
        straight = self._straight[hook]
        if straight is None:
            self._call_watched(hook, offered, weight)
            return
        if not straight.implementations:
            return
        try:
            if weight:
                self._call_timed(straight, offered, weight)
            else:
                straight.run(**offered)
        except BaseException as error:
            left = straight.left(error)
            if not left:
                raise
            self._name(left[0], offered, error)
            if not self._forgiven(left[0].plugin, error):
                raise
        else:
            return
        self._walk(left[1:], {**self._defaults.get(hook, {}), **offered}, weight, None)

    def call_each(self, hook: str, **offered: Any) -> list[BaseException]:
        """Call ``hook`` of every plugin, each in its own try; return what they raised, with a note each."""
        errors: list[BaseException] = []
        self._call_watched(hook, offered, 1, errors)
        return errors

    def _plan(self) -> None:
        """Prepare the calls of every hook; a call that runs meanwhile goes on with what it began with."""
        for hook, implementations in self._implementations.items():
            is_seen = bool(self._monitors or (implementations and self._watches))
            has_wrapper = any(implementation.wrapper for implementation in implementations)
            straight = Straight(hook, implementations, self._defaults.get(hook, {}))
            self._straight[hook] = None if is_seen or has_wrapper else straight

    def _call_timed(self, straight: Straight, offered: Mapping[str, Any], weight: int) -> None:
        totals, sample = self._totals, self.sample
        times: list[float] = []
        start = perf_counter()
        try:
            straight.run_timed(_times=times, _clock=perf_counter, **offered)
        except BaseException:
            times.append(perf_counter())
            raise
        finally:
            for implementation, end in zip(straight.implementations, times, strict=False):
                key, seconds = implementation.key, end - start
                totals[key] += weight * seconds
                sample[key] += seconds
                start = end

    def _call_watched(
        self, hook: str, offered: Mapping[str, Any], weight: int, errors: list[BaseException] | None = None
    ) -> None:
        """Call ``hook`` inside of what monitors the calls, as pluggy would."""
        offered = {**self._defaults.get(hook, {}), **offered}
        walk = partial(self._walk, self._implementations[hook], offered, weight, errors)
        for before, after in self._monitors:
            walk = partial(self._monitored, before, after, hook, offered, walk)
        walk()

    def _monitored(
        self, before: _Before, after: _After, hook: str, offered: Mapping[str, Any], walk: Callable[[], Any]
    ) -> Any:
        impls = getattr(self.hook, hook).get_hookimpls()
        before(hook, impls, offered)
        outcome = pluggy.Result.from_call(walk)
        after(outcome, hook, impls, offered)
        return outcome.get_result()

    def _walk(
        self,
        implementations: Sequence[Implementation],
        offered: Mapping[str, Any],
        weight: int,
        errors: list[BaseException] | None,
    ) -> Any:
        """Call ``implementations``, wrappers up to their yield and at last from it; return their results.

        An exception ends it, and goes through the wrappers that were entered; with ``errors`` it is added
        to them instead, and the others go on.
        """
        result: Any = []
        failure: BaseException | None = None
        entered: list[tuple[Implementation, Generator[Any, Any, Any]]] = []
        do = self._do_seen if self._watches or weight else _do
        for implementation in implementations:
            half = "before" if implementation.wrapper else ""
            try:
                returned = do(implementation.begin, implementation, offered, half, weight)
            except BaseException as error:
                self._name(implementation, offered, error)
                if not self._forgiven(implementation.plugin, error):
                    if errors is None:
                        failure = error
                        break
                    errors.append(error)
            else:
                if implementation.wrapper:
                    entered.append((implementation, returned))
                elif returned is not None:
                    result.append(returned)
        for implementation, wrapper in reversed(entered):
            try:
                rest = partial(_finish, wrapper, result, failure)
                result, failure = do(rest, implementation, offered, "after", weight), None
            except BaseException as error:
                self._name(implementation, offered, error)
                if error is not failure and self._forgiven(implementation.plugin, error):
                    continue
                if errors is None:
                    failure = error
                else:
                    errors.append(error)
        if failure is not None:
            try:
                raise failure
            finally:
                del failure  # Its traceback holds this frame: the two would keep each other, and the model.
        return result

    def _do_seen(
        self, act: _Act, implementation: Implementation, offered: Mapping[str, Any], half: str, weight: int
    ) -> Any:
        """Do ``act``, which is all of an implementation or a half, before those who watch; measure it."""
        start = perf_counter() if weight else 0.0
        try:
            with ExitStack() as watches:
                for around in self._watches:
                    watches.enter_context(around(implementation.as_call(offered, half)))
                return act(offered)
        finally:
            if weight:
                self._count(implementation.key, perf_counter() - start, weight)

    def _count(self, key: tuple[str, str], seconds: float, weight: int) -> None:
        self._totals[key] += weight * seconds
        self.sample[key] += seconds

    def _name(self, implementation: Implementation, offered: Mapping[str, Any], error: BaseException) -> None:
        """Note in ``error`` the plugin that it comes from, unless it comes from inside another call."""
        if not any(note.startswith(_NOTE) for note in notes(error)):
            plugin, hook = implementation.key
            iteration = getattr(offered.get("trainer"), "iter", "?")
            source = self.sources[plugin]
            add_note(error, f"{_NOTE} {plugin!r} ({source}), hook {hook}, iteration {iteration}")

    def _forgiven(self, name: str, error: BaseException) -> bool:
        """Return whether training goes on after ``error`` of a plugin, by its policy."""
        policy = self._policies[name]
        if policy == "raise" or not isinstance(error, Exception):
            return False
        self._num_failures[name] += 1
        described = f"{type(error).__name__}: {error} ({'; '.join(notes(error))})"
        if policy == "retry" and self._num_failures[name] < _MAX_FAILURES:
            _log.warning("%s. It is called again next time.", described)
            return True
        _log.warning("%s. The plugin is switched off, training goes on.", described)
        self._switch_off(name, described)
        return True

    def _switch_off(self, name: str, why: str) -> None:
        self.switched_off[name] = why
        self.plugins_off[name] = self.unregister(name=name)


def _do(act: _Act, _: Implementation, offered: Mapping[str, Any], half: str, weight: int) -> Any:
    return act(offered)


def _finish(
    wrapper: Generator[Any, Any, Any], result: Any, failure: BaseException | None, _: Mapping[str, Any]
) -> Any:
    """Run ``wrapper`` from its yield, to which ``result`` or ``failure`` is given; return its result."""
    try:
        if failure is None:
            wrapper.send(result)
        else:
            wrapper.throw(failure)
    except StopIteration as end:
        return end.value
    except RuntimeError as error:
        # What leaves a generator as a StopIteration is made a RuntimeError by Python.
        if failure is not None and isinstance(failure, StopIteration) and error.__cause__ is failure:
            raise failure from None
        raise
    wrapper.close()
    raise RuntimeError("wrapper: expected one yield, got a second one. Remove it.")
