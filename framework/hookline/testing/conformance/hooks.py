"""What is asked of a hook plugin, by training with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from hookline.errors import PluginError, notes
from hookline.plugins import HookCall
from hookline.purity import RANDOM, Change, described, observe
from hookline.testing.conformance.bench import Bench, Outcome, Records, record_difference, training_difference
from hookline.testing.conformance.subject import refused
from hookline.trainer import SimpleTrainer

__all__ = ["never_waits", "observes", "repeats", "resumes", "runs", "works_twice"]

_OF_AN_ITERATION = ("before_step", "after_backward", "after_step")


def runs(bench: Bench) -> None:
    """Check that a run with the plugin ends well."""
    try:
        outcome = bench.whole
    except Exception as error:
        got = f"{type(error).__name__}: {error} {'; '.join(notes(error))}".rstrip()
        mend = "Mend what raised it, or give the plugin a trainer that has what it needs, as trainer="
        raise refused(bench.name, f"a run of {bench.max_iter} iterations to end well", got, mend) from error
    if outcome.num_iters < 2:
        got, mend = f"one that was {outcome.status} after {outcome.num_iters}", "Give it other options"
        raise refused(bench.name, "a run of at least 2 iterations", got, mend)


def repeats(bench: Bench) -> None:
    """Check that two runs that were begun alike are alike."""
    if parts := training_difference(bench.whole, bench.again):
        mend = "Draw random numbers from the seeded generators, or from one with a seed among the options"
        raise refused(
            bench.name, "two equal runs to end with the same state", f"other {described(parts)}", mend
        )
    if got := record_difference(bench.whole.records, bench.again.records):
        mend = (
            "Put what differs from run to run with volatile=True, and only as scalars; "
            "keep what belongs to an instance on self, not in its class or module"
        )
        raise refused(bench.name, "two equal runs to put the same", got, mend)


def resumes(bench: Bench) -> None:
    """Check that a run that is saved, and goes on in new objects, ends as one that never stopped."""
    name, plugin = bench.name, bench.subject.sample()
    methods = [method for method in ("state_dict", "load_state_dict") if hasattr(plugin, method)]
    if len(methods) == 1:
        mend = "Define both, or neither"
        raise refused(
            name, "state_dict and load_state_dict", f"{methods[0]} alone, which is never called", mend
        )
    middle = bench.whole.num_iters // 2
    before = bench.run(stop_at=middle)
    if before.checkpoint is None:
        raise refused(
            name, "a run that is paused to be saved", "no checkpoint", "Leave trainer.checkpointer as it is"
        )
    after = bench.run(resume=before.checkpoint)
    mend = (
        "Keep in state_dict all that later iterations depend on, and restore it in load_state_dict"
        if methods
        else "Give it state_dict and load_state_dict, with all that later iterations depend on"
    )
    expected = f"a run that is resumed at iteration {middle} to"
    early = {key: value for key, value in before.records.items() if key[0] < middle}
    if got := record_difference(bench.whole.records, {**early, **after.records}):
        raise refused(name, f"{expected} put what an uninterrupted one does", got, mend)
    if parts := training_difference(bench.whole, after):
        got = f"other {described(parts)}"
        raise refused(name, f"{expected} end as an uninterrupted one does", got, mend)
    if path := _changed_state(bench, after.states[name]):
        got = f"another {path!r} in its state_dict()"
        raise refused(name, f"{expected} end with the same state of the plugin", got, mend)


def observes(bench: Bench) -> None:
    """Check that a plugin that calls itself an observer changes nothing that training depends on."""
    if not getattr(bench.subject.sample(), "observer", False):
        return
    watches: list[Any] = []
    bench.run(prepare=lambda trainer: watches.append(observe(trainer, [bench.name])))
    for change in watches[0].changes:
        raise _impure(change)
    without = bench.without
    if parts := training_difference(without, bench.whole):
        got = f"other {described(parts)}, though no single call changed any"
        mend = "Look for what it replaces or registers: a hook of a module, an attribute of the trainer"
        raise refused(bench.name, "an observer to leave a run as it is without it", got, mend)
    # An observer may swap weights for an evaluation: then it is to measure something else.
    others = {key: value for key, value in without.records.items() if key[2] not in without.measured}
    with_it = {key: bench.whole.records[key] for key in others if key in bench.whole.records}
    if not bench.is_ended and (got := record_difference(others, with_it)):
        mend = "Put scalars under names of the plugin's own"
        raise refused(bench.name, "an observer to leave the scalars of others as they are", got, mend)


def works_twice(bench: Bench) -> None:
    """Check that two instances do not get in each other's way."""
    name = bench.name
    if bench.subject.is_module:
        return  # there is only one of it
    expected = "two instances under two names to work side by side"
    try:
        twin, again = bench.run(copies=2), bench.run(copies=2)
    except PluginError:
        return  # It says itself that, and why, there can be only one.
    except Exception as error:
        got = f"{type(error).__name__}: {error} {'; '.join(notes(error))}".rstrip()
        mend = (
            "Use self.name in the names of what it makes, or say in a PluginError why there can be only one"
        )
        raise refused(name, expected, got, mend) from error
    mend = "Keep what belongs to an instance on self, not in its class or module"
    if parts := training_difference(twin, again):
        raise refused(name, expected, f"other {described(parts)} in the second of two equal runs", mend)
    if got := record_difference(twin.records, again.records):
        raise refused(name, expected, f"{got} in the second of two equal runs", mend)
    if not bench.is_pure:
        return  # What it does to training it does twice.
    if parts := training_difference(bench.whole, twin):
        raise refused(name, expected, f"other {described(parts)} than with one", mend)
    for instance in twin.states:
        if got := record_difference(_own(bench.whole, name), _own(twin, instance, name)):
            own = f"{mend}, and put what is its own under self.name"
            raise refused(name, f"{expected}, {instance!r} as if it were alone", got, own)
    for instance, state in twin.states.items():
        if path := _changed_state(bench, state):
            raise refused(
                name, expected, f"another {path!r} in the state of {instance!r} than with one", mend
            )


def never_waits(bench: Bench) -> None:
    """Check, where there is CUDA, that the host does not wait for the device inside an iteration."""
    if not torch.cuda.is_available():
        return

    def prepare(trainer: SimpleTrainer) -> None:
        trainer.hooks.watch(lambda call: _without_waiting() if _is_watched(call, bench) else nullcontext())

    try:
        bench.run(device="cuda", prepare=prepare)
    except RuntimeError as error:
        if "synchroniz" not in str(error):
            raise
        got = f"a wait ({'; '.join(notes(error))})"
        mend = "Put tensors as they are, and read values (.item(), float(), .cpu(), if) from storage.history"
        raise refused(bench.name, "a hook of an iteration never to wait for the device", got, mend) from error


def _is_watched(call: HookCall, bench: Bench) -> bool:
    return call.plugin == bench.name and call.hook in _OF_AN_ITERATION


@contextmanager
def _without_waiting() -> Iterator[None]:
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _impure(change: Change) -> AssertionError:
    is_random = all(part.startswith(f"{RANDOM}/") for part in change.parts)
    mend = (
        "Draw from a torch.Generator or a random.Random of its own"
        if is_random
        else "Work on copies, and put back what it changes"
    )
    where = f"{change.plugin}.{change.hook} at iteration {change.iteration}"
    got = f"a change of {described(change.parts)}"
    return refused(
        where, "an observer to change nothing", got, f"{mend}; else it is no observer: remove the trait"
    )


def _own(outcome: Outcome, instance: str, name: str = "") -> Records:
    """Return what an instance put under its own name, as if that were ``name``."""
    prefix = f"{instance}/"
    return {
        (iteration, kind, f"{name or instance}/{put.removeprefix(prefix)}"): value
        for (iteration, kind, put), value in outcome.records.items()
        if put.startswith(prefix)
    }


def _changed_state(bench: Bench, state: dict[str, str]) -> str:
    """Return where ``state`` differs from that of the uninterrupted runs, leaving out where these do."""
    whole, again = bench.whole.states[bench.name], bench.again.states[bench.name]
    for path in {**whole, **state}:
        if whole.get(path) == again.get(path) and whole.get(path) != state.get(path):
            return path
    return ""
