"""Which runs to compare, and what a difference between two of them says."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from hookline import distributed
from hookline.errors import RunError
from hookline.purity import Change, differences
from hookline.verification.report import Finding, PluginReport, Verification
from hookline.verification.trial import Outcome, Registered, Trial, run

__all__ = ["verify"]

_LASTING = ("weights/", "buffers/", "optimizer state/", "data/position")
_REPLACED = ("gradients/", "data/batches")  # by those of the iteration that begins


def verify(
    config: str | Path,
    overrides: Sequence[str] = (),
    num_iters: int = 20,
    progress: Callable[[str], None] = lambda text: None,
) -> Verification:
    """Train without observers, with each of them and with all, and compare every state to the bit.

    Each run is a process of its own; nothing that they write is left behind.

    Args:
        config: A YAML file.
        overrides: Such as ``hooks.evaluate.period=5``.
        num_iters: Iterations of each run, at least 1.
        progress: Told what is done next.

    Raises:
        RunError: If the config does not train as it is.
    """
    if distributed.world_size() > 1:
        size = distributed.world_size()
        raise RunError(f"verify-plugins: expected one process, got {size}. Run it without a launcher.")
    with TemporaryDirectory(prefix="hookline-verify-", ignore_cleanup_errors=True) as folder:
        return _Verifier(str(config), tuple(overrides), num_iters, progress, Path(folder)).verification()


class _Verifier:
    """The runs of one verification; those without a plugin are made once."""

    def __init__(
        self,
        config: str,
        overrides: tuple[str, ...],
        num_iters: int,
        progress: Callable[[str], None],
        folder: Path,
    ) -> None:
        self._config, self._overrides, self._num_iters = config, overrides, num_iters
        self._progress, self._folder = progress, folder
        self._num_runs = 0
        self._known: dict[frozenset[str], Outcome] = {}
        self._observers: frozenset[str] = frozenset()
        self._floor: frozenset[str] = frozenset()  # observers that training cannot do without

    def verification(self) -> Verification:
        """Make the runs, and return what they say."""
        together = self._run("all observers at once", frozenset(), frozenset())
        if together.error:
            raise RunError(self._failure(together))
        self._observers = frozenset(p.name for p in together.plugins if p.observer and p.from_config)
        result = Verification(self._num_iters, [])
        if self._observers:
            self._known[self._observers] = together
            result.unrepeatable = self._unrepeatable(self._baseline(together.providers))
        for plugin in together.plugins:
            is_checked = plugin.name in self._observers and result.unrepeatable is None
            result.plugins.append(
                self._checked(plugin, together.providers) if is_checked else _unchecked(plugin)
            )
        if self._observers and result.verdict == "pure":
            result.together = self._of_together(self._known[self._floor], together)
        return result

    def _baseline(self, providers: set[str]) -> Outcome:
        """Return the run without observers, or with those without which another plugin cannot be."""
        baseline = self._without(frozenset())
        if baseline.error:
            self._floor = self._observers & providers
            baseline = self._without(self._floor)
        if baseline.error:
            raise RunError(self._failure(baseline))
        return baseline

    def _unrepeatable(self, baseline: Outcome) -> Finding | None:
        again = self._on(self._floor, "no observer, again", frozenset())
        found = _difference(baseline, again)
        return None if found is None else Finding("", *found)

    def _checked(self, plugin: Registered, providers: set[str]) -> PluginReport:
        """Return what runs with and without ``plugin`` say of it."""
        name = plugin.name
        beside = self._floor | (frozenset() if name in providers else self._observers & providers)
        for others in (beside - {name}, self._observers - {name}):
            without, with_it = self._without(others), self._on(others | {name}, name, frozenset({name}))
            if not (without.error or with_it.error):
                return self._compared(plugin, without, with_it, others)
        report = _report(plugin, with_it)
        report.verdict = "unknown"
        which = f"with {name}" if with_it.error else f"without {name}"
        report.notes.append(f"a run {which} fails: {with_it.error or without.error}")
        return report

    def _compared(
        self, plugin: Registered, without: Outcome, with_it: Outcome, others: frozenset[str]
    ) -> PluginReport:
        report = _report(plugin, with_it)
        report.findings = _by_hook(with_it.changes)
        found = _difference(without, with_it)
        if found is not None and found[0] < 0:
            report.findings.insert(0, Finding("__init__", *found))
        elif found is not None and not report.findings:
            # Nothing shows how it was done: was it the plugin at all?
            again = self._on(others, f"no {plugin.name}, again", frozenset())
            if _difference(without, again) is not None:
                report.verdict = "unknown"
                report.notes.append("two runs without it differ too: training is not repeatable")
                return report
            report.findings.append(Finding("", *found))
        if report.findings:
            report.verdict = "impure"
            if found is None:
                report.notes.append(
                    "every iteration began and ended the same to the bit, with it and without"
                )
        else:
            report.verdict = "pure" if report.calls else "not called"
        if with_it.num_iters < without.num_iters:
            why = f" ({with_it.reason})" if with_it.reason else ""
            report.notes.append(f"it ended the run{why}: {with_it.num_iters} iterations were compared")
        return report

    def _of_together(self, baseline: Outcome, together: Outcome) -> Finding | None:
        """Return what observers change only where others are, which none does alone."""
        found = _difference(baseline, together)
        if found is None:
            return None
        watched = self._run("all observers at once, each call compared", frozenset(), None)
        for change in watched.changes:
            return Finding(f"{change.plugin}.{change.hook}", change.iteration, change.parts, 1)
        return Finding("", *found)

    def _without(self, on: frozenset[str]) -> Outcome:
        """Return the run with the observers ``on`` alone, unwatched; made once."""
        if on not in self._known:
            text = f"{', '.join(sorted(on))} alone" if on else "no observer"
            self._known[on] = self._on(on, text, frozenset())
        return self._known[on]

    def _on(self, on: frozenset[str], text: str, watched: frozenset[str]) -> Outcome:
        return self._run(text, self._observers - on, watched)

    def _run(self, text: str, off: frozenset[str], watched: frozenset[str] | None) -> Outcome:
        self._num_runs += 1
        self._progress(f"run {self._num_runs}: {text}")
        folder = self._folder / str(self._num_runs)
        try:
            return run(Trial(self._config, self._overrides, self._num_iters, off, watched), folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _failure(self, outcome: Outcome) -> str:
        if outcome.is_explained:
            return outcome.error
        return (
            f"{self._config}: expected a config that trains, got a run that fails. "
            f"Make 'hookline train {self._config}' work first.\n{outcome.error}"
        )


def _unchecked(plugin: Registered) -> PluginReport:
    report = PluginReport(plugin.name, plugin.source, plugin.observer)
    if plugin.observer and plugin.from_config:
        report.verdict = "unknown"
    elif plugin.observer:
        report.notes.append("the trainer registers it, not the config")
    return report


def _report(plugin: Registered, outcome: Outcome) -> PluginReport:
    calls = {hook: num for (name, hook), num in outcome.calls.items() if name == plugin.name}
    return PluginReport(
        plugin.name,
        plugin.source,
        calls=calls,
        never_called=[hook for hook in plugin.hooks if hook not in calls],
        period=plugin.period,
    )


def _by_hook(changes: Iterable[Change]) -> list[Finding]:
    """Return what each hook changed, the first to do so first."""
    by_hook: dict[str, list[Change]] = {}
    for change in changes:
        by_hook.setdefault(change.hook, []).append(change)
    return [
        Finding(
            hook,
            of_hook[0].iteration,
            tuple(dict.fromkeys(part for change in of_hook for part in change.parts)),
            len(of_hook),
        )
        for hook, of_hook in by_hook.items()
    ]


def _difference(one: Outcome, other: Outcome) -> tuple[int, tuple[str, ...]] | None:
    """Return the first iteration that begins differently in two runs, and in what; None if all is equal.

    The last is what remained at the end. Where one run was ended sooner, that is compared with the same
    iteration of the other, as far as what lasts goes.
    """
    for iteration in sorted(one.states.keys() & other.states.keys()):
        if parts := _seen(one.states[iteration], other.states[iteration]):
            return iteration, parts
    shorter, longer = sorted((one, other), key=lambda outcome: outcome.num_iters)
    if shorter.num_iters == longer.num_iters:
        parts = _seen(shorter.end or {}, longer.end or {})
    else:
        parts = _seen(shorter.end or {}, longer.states[shorter.num_iters])
        parts = tuple(part for part in parts if part.startswith(_LASTING))
    return (shorter.num_iters, parts) if parts else None


def _seen(one: Mapping[str, str], other: Mapping[str, str]) -> tuple[str, ...]:
    """Return the parts that differ between iterations, but those that the next one replaces at once."""
    return tuple(part for part in differences(one, other) if not part.startswith(_REPLACED))
