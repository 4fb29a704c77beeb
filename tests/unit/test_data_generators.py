"""The random generators that data holds: where they are found, and how they go on."""

from __future__ import annotations

import random
from collections import defaultdict, deque
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from hookline.data import load_generators, state_of_generators
from hookline.data.generators import generators


class Holder:
    def __init__(self, **held):
        vars(self).update(held)

    def method(self):
        pass


class Slots:
    __slots__ = ("never_set", "rng")

    def __init__(self, rng):
        self.rng = rng


class Noise(nn.Module):
    def __init__(self, rng):
        super().__init__()
        self.rng = rng


def nested(rng, depth):
    holder = Holder(rng=rng)
    for _ in range(depth - 1):
        holder = Holder(inner=holder)
    return holder


FOUND = {
    "an attribute": lambda rng: Holder(rng=rng),
    "a module": lambda rng: Holder(transform=Noise(rng)),
    "a module in a module": lambda rng: nn.Sequential(nn.ReLU(), nn.Sequential(Noise(rng))),
    "a partial": lambda rng: partial(print, 1, [rng]),
    "a partial of a keyword": lambda rng: partial(print, rng=rng),
    "a bound method": lambda rng: Holder(transform=Holder(rng=rng).method),
    "its own method": lambda rng: Holder(draw=rng.normal),
    "slots": lambda rng: Holder(transform=Slots(rng)),
    "a deque": lambda rng: deque([Holder(rng=rng)]),
    "a dict": lambda rng: defaultdict(list, a=[rng]),
    "a list of 64": lambda rng: [*range(63), rng],
    "8 levels": lambda rng: nested(rng, 8),
    "many plain values": lambda rng: Holder(
        by_class={c: [(f"{i}.png", c) for i in range(40)] for c in range(60)}, transforms=Holder(all=[rng])
    ),
}
HIDDEN = {
    "a closure": lambda rng: Holder(transform=lambda: rng),
    "a set": lambda rng: {Holder(rng=rng)},
    "a list of 65": lambda rng: [*range(64), rng],
    "9 levels": lambda rng: nested(rng, 9),
    "an array of objects": lambda rng: np.array([Holder(rng=rng)], dtype=object),
}


@pytest.mark.parametrize("where", FOUND)
def test_a_generator_is_found_in(where):
    rng = np.random.default_rng(1)
    assert list(generators(FOUND[where](rng)).values()) == [rng]


@pytest.mark.parametrize("where", HIDDEN)
def test_a_generator_is_not_looked_for_in(where, caplog):
    assert generators(HIDDEN[where](np.random.default_rng(1))) == {}
    assert not caplog.records


def test_those_of_the_process_are_no_ones():
    held = Holder(a=random.gauss, b=np.random.uniform, c=torch.default_generator, d=random.random)
    assert generators(held) == {}
    assert generators(random.SystemRandom()) == {}


def test_where_it_gives_up_is_told_once(caplog):
    class Many(Holder):
        pass

    for _ in range(2):
        held = [[Holder() for _ in range(60)] for _ in range(20)]
        assert generators(Many(objects=held, last=Holder(inner=Holder(a=Holder(rng=random.Random(1)))))) == {}
    (line,) = caplog.messages
    assert line.startswith("data: a random generator was looked for in 1000 objects of ")
    assert "Many, which has more" in line


DRAWS = {
    "torch": (lambda: torch.Generator().manual_seed(1), lambda rng: torch.rand(1, generator=rng).item()),
    "numpy": (lambda: np.random.default_rng(1), lambda rng: rng.normal()),
    "numpy's children": (lambda: np.random.default_rng(1), lambda rng: rng.spawn(2)[1].normal()),
    "numpy's bits": (lambda: np.random.PCG64(1), lambda bits: bits.random_raw()),
    "numpy's seeds": (
        lambda: np.random.SeedSequence(1),
        lambda seeds: seeds.spawn(1)[0].generate_state(1)[0],
    ),
    "numpy's legacy": (lambda: np.random.RandomState(1), lambda rng: rng.normal()),
    "python": (lambda: random.Random(1), lambda rng: rng.random()),
}


@pytest.mark.parametrize("kind", DRAWS)
def test_a_generator_goes_on_where_it_was(kind):
    make, draw = DRAWS[kind]
    first, second = make(), make()
    draw(first)
    state = state_of_generators(Holder(rng=first))
    load_generators(Holder(rng=second), state)
    assert [draw(first) for _ in range(3)] == [draw(second) for _ in range(3)]
