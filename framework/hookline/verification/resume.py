"""Whether a run that is stopped and resumed is the same as one that is not, and where it first is not."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from hookline import distributed
from hookline.errors import RunError
from hookline.purity import Records, differences
from hookline.verification.explain import explained, forgotten
from hookline.verification.resume_report import Difference, MetricDifference, ResumeVerification
from hookline.verification.resume_trial import ResumeOutcome, ResumeTrial, run_resume

__all__ = ["verify_resume"]

_IN_RUN = ("trainer/start_iter", "trainer/stop_at")  # of this run, not of training
_REPLACED = ("gradients/", "data/batches")  # by those of the iteration that begins


def verify_resume(
    config: str | Path,
    overrides: Sequence[str] = (),
    num_iters: int = 10,
    at: Sequence[int] = (),
    progress: Callable[[str], None] = lambda text: None,
) -> ResumeVerification:
    """Train ``2 * num_iters`` iterations in one go, and stopped and resumed, and compare both to the bit.

    Each run is a process of its own; nothing that they write is left behind.

    Args:
        config: A YAML file.
        overrides: Such as ``hooks.evaluate.period=5``.
        num_iters: Half of each run, at least 1.
        at: After how many iterations a run is stopped; by default half of it, and after a third of that.
        progress: Told what is done next.

    Raises:
        RunError: If the config does not train as it is, or a run cannot be stopped there.
    """
    if distributed.world_size() > 1:
        size = distributed.world_size()
        raise RunError(f"verify-resume: expected one process, got {size}. Run it without a launcher.")
    cuts = sorted(set(at)) or sorted({num_iters, max(num_iters // 3, 1)})
    wrong = [cut for cut in cuts if not 0 < cut < 2 * num_iters]
    if wrong:
        raise RunError(
            f"--at: expected iterations of a run of {2 * num_iters}, from 1 to {2 * num_iters - 1}, got "
            f"{wrong[0]}. Name another, or raise --iters."
        )
    with TemporaryDirectory(prefix="hookline-verify-", ignore_cleanup_errors=True) as folder:
        trial = ResumeTrial(str(config), tuple(overrides), 2 * num_iters, num_iters, tuple(cuts))
        return _Verifier(trial, progress, Path(folder)).verification()


class _Verifier:
    """The runs of one check."""

    def __init__(self, trial: ResumeTrial, progress: Callable[[str], None], folder: Path) -> None:
        self._trial, self._progress, self._folder = trial, progress, folder
        self._num_runs = 0

    def verification(self) -> ResumeVerification:
        """Make the runs, and return what they say."""
        trial, result = self._trial, ResumeVerification(self._trial.num_iters)
        whole = self._run("in one go", trial)
        if whole.error:
            raise RunError(self._failure(whole))
        cuts = [cut for cut in trial.cuts if cut < whole.num_iters]
        if whole.num_iters < trial.num_iters:
            why = f" ({whole.reason})" if whole.reason else ""
            result.notes.append(f"the run ends by itself after {whole.num_iters} iterations{why}")
        if not cuts:
            return result
        first = self._run(f"stopped after {cuts[-1]} iterations", replace(trial, stop_at=cuts[-1]))
        if first.error:
            result.stopped_after = [cuts[-1]]
            result.difference = Difference(
                cuts[-1], cuts[-1], cause=f"a run that is stopped fails: {first.error}"
            )
            return result
        if found := _difference(whole, first, 0):
            return self._unrepeatable(result, found, whole, first)
        unsteady = _unsteady(whole.records, first.records, cuts[-1])
        result.notes += [
            f"{name} differs between two equal runs: put it with volatile=True" for name in sorted(unsteady)
        ]
        for cut in reversed(cuts):
            result.stopped_after.append(cut)
            resumed = self._run(f"resumed after {cut}", self._resuming(first, cut))
            if found := self._compared(whole, resumed, cut, unsteady):
                return self._explained(result, found, whole, first, resumed)
            if cut == cuts[-1]:
                result.notes += forgotten(whole, first, resumed, cut)
        return result

    def _resuming(self, first: ResumeOutcome, cut: int) -> ResumeTrial:
        return replace(self._trial, resume=(first.run_dir, f"iter_{cut - 1:07d}"))

    def _compared(
        self, whole: ResumeOutcome, resumed: ResumeOutcome, cut: int, unsteady: set[str]
    ) -> Difference | None:
        if resumed.error and not resumed.states:
            return Difference(cut, cut, cause=f"the resume fails: {resumed.error}")
        found = _difference(whole, resumed, cut)
        metric = _metric(whole.records, resumed.records, cut, unsteady)
        if found is not None:
            return replace(found, metric=metric)
        if metric is not None:
            return Difference(cut, metric.iteration, metric=metric)
        if resumed.error:
            return Difference(cut, resumed.num_iters, cause=f"the resumed run fails: {resumed.error}")
        if (resumed.num_iters, resumed.status) != (whole.num_iters, whole.status):
            ends = [f"{run.status} after {run.num_iters} iterations" for run in (whole, resumed)]
            cause = f"the uninterrupted run is {ends[0]}, the resumed one {ends[1]}"
            return Difference(cut, min(whole.num_iters, resumed.num_iters), cause=cause)
        return None

    def _unrepeatable(
        self, result: ResumeVerification, found: Difference, whole: ResumeOutcome, first: ResumeOutcome
    ) -> ResumeVerification:
        """Return ``result`` with what makes two equal runs differ."""
        result.is_repeatable = False
        iteration = max(found.iteration - 1, 0)
        trial = replace(self._trial, stop_at=iteration + 1, cuts=(), traced=iteration)
        one, other = (self._run(f"iteration {iteration} step by step", trial) for _ in range(2))
        result.difference = explained(found, (whole, first), (one, other), is_repeatable=False)
        return result

    def _explained(
        self,
        result: ResumeVerification,
        found: Difference,
        whole: ResumeOutcome,
        first: ResumeOutcome,
        resumed: ResumeOutcome,
    ) -> ResumeVerification:
        """Return ``result`` with the difference and its cause: the iteration is done again, step by step."""
        if resumed.error:
            result.difference = found
            return result
        cut = found.stopped_after
        iteration = max(found.iteration - 1, cut) if found.parts else found.iteration
        if found.metric is not None:
            iteration = min(iteration, found.metric.iteration)
        trials = (self._trial, self._resuming(first, cut))
        one, other = (
            self._run(
                f"iteration {iteration} step by step",
                replace(trial, stop_at=iteration + 1, traced=iteration),
            )
            for trial in trials
        )
        if late := _difference(whole, one, 0):
            return self._unrepeatable(result, late, whole, one)
        result.difference = explained(found, (whole, resumed), (one, other), is_repeatable=True)
        return result

    def _run(self, text: str, trial: ResumeTrial) -> ResumeOutcome:
        self._num_runs += 1
        self._progress(f"run {self._num_runs}: {text}")
        folder = self._folder / str(self._num_runs)
        outcome = run_resume(trial, folder)
        if trial.stop_at is None or trial.resume is not None:  # nobody resumes it
            shutil.rmtree(folder, ignore_errors=True)
        return outcome

    def _failure(self, outcome: ResumeOutcome) -> str:
        if outcome.is_explained:
            return outcome.error
        config = self._trial.config
        return (
            f"{config}: expected a config that trains, got a run that fails. "
            f"Make 'hookline train {config}' work first.\n{outcome.error}"
        )


def _difference(one: ResumeOutcome, other: ResumeOutcome, cut: int) -> Difference | None:
    """Return the first iteration, from ``cut`` on, that begins differently in two runs, and in what."""
    common = one.states.keys() & other.states.keys()
    for iteration in sorted(common if not cut else [each for each in common if each >= cut]):
        is_first = iteration in (cut, -1)
        if parts := _seen(one.states[iteration], other.states[iteration], is_first):
            return Difference(cut, iteration, parts)
    are_done = one.num_iters == other.num_iters and one.end is not None and other.end is not None
    parts = _seen(one.end or {}, other.end or {}, is_first=False) if are_done else ()
    return Difference(cut, one.num_iters, parts) if parts else None


def _seen(one: Mapping[str, str], other: Mapping[str, str], is_first: bool) -> tuple[str, ...]:
    """Return the parts that differ, the batch first, but those that the iteration replaces at once."""
    left_out = (*_IN_RUN, *_REPLACED) if is_first else (*_IN_RUN, _REPLACED[0])
    parts = [part for part in differences(one, other) if not part.startswith(left_out)]
    return tuple(sorted(parts, key=lambda part: not part.startswith("data/")))


def _unsteady(whole: Records, first: Records, cut: int) -> set[str]:
    """Return the names of what two equal runs put differently."""
    return {found.name for found in _metrics(whole, first, 0) if found.iteration < cut}


def _metric(whole: Records, resumed: Records, cut: int, unsteady: set[str]) -> MetricDifference | None:
    return next((found for found in _metrics(whole, resumed, cut) if found.name not in unsteady), None)


def _metrics(one: Records, other: Records, start: int) -> Iterator[MetricDifference]:
    """Yield what was put differently from iteration ``start`` on, the earliest first."""
    for key in sorted({*one, *other}):
        iteration, _, name = key
        values = one.get(key), other.get(key)
        if iteration >= start and repr(values[0]) != repr(values[1]):
            yield MetricDifference(iteration, name, *values)
