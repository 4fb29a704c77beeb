"""A loss, a gradient or a metric that is not finite leaves everything that trains as it was, to the bit."""

from __future__ import annotations

import copy
import itertools
import json
import math
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from hookline import HookBase, NonFiniteError, SimpleTrainer
from hookline.hooks import Capsule, PeriodicWriter
from hookline_json import JSONWriter

PRECISIONS = ("fp32", "bf16", "fp16")
ACCUMULATE = (1, 3)
NUM_ITERS = 8


class Net(nn.Module):
    """Has buffers of batch norm; the loss says of each batch what is wrong with it.

    A batch is ``(x, y, kind)``; ``kind`` is empty where all is well.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, batch):
        x, y, kind = batch
        self.seen += x.detach().mean()
        # Small, so that a healthy gradient is within the range of fp16 at the loss scale that it begins with.
        loss = 0.001 * (self.layers(x).squeeze(1) - y).square().mean()
        return loss + WRONG[kind](self.layers[0].weight) if kind else loss


WRONG = {
    "loss NaN": lambda weight: weight.sum() * math.nan,
    "loss Inf": lambda weight: weight.sum().exp() + math.inf,
    # Finite, but with a slope that is not: the root of zero.
    "gradient Inf": lambda weight: (weight - weight.detach()).sum().clamp(min=0).sqrt(),
    "gradient NaN": lambda weight: (weight - weight.detach()).square().sum().sqrt(),
}


class Watch(HookBase):
    """Keeps all that trains as it was after every iteration."""

    def __init__(self) -> None:
        self.states = []

    def after_step(self) -> None:
        trainer = self.trainer
        self.states.append(
            copy.deepcopy((trainer.model.state_dict(), trainer.optimizer.state_dict()["state"]))
        )


@dataclass
class Cell:
    """One way of being not finite, in one set-up; ``run`` trains with the iterations ``bad`` spoilt."""

    kind: str
    precision: str
    accumulate: int
    fused: bool

    def __str__(self) -> str:
        return f"{self.kind}, {self.precision}, accumulate {self.accumulate}, fused {self.fused}"

    @property
    def is_overflow(self) -> bool:
        """Whether it looks as if the loss scale of fp16 were too high: skipped, but nobody's fault."""
        return self.precision == "fp16" and self.kind.startswith("gradient")

    def trainer(self, bad, *hooks, max_skips=0):
        torch.manual_seed(0)
        model = Net()
        trainer = SimpleTrainer(
            model,
            self.batches(bad),
            torch.optim.AdamW(model.parameters(), lr=0.01, fused=self.fused),
            precision=self.precision,
            accumulate=self.accumulate,
            max_skips=max_skips,
        )
        trainer.log_period = 1
        trainer.register_hooks(hooks)
        return trainer

    def batches(self, bad):
        """Return batches, of which the last of each iteration in ``bad`` has what ``kind`` says."""
        generator = torch.Generator().manual_seed(0)
        made = []
        for iteration in range(NUM_ITERS):
            for microbatch in range(self.accumulate):
                x = torch.randn(6, 4, generator=generator)
                is_bad = iteration in bad and microbatch == self.accumulate - 1
                made.append((x, x.sum(1), self.kind if is_bad else ""))
        return made


CELLS = [Cell(*each) for each in itertools.product(WRONG, PRECISIONS, ACCUMULATE, (True, False))]


@pytest.fixture
def cells(size):
    """Return all of them, or in the quick form those in which each two of the four differ together."""
    kinds, precisions = list(WRONG), list(PRECISIONS)
    return [
        cell
        for cell in CELLS
        if (kinds.index(cell.kind) + precisions.index(cell.precision) + cell.accumulate // 2 + cell.fused)
        % size(2, 1)
        == 0
    ]


def same(one, two):
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, tuple):
        return all(map(same, one, two))
    return torch.equal(one, two)


def finite(state):
    if isinstance(state, dict):
        return all(map(finite, state.values()))
    return all(map(finite, state)) if isinstance(state, tuple) else bool(state.isfinite().all())


def test_weights_optimizer_and_buffers_are_as_they_were(cells, record):
    failures = []
    for cell in cells:
        watch = Watch()
        cell.trainer({3, 5, 6}, watch, max_skips=NUM_ITERS).train(0, NUM_ITERS)
        states = watch.states
        wrong = [i for i in range(1, NUM_ITERS) if same(states[i], states[i - 1]) != (i in {3, 5, 6})]
        if wrong or not finite(states[-1]):
            failures.append(f"{cell}: iterations {wrong}")
    record(
        "NaN or Inf in loss or gradient: what trains",
        trials=len(cells),
        passed=len(cells) - len(failures),
        outcome="weights, optimizer and buffers are those of the iteration before, to the bit",
    )
    assert failures == []


def test_the_first_iteration_may_be_the_bad_one(cells):
    for cell in cells:
        watch = Watch()
        trainer = cell.trainer({0}, watch, max_skips=1)
        before = copy.deepcopy(trainer.model.state_dict())
        trainer.train(0, NUM_ITERS)
        assert same(watch.states[0][0], before), cell
        assert not same(watch.states[1][0], before), cell
        assert finite(watch.states[-1]), cell


@pytest.mark.parametrize(("max_skips", "bad", "ends_at"), [(0, {2, 4}, 2), (2, {1, 2, 4, 5, 6}, 6)])
def test_the_run_ends_when_more_in_a_row_are_skipped_than_is_allowed(max_skips, bad, ends_at, cells, record):
    failures = []
    for cell in cells:
        watch = Watch()
        trainer = cell.trainer(bad, watch, max_skips=max_skips)
        try:
            trainer.train(0, NUM_ITERS)
            got = None
        except NonFiniteError as error:
            got = error.iteration, error.num_skipped
        expected = None if cell.is_overflow else (ends_at, max_skips + 1)
        status = "finished" if cell.is_overflow else "failed"
        last = watch.states[ends_at - 1 - max_skips]
        is_clean = cell.is_overflow or same((trainer.model.state_dict(), last[1]), last)
        if got != expected or trainer.status != status or not is_clean:
            failures.append(f"{cell}: {got} instead of {expected}, {trainer.status}, clean: {is_clean}")
    record(
        f"NaN or Inf in loss or gradient: max_skips={max_skips}",
        trials=len(cells),
        passed=len(cells) - len(failures),
        outcome="ends at the right iteration; in fp16 a gradient beyond its range only lowers the loss scale",
    )
    assert failures == []


def test_a_capsule_keeps_the_iteration_that_went_wrong(tmp_path, cells, record):
    failures = []
    for number, cell in enumerate(cells):
        trainer = cell.trainer({3, 5}, Capsule(), max_skips=1)
        trainer.run_dir = tmp_path / str(number)
        trainer.run_dir.mkdir()
        trainer.train(0, NUM_ITERS)
        kept = sorted(path.name for path in trainer.run_dir.glob("capsules/iter_*"))
        if kept != ([] if cell.is_overflow else ["iter_0000003", "iter_0000005"]):
            failures.append(f"{cell}: {kept}")
    record(
        "NaN or Inf in loss or gradient: capsules",
        trials=len(cells),
        passed=len(cells) - len(failures),
        outcome="a capsule of each such iteration; none where only the loss scale of fp16 was too high",
    )
    assert failures == []


class Puts(HookBase):
    """Puts a metric that is not finite, from a hook and from an evaluation."""

    def __init__(self, value: float) -> None:
        self.value = value

    def before_train(self) -> None:
        self.trainer.evaluations["check"] = lambda: {"check/score": self.value}

    def after_step(self) -> None:
        self.trainer.storage.put_scalar(
            "mine", torch.tensor(self.value) if self.trainer.iter % 2 else self.value
        )
        self.trainer.request_evaluation("check")


@pytest.mark.parametrize(
    ("value", "said"), [(math.nan, "NaN"), (math.inf, "Infinity"), (-math.inf, "-Infinity")]
)
def test_a_metric_that_is_not_finite_reaches_the_journal_and_ends_nothing(value, said, tmp_path, record):
    failures = []
    for number, (precision, accumulate) in enumerate(itertools.product(PRECISIONS, ACCUMULATE)):
        cell = Cell("loss NaN", precision, accumulate, fused=True)
        trainer = cell.trainer({4}, PeriodicWriter({"json": JSONWriter()}), Puts(value), max_skips=1)
        trainer.run_dir = tmp_path / str(number)
        trainer.run_dir.mkdir()
        trainer.train(0, NUM_ITERS)
        lines = [json.loads(line) for line in (trainer.run_dir / "metrics.jsonl").read_text().splitlines()]
        metrics = [(line["mine"], line["check/score"]) for line in lines]
        losses = [line["iteration"] for line in lines if line["total_loss"] == "NaN"]
        if metrics != [(said, said)] * NUM_ITERS or losses != [4] or trainer.status != "finished":
            failures.append(f"{precision}, accumulate {accumulate}: {metrics}, {losses}, {trainer.status}")
    record(
        f"{said} in a metric",
        trials=len(PRECISIONS) * len(ACCUMULATE),
        passed=len(PRECISIONS) * len(ACCUMULATE) - len(failures),
        outcome=f'the journal has "{said}", training goes on',
    )
    assert failures == []
