"""What is said of a difference, by the step after which two runs differ; whole checks are in tests/integration."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hookline.verification import Difference
from hookline.verification.explain import explained
from hookline.verification.resume_trial import Cast, Point, ResumeOutcome

CAST = Cast(
    model="Net",
    optimizer="SGD",
    loader="Loader",
    dataset="Images",
    is_resumable_loader=True,
    num_workers=0,
    source={"mine": "./mine.py"},
    stateful=frozenset(),
    observers=frozenset(),
    saved=frozenset(["linear.weight"]),
    trainer="DefaultTrainer",
    is_own_step=False,
)
BATCH = ("", "batch")
STEP = ("", "run_step")


def runs(*steps, cast=CAST):
    """Return two runs in which each part of ``steps``, by what has just happened, differs from there on."""
    points = [[], []]
    for number, (after, part) in enumerate(steps):
        for which in (0, 1):
            before = points[which][-1].state if points[which] else {}
            points[which].append(
                Point(after, {**before, part: f"{which}{number}"} if part else before, frozenset())
            )
    return tuple(ResumeOutcome(cast=cast, points=each) for each in points)


def say(found, *steps, cast=CAST, is_repeatable=True):
    traced = runs(*steps, cast=cast)
    return explained(found, traced, traced, is_repeatable)


LATER = Difference(2, 3, ("weights/linear.weight",))
START = Difference(2, 2, ("buffers/linear.mean",))


@pytest.mark.parametrize(
    ("found", "steps", "cast", "cause", "advice"),
    [
        (LATER, [(BATCH, "data/batches")], {}, "the batch from Loader of Images", "that it holds as an attribute"),
        (LATER, [(BATCH, "data/batches")], {"num_workers": 2}, "the batch from", "in workers no other is seeded"),
        (LATER, [(BATCH, "data/batches")], {"is_resumable_loader": False}, "the batch", "Loader has no state_dict"),
        (LATER, [(BATCH, ""), (STEP, "gradients/linear.weight")], {}, "Net computes something else", "register_buffer"),
        (LATER, [(BATCH, ""), (STEP, "weights/linear.weight")], {}, "SGD makes another update", "Let its state_dict"),
        (LATER, [(BATCH, ""), (STEP, "weights/w")], {"is_own_step": True}, "run_step of Def", "Keep in state_dict of"),
        (LATER, [(BATCH, ""), (("mine", "after_step"), "weights/w")], {}, "after_step of mine (./mine.py)", "Give mine"),
        (LATER, [(BATCH, ""), (("mine", "after_step"), "w")], {"stateful": frozenset(["mine"])}, "", "Keep in state_dict"),
        (LATER, [(BATCH, ""), (STEP, "")], {}, "no step of the iteration shows it", "Look for a thread"),
        (START, [], {}, "buffers (linear.mean) not restored", "register it with persistent=True"),
        (replace(START, parts=("weights/linear.weight",)), [], {}, "weights (linear.weight) not", "hold all of its"),
        (replace(START, parts=("training mode/a",)), [], {}, "training mode (a) not restored", "sets it again in"),
    ],
)  # fmt: skip
def test_cause_and_advice_follow_from_the_first_step_that_differs(found, steps, cast, cause, advice):
    told = say(found, *steps, cast=replace(CAST, **cast))
    assert cause in told.cause
    assert advice in told.advice


def test_two_equal_runs_are_told_of_seeds():
    assert "default_rng() without a seed" in say(LATER, (BATCH, "data/batches"), is_repeatable=False).advice
    assert (
        "train.deterministic=true" in say(LATER, (BATCH, ""), (STEP, "weights/w"), is_repeatable=False).advice
    )


def test_runs_of_which_nothing_is_known_are_told_as_they_are():
    assert explained(LATER, *[(ResumeOutcome(), ResumeOutcome())] * 2, is_repeatable=True) == LATER
