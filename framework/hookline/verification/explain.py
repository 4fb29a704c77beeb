"""What made two runs differ: the step of an iteration after which they do, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from hookline.purity import RANDOM, described, differences
from hookline.verification.attributes import otherwise
from hookline.verification.resume_report import Difference
from hookline.verification.resume_trial import Cast, Point, ResumeOutcome

__all__ = ["explained", "forgotten"]

Pair = tuple[ResumeOutcome, ResumeOutcome]

_MAX_CLUES = 5
_OWN = "hookline "  # how the source of hookline's own plugins begins
_RESUMED = ("in the uninterrupted run", "in the resumed one")
_EQUAL = ("in one run", "in the other")
_BEFORE = ("before_train", "after_load")  # only a run that begins calls them
_IN_RUN = ("trainer/start_iter", "trainer/stop_at")
_SEEDED = "Python's, NumPy's or torch's own generators"

# What to do where a part is not restored, by the first kind that it is of.
_NOT_RESTORED = {
    RANDOM: "Something draws between the restore and the first iteration: look for a thread",
    "buffers": "A buffer that no state_dict holds is lost: register it with persistent=True",
    "weights": "Let the model's state_dict and load_state_dict hold all of its parameters",
    "optimizer state": "Let the optimizer's state_dict hold all that an update depends on",
    "optimizer options": "Who changes an option of the optimizer changes it again in before_train",
    "data": "Let load_state_dict of the data loader lead to where state_dict was called",
    "plugin state": "Let load_state_dict restore all that state_dict returns, and before_train not reset it",
    "schedule": "Let state_dict of the schedule return all that load_state_dict needs",
}
_SET_AGAIN = "Who sets this in an iteration sets it again in before_train, from its state or the iteration"


@dataclass(frozen=True)
class _Step:
    """The step after which two runs differ.

    Args:
        plugin: Whose call it was; empty for a step of the trainer.
        hook: The call's hook, or ``load``, ``begin``, ``batch``, ``run_step``; empty where it is not known.
        parts: What differs after it.
    """

    plugin: str
    hook: str
    parts: tuple[str, ...] = ()


def explained(found: Difference, runs: Pair, traced: Pair, is_repeatable: bool) -> Difference:
    """Return ``found`` with its cause, with where to look and what to do.

    Args:
        found: The first difference.
        runs: The uninterrupted run and the other one, which differ.
        traced: The same again, in which the iteration that made the difference was looked at step by step.
        is_repeatable: Whether the second one is a resumed run; else both are equal, and differ all the same.
    """
    cast = runs[1].cast or runs[0].cast
    if cast is None:
        return found
    is_at_start = is_repeatable and bool(found.parts) and found.iteration == found.stopped_after
    step = _of_start(found, *traced) if is_at_start else _first_step(found, *traced)
    owner, name = _owner(step, cast)
    clues = _clues(runs, traced, found.stopped_after, owner, name, is_repeatable)
    others = _others(cast) if not clues and owner.startswith(("plugin:", "model")) else []
    for other, called in others:
        clues |= _clues(runs, traced, found.stopped_after, other, called, is_repeatable)
    cause, advice = _words(step, cast, clues, is_repeatable)
    return replace(found, cause=cause, clues=tuple(clues.values())[:_MAX_CLUES], advice=advice)


def forgotten(whole: ResumeOutcome, first: ResumeOutcome, resumed: ResumeOutcome, cut: int) -> list[str]:
    """Return what plugins without a state remember differently after a resume from which nothing came yet.

    Of those only that may change training, and are none of hookline's own.

    Args:
        whole: The uninterrupted run.
        first: One that is equal up to the stop: what differs in both is no clue.
        resumed: The resumed one.
        cut: After how many iterations it was stopped.
    """
    cast = resumed.cast
    if cast is None:
        return []
    names = [name for name in cast.source if name not in cast.stateful | cast.observers]
    found = []
    for name in (name for name in names if not cast.source[name].startswith(_OWN)):
        owner = f"plugin:{name}"
        noise = otherwise(whole.attributes.get(0, {}), first.attributes.get(0, {}), owner)
        clues = otherwise(whole.attributes.get(cut, {}), resumed.attributes.get(cut, {}), owner)
        found += [
            f"{_clue(name, path, values, _RESUMED)}; if anything depends on it, {name} needs state_dict"
            for path, values in clues.items()
            if path not in noise
        ]
    return found


def _of_start(found: Difference, one: ResumeOutcome, other: ResumeOutcome) -> _Step:
    """Return what made different what is so when the first iteration of a resumed run begins.

    A call before that iteration, if before it all was the same; else the last one that changed it before
    training; else the resume itself.
    """
    pairs = [*zip(*(_of_iteration(run.points) for run in (one, other)), strict=False)]
    begin = next((i for i, (a, _) in enumerate(pairs) if a.after == ("", "begin")), 0)
    last = begin
    while last and _unequal(pairs[last - 1], found.parts):
        last -= 1
    if last and pairs[last][1].after[1]:
        plugin, hook = pairs[last][1].after
        return _Step(plugin, hook, _unequal(pairs[last], found.parts))
    return _of_load(found, other)


def _of_iteration(points: Sequence[Point]) -> list[Point]:
    """Return the points of an iteration, without those of the start of a run."""
    starts = [i for i, point in enumerate(points) if point.after[1] in _BEFORE]
    return list(points[max(starts, default=-1) + 1 :])


def _unequal(pair: tuple[Point, Point], parts: Sequence[str]) -> tuple[str, ...]:
    a, b = pair
    return tuple(part for part in parts if a.state.get(part) != b.state.get(part))


def _of_load(found: Difference, resumed: ResumeOutcome) -> _Step:
    """Return which call, before training, last changed what is different when it begins."""
    last = _Step("", "load", found.parts)
    before: Mapping[str, str] | None = None
    for point in resumed.points:
        if before is not None and point.after[1] in _BEFORE:
            changed = {part for part in differences(before, point.state) if part in found.parts}
            if changed:
                plugin, hook = point.after
                last = _Step(plugin, hook, tuple(part for part in found.parts if part in changed))
        before = point.state
    return last


def _first_step(found: Difference, one: ResumeOutcome, other: ResumeOutcome) -> _Step:
    both = [_of_iteration(run.points) for run in (one, other)]
    replaced: tuple[str, ...] = ("gradients/", "data/batches")  # those of the iteration before
    for a, b in zip(*both, strict=False):
        if a.after != b.after:
            return _Step(*b.after)
        if a.after == ("", "batch"):
            replaced = replaced[:1]
        elif a.after == ("", "run_step"):
            replaced = ()
        parts = [part for part in differences(a.state, b.state) if not part.startswith((*_IN_RUN, *replaced))]
        if parts:
            return _Step(a.after[0], a.after[1], tuple(parts))
    if found.metric is not None:
        for point in both[1]:
            if found.metric.name in point.put:
                return _Step(*point.after)
    return _Step("", "")


def _owner(step: _Step, cast: Cast) -> tuple[str, str]:
    """Return whose attributes to look at, and what to call that one."""
    if step.plugin:
        return f"plugin:{step.plugin}", step.plugin
    if step.hook == "batch":
        return "data", cast.loader
    kinds = {part.partition("/")[0] for part in step.parts}
    if step.hook == "run_step" and cast.is_own_step:
        return "trainer", cast.trainer
    if step.hook == "run_step" and step.parts and not kinds & {"gradients", "buffers", RANDOM}:
        return "optimizer", cast.optimizer
    if step.hook == "load" and "plugin state" in kinds:
        name = next(part for part in step.parts if part.startswith("plugin state/"))
        name = name.partition("/")[2].partition(".")[0]
        return f"plugin:{name}", name
    if step.hook == "load" and kinds & {"data"}:
        return "data", cast.loader
    return "model", cast.model


def _clues(runs: Pair, traced: Pair, cut: int, owner: str, name: str, is_repeatable: bool) -> dict[str, str]:
    """Return in words what ``owner`` remembers differently, by path; not what differs in equal runs too."""
    one, other = (run.attributes.get(cut, {}) for run in runs)
    found = otherwise(one, other, owner)
    again = traced[0].attributes.get(cut)
    noise = otherwise(one, again, owner) if is_repeatable and again is not None else {}
    which = _RESUMED if is_repeatable else _EQUAL
    return {path: _clue(name, path, pair, which) for path, pair in found.items() if path not in noise}


def _clue(name: str, path: str, values: tuple[str, str], which: tuple[str, str]) -> str:
    a, b = values
    return f"{name}.{path} is {a}" if a == b else f"{name}.{path} is {a} {which[0]} and {b} {which[1]}"


def _others(cast: Cast) -> list[tuple[str, str]]:
    """Return who else may remember what a hook or a model goes by, and what to call it."""
    plugins = [name for name, source in cast.source.items() if not source.startswith(_OWN)]
    return [("trainer", cast.trainer), *((f"plugin:{name}", name) for name in plugins)]


def _words(step: _Step, cast: Cast, clues: Mapping[str, str], is_repeatable: bool) -> tuple[str, str]:
    """Return cause and advice."""
    if step.plugin:
        return _of_plugin(step, cast, clues, is_repeatable)
    if step.hook == "batch":
        return _of_data(cast, is_repeatable)
    if step.hook == "run_step":
        return _of_run_step(step, cast, is_repeatable)
    if step.hook in ("load", "begin") and step.parts:
        return _not_restored(step, cast)
    return (
        "no step of the iteration shows it",
        "Look for a thread, a hook on the model or a function that a plugin replaces",
    )


def _of_plugin(step: _Step, cast: Cast, clues: Mapping[str, str], is_repeatable: bool) -> tuple[str, str]:
    cause = f"{step.hook} of {step.plugin} ({cast.source.get(step.plugin, 'unknown')})"
    if not is_repeatable:
        return cause, f"Let it draw from {_SEEDED}, or give its generator a seed"
    if any(path.startswith("schedule.") for path in clues):
        return (
            cause,
            "Give the schedule state_dict and load_state_dict, or let it follow from the iteration alone",
        )
    if step.hook in _BEFORE:
        return cause, f"{step.hook} is called in a resumed run too: do not change there what was restored"
    if step.plugin in cast.stateful:
        return cause, f"Keep in state_dict of {step.plugin} all that later iterations depend on"
    return (
        cause,
        f"Give {step.plugin} state_dict and load_state_dict, with all that later iterations depend on",
    )


def _of_data(cast: Cast, is_repeatable: bool) -> tuple[str, str]:
    what = f"{cast.loader} of {cast.dataset}" if cast.dataset != cast.loader else cast.loader
    if not is_repeatable:
        advice = (
            "Something draws what nobody seeds, such as random.SystemRandom, os.urandom or numpy's "
            f"default_rng() without a seed. Let it draw from {_SEEDED}, or give it a seed"
        )
        return f"two equal runs read other batches from {what}", advice
    if not cast.is_resumable_loader:
        advice = (
            f"{cast.loader} has no state_dict and load_state_dict: give it both, or let data.train name the "
            "dataset, with a loader: beside it"
        )
        return f"the batch from {what}", advice
    if cast.num_workers:
        advice = f"Let {cast.dataset} draw from {_SEEDED}: in workers no other is seeded for each batch"
        return f"the batch from {what}", advice
    advice = (
        f"{cast.dataset} depends on more than the sample's index. Let it draw from {_SEEDED}, or from a "
        "torch.Generator, random.Random or numpy Generator that it holds as an attribute, which are saved"
    )
    return f"the batch from {what}", advice


def _of_run_step(step: _Step, cast: Cast, is_repeatable: bool) -> tuple[str, str]:
    same = "the same batch, weights and random numbers"
    if cast.is_own_step:
        cause = f"run_step of {cast.trainer}"
        advice = f"Keep in state_dict of {cast.trainer} all that later iterations depend on"
    elif _owner(step, cast)[0] == "optimizer":
        cause = f"{cast.optimizer} makes another update of the same gradients"
        advice = "Let its state_dict and load_state_dict hold all that an update depends on"
    else:
        cause = f"{cast.model} computes something else from {same}"
        advice = (
            "Keep what its forward remembers in a buffer (register_buffer), or in get_extra_state and "
            "set_extra_state; what a plugin put on it, in state_dict of the plugin"
        )
    if not is_repeatable:
        advice = f"On a GPU set train.deterministic=true; else let it draw from {_SEEDED}"
    return cause, advice


def _not_restored(step: _Step, cast: Cast) -> tuple[str, str]:
    kinds = [part.partition("/")[0] for part in step.parts]
    kind = next((kind for kind in _NOT_RESTORED if kind in kinds), "")
    parts = [part for part in step.parts if part.partition("/")[0] == kind] or step.parts
    lost = [part for part in parts if kind == "buffers" and part.partition("/")[2] not in cast.saved]
    cause = f"{described(lost or parts)} not restored"
    return cause, _NOT_RESTORED.get(kind, _SET_AGAIN) if kind != "buffers" or lost else _SET_AGAIN
