"""A resumed trainer goes on at the very next batch, whatever loader it was given, and with its generators."""

from __future__ import annotations

import logging
import random
import re

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, WeightedRandomSampler

from hookline import Loader, hooks
from hookline.checkpoint import rng
from hookline.data import generators
from hookline.trainer.source import Source


class Numbers(Dataset):
    """Its samples also show the random numbers that they were made with."""

    def __init__(self, num: int = 10, generator=None):
        self.num, self.holder = num, {"generators": [generator]}

    def __len__(self):
        return self.num

    def __getitem__(self, index):
        (own,) = self.holder["generators"]
        draws = {
            torch.Generator: lambda: torch.rand((), generator=own).item(),
            np.random.Generator: lambda: own.random(),
            np.random.RandomState: lambda: own.random_sample(),
            random.Random: lambda: own.random(),
        }
        drawn = draws[type(own)]() if own is not None else 0.0
        return torch.tensor([index, torch.rand(()), np.random.rand(), random.random(), drawn])


class Plain(Numbers):
    def __getitem__(self, index):
        return torch.tensor([index])


class Stream(IterableDataset):
    def __iter__(self):
        return (torch.tensor([float(i), torch.rand(())]) for i in range(9))


class Weighted(WeightedRandomSampler):
    def __init__(self):
        super().__init__([1.0] * 10, 10)


class Shuffled(IterableDataset):
    """A stream that keeps some of what it has read, and draws from that."""

    def __iter__(self):
        store = []
        for number in range(9):
            store.append(torch.tensor([float(number)]))
            if len(store) == 4:
                yield store.pop(int(torch.randint(4, ())))
        yield from store


class Counting(RandomSampler):
    """Begins each epoch at another sample, and says which."""

    def __init__(self):
        super().__init__(Numbers())
        self.epoch = 0

    def __iter__(self):
        self.epoch += 1
        return iter([(self.epoch + number) % 10 for number in range(10)])

    def state_dict(self):
        return {"epoch": self.epoch}

    def load_state_dict(self, state):
        self.epoch = state["epoch"]


class Knowing:
    """A loader that knows its place, and draws a seed for each iterator that it makes."""

    def __init__(self):
        self.place = 0

    def __iter__(self):
        torch.rand(())
        return self._batches()

    def _batches(self):
        while self.place < 4:
            self.place += 1
            yield torch.tensor([self.place, torch.rand(())])
        self.place = 0

    def state_dict(self):
        return {"place": self.place}

    def load_state_dict(self, state):
        self.place = state["place"]


def seeded(seed=5):
    return torch.Generator().manual_seed(seed)


def torch_loader(dataset=None, **options):
    return DataLoader(dataset or Numbers(), 3, **options)


LOADERS = {
    "torch": lambda: torch_loader(shuffle=True),
    "torch_in_order": lambda: torch_loader(),
    "generator_of_the_loader": lambda: torch_loader(shuffle=True, generator=seeded()),
    "generator_of_the_sampler": lambda: torch_loader(
        sampler=RandomSampler(Numbers(), replacement=True, generator=seeded())
    ),
    "sampler_that_draws": lambda: torch_loader(sampler=Weighted()),
    "workers": lambda: torch_loader(shuffle=True, num_workers=2, generator=seeded()),
    "workers_that_stay": lambda: torch_loader(Plain(), shuffle=True, num_workers=1, persistent_workers=True),
    "stream": lambda: torch_loader(Stream()),
    "stream_with_a_store": lambda: torch_loader(Shuffled()),
    "sampler_with_a_state": lambda: torch_loader(sampler=Counting()),
    "loader_that_knows_its_place": Knowing,
    "hookline": lambda: Loader(Numbers(), batch_size=3, seed=2),
    "torch_generator_of_the_dataset": lambda: Loader(Numbers(generator=seeded()), batch_size=3),
    "numpy_generator_of_the_dataset": lambda: Loader(
        Numbers(generator=np.random.default_rng(1)), batch_size=3
    ),
    "older_numpy_generator": lambda: Loader(Numbers(generator=np.random.RandomState(1)), batch_size=3),
    "python_generator": lambda: torch_loader(Numbers(generator=random.Random(1)), shuffle=True),
}
BATCHES = 9  # more than two epochs of each


def seed_all():
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def drawn(source, num):
    """Yield ``num`` batches as a trainer draws them, which itself draws random numbers in between."""
    batches = None
    for _ in range(num):
        try:
            batch = next(batches) if batches is not None else next(batches := iter(source))
        except StopIteration:
            batch = next(batches := iter(source))
        torch.rand(2), random.random(), np.random.rand()
        for generator in generators(source.loader).values():
            if isinstance(generator, torch.Generator):
                torch.rand((), generator=generator)
        yield batch.tolist()


@pytest.mark.parametrize("name", LOADERS)
def test_every_place_is_taken_up_at_the_very_next_batch(name):
    seed_all()
    whole = Source(LOADERS[name]())
    expected, places = [], []
    for batch in drawn(whole, BATCHES):
        expected.append(batch)
        places.append((whole.state_dict(), rng.capture()))
    for number in (0, 4, 6) if "workers" in name else range(BATCHES - 1):
        seed_all()
        state, generators_then = places[number]
        resumed = Source(LOADERS[name]())
        resumed.load_state_dict(state)
        rng.restore(generators_then)
        assert [*drawn(resumed, BATCHES - 1 - number)] == expected[number + 1 :]


def test_a_place_that_was_loaded_is_the_place_until_it_is_left():
    seed_all()
    first, second = Source(LOADERS["torch"]()), Source(LOADERS["torch"]())
    assert first.state_dict()["num_batches"] == 0
    [*drawn(first, 2)]
    second.load_state_dict(first.state_dict())
    assert second.state_dict()["num_batches"] == 2


def test_batches_that_are_drawn_again_are_told(caplog):
    first, second = Source(LOADERS["torch"]()), Source(LOADERS["torch"]())
    [*drawn(first, 2)]
    second.load_state_dict(first.state_dict())
    with caplog.at_level(logging.INFO, "hookline"):
        next(iter(second))
    assert "Drawing the first 2 batches of this epoch again" in caplog.text


def test_an_epoch_that_became_shorter_is_told_and_the_next_one_begins(caplog):
    first, second = Source(torch_loader()), Source(torch_loader(Numbers(3)))
    [*drawn(first, 3)]
    second.load_state_dict(first.state_dict())
    ((first_of_next,),) = [[batch[0][0] for batch in drawn(second, 1)]]
    assert first_of_next == 0
    assert "has 1 batches now, of which 3 had been seen" in caplog.text


def test_another_kind_of_loader_begins_anew_and_is_told(caplog):
    for first, second in (("torch", "hookline"), ("hookline", "torch")):
        caplog.clear()
        source, other = Source(LOADERS[first]()), Source(LOADERS[second]())
        [*drawn(source, 2)]
        other.load_state_dict(source.state_dict())
        assert "another kind of data loader" in caplog.text
        assert other.state_dict() == Source(LOADERS[second]()).state_dict()


def test_a_generator_that_is_gone_or_new_is_told(caplog):
    with_it, without = LOADERS["torch_generator_of_the_dataset"], LOADERS["hookline"]
    for first, second, said in (
        (with_it, without, "which the data does not have now"),
        (without, with_it, "of which nothing was saved"),
    ):
        caplog.clear()
        Source(second()).load_state_dict(Source(first()).state_dict())
        assert "'dataset.holder.generators.0'" in caplog.text
        assert said in caplog.text


def test_batches_in_a_list_have_no_place():
    source = Source([1, 2])
    assert not source.is_resumable
    assert source.state_dict() == {"generators": {}}
    assert [*source] == [1, 2]


def test_generators_are_named_once_by_the_attributes_that_lead_to_them():
    shared = seeded()
    loader = torch_loader(Numbers(generator=shared), shuffle=True, generator=shared)
    assert [*generators(loader)] == ["generator"]


def test_what_holds_itself_or_very_much_is_no_trouble():
    dataset = Numbers()
    dataset.self, dataset.many, dataset.system = dataset, [seeded()] * 1000, random.SystemRandom()
    assert generators(dataset) == {}


@pytest.mark.parametrize(("num_now", "expected"), [(2, "second"), (3, "first")])
def test_each_rank_goes_on_in_its_own_place_and_new_ranks_in_that_of_the_first(
    make_trainer, monkeypatch, num_now, expected
):
    class Placed:
        place = "new"

        def __iter__(self):
            return iter([1])

        def state_dict(self):
            return {"place": self.place}

        def load_state_dict(self, state):
            self.place = state["place"]

    trainer = make_trainer()
    trainer.data_loader = Placed()
    ranks = [{"generators": {}, "loader": {"place": place}} for place in ("first", "second")]
    state = {**trainer.state_dict(), "data": {"ranks": ranks}}
    monkeypatch.setattr("hookline.distributed.world_size", lambda: num_now)
    monkeypatch.setattr("hookline.distributed.rank", lambda: 1)
    trainer.load_state_dict(state)
    assert trainer.data_loader.place == expected


def test_a_trainer_saves_the_place_of_the_loader_that_it_has_now(make_trainer):
    trainer = make_trainer()
    trainer.train(0, 3)
    assert trainer.state_dict()["data"]["ranks"][0]["loader"]["batch"] == 3
    trainer.reset_data_loader(lambda: [next(iter(trainer.data_loader))])
    assert not trainer.is_data_resumable
    trainer.train(3, 4)
    assert trainer.state_dict()["data"] == {"ranks": [{"generators": {}}]}


def test_microbatches_of_an_iteration_that_ends_in_the_next_epoch_are_not_seen_twice(make_trainer):
    def trainer():
        seed_all()
        made = make_trainer(accumulate=3)
        made.data_loader = torch_loader(shuffle=True, generator=seeded())
        made.run_step = lambda: seen.append([made._next_batch().tolist() for _ in range(3)])
        return made

    seen = []
    whole = trainer()
    whole.train(0, 6)
    expected, seen = seen, []
    first = trainer()
    first.train(0, 3)  # 9 batches of epochs of 4: the second iteration ends in the next epoch
    state = first.state_dict()
    second = trainer()
    second.load_state_dict(state)
    second.train(3, 6)
    assert seen == expected


@pytest.mark.parametrize(
    ("loader", "words"),
    [
        (lambda: [torch.ones(1)], "list has no state_dict: a resumed run will not see the same batches"),
        (
            lambda: Loader(Numbers(generator=torch.Generator()), batch_size=4, num_workers=1),
            r"dataset holds \(holder.generators.0\)",
        ),
        (lambda: torch_loader(num_workers=1, persistent_workers=True), "persistent_workers=True, so"),
        (lambda: Loader(Numbers(generator=torch.Generator()), batch_size=4), None),
        (lambda: Loader(Numbers(), batch_size=4, num_workers=1), None),
        (lambda: torch_loader(Numbers(generator=torch.Generator()), num_workers=1), None),
        (lambda: torch_loader(Numbers(generator=torch.Generator())), None),
    ],
)
def test_what_no_checkpoint_holds_of_a_loader_is_said(loader, words):
    assert re.search(words or "^$", Source(loader()).what_is_lost())


@pytest.mark.parametrize(("start_iter", "saves"), [(0, True), (3, True), (0, False)])
def test_it_is_said_once_in_a_run_that_saves_after_its_first_iteration(
    make_trainer, tmp_path, caplog, start_iter, saves
):
    told = []
    note = hooks.Callback(before_step=lambda trainer: told.append("has no state_dict" in caplog.text))
    trainer = make_trainer(*[hooks.Checkpoint(period=2)] * saves, note, run_dir=tmp_path)
    trainer.reset_data_loader(lambda: list(trainer.data_loader))
    trainer.train(start_iter, start_iter + 5)
    assert told == [False, *[saves] * 4]
    assert caplog.text.count("has no state_dict") == saves
