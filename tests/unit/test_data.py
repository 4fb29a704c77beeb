import os
import random
import signal

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, StackDataset, Subset, TensorDataset, default_collate

from hookline.data import Loader, build_loader
from hookline.data.batches import batch_maker
from hookline.errors import CheckpointError, ConfigError, RunError


class Numbers:
    """Item i is the number i."""

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return index


class Noise(Numbers):
    """Random numbers from each of the three global generators."""

    def __getitem__(self, index):
        return torch.tensor([torch.rand(()).item(), np.random.rand(), random.random()], dtype=torch.float64)


def epoch(loader):
    return [batch.tolist() for batch in loader]


def samples(batches):
    return [sample for batch in batches for sample in batch]


def test_an_epoch_holds_every_sample_once_and_the_next_has_another_order():
    loader = Loader(Numbers(10), batch_size=4)
    first, second = epoch(loader), epoch(loader)
    assert [len(batch) for batch in first] == [4, 4, 2]
    assert sorted(samples(first)) == sorted(samples(second)) == list(range(10))
    assert first != second


def test_the_order_depends_on_seed_and_epoch_alone():
    torch.manual_seed(1)
    first = [epoch(loader) for loader in [Loader(Numbers(50), batch_size=8, seed=3)] * 2]
    torch.manual_seed(2)
    second = [epoch(loader) for loader in [Loader(Numbers(50), batch_size=8, seed=3)] * 2]
    assert first == second
    assert epoch(Loader(Numbers(50), batch_size=8, seed=4)) not in first


@pytest.mark.parametrize("num_workers", [0, 1])
def test_nothing_is_drawn_from_global_generators(num_workers):
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    epoch(Loader(Numbers(4), batch_size=2, num_workers=num_workers))
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


def test_without_shuffle_samples_come_by_index():
    assert epoch(Loader(Numbers(5), batch_size=2, shuffle=False)) == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize(("drop_last", "expected"), [(False, 4), (True, 3)])
def test_length_is_the_number_of_batches_of_an_epoch(drop_last, expected):
    loader = Loader(Numbers(10), batch_size=3, drop_last=drop_last)
    assert len(loader) == len(epoch(loader)) == expected


@pytest.mark.parametrize("num_yielded", range(9))
def test_a_resumed_loader_goes_on_at_the_very_next_batch(num_yielded):
    whole = Loader(Numbers(10), batch_size=3, seed=5)
    expected = epoch(whole) + epoch(whole) + epoch(whole)
    stopped = Loader(Numbers(10), batch_size=3, seed=5)
    seen = []
    while len(seen) < num_yielded:
        for batch in stopped:
            seen.append(batch.tolist())
            if len(seen) == num_yielded:
                break
    resumed = Loader(Numbers(10), batch_size=3, seed=6)
    resumed.load_state_dict(stopped.state_dict())
    while len(seen) < len(expected):
        seen += epoch(resumed)
    assert seen == expected


def test_an_iteration_that_was_left_is_taken_up_where_it_was():
    loader = Loader(Numbers(6), batch_size=2, shuffle=False)
    assert next(iter(loader)).tolist() == [0, 1]
    assert epoch(loader) == [[2, 3], [4, 5]]


def test_rewound_loader_begins_again_at_its_first_epoch():
    loader = Loader(Numbers(6), batch_size=2)
    first = epoch(loader)
    next(iter(loader))
    loader.rewind()
    assert epoch(loader) == first


def test_batches_that_workers_fetched_ahead_do_not_count_as_seen():
    loader = Loader(Numbers(12), batch_size=2, num_workers=1)
    expected = epoch(Loader(Numbers(12), batch_size=2))
    batches = iter(loader)
    assert [next(batches).tolist() for _ in range(2)] == expected[:2]
    assert loader.state_dict() == {"epoch": 0, "batch": 2, "num_batches": 6, "seed": 0}
    assert epoch(loader) == expected[2:]


def test_workers_stay_from_epoch_to_epoch_and_give_the_same_batches():
    here, there = Loader(Numbers(7), batch_size=2), Loader(Numbers(7), batch_size=2, num_workers=2)
    for _ in range(3):
        assert epoch(there) == epoch(here)
    assert len(there._workers._loader._iterator._workers) == 2


class Deadly(Numbers):
    def __getitem__(self, index):
        os.kill(os.getpid(), signal.SIGKILL)


class Unreachable(Numbers):
    def __getitem__(self, index):
        raise ConnectionResetError("the server is gone")


def test_a_worker_that_dies_is_an_error_that_says_so():
    with pytest.raises(
        RunError, match=r"expected 1 processes that load, got one that died \(DataLoader worker"
    ):
        epoch(Loader(Deadly(4), batch_size=2, num_workers=1))


def test_an_error_of_the_dataset_stays_what_it_is_in_a_worker():
    with pytest.raises(ConnectionResetError, match="the server is gone"):
        epoch(Loader(Unreachable(4), batch_size=2, num_workers=1))


def test_random_augmentation_in_workers_is_the_same_after_a_resume_and_for_any_number_of_workers():
    expected = epoch(Loader(Noise(8), batch_size=2, num_workers=2, seed=1))
    resumed = Loader(Noise(8), batch_size=2, num_workers=1, seed=1)
    resumed.load_state_dict({"epoch": 0, "batch": 1, "num_batches": 4})
    assert epoch(resumed) == expected[1:]
    assert len({number for sample in samples(expected) for number in sample}) == 24
    assert epoch(resumed) != expected


@pytest.mark.parametrize("options", [{}, {"drop_last": True}, {"shuffle": False}])
def test_ranks_together_see_what_one_process_with_a_bigger_batch_sees(options):
    whole = epoch(Loader(Numbers(24), batch_size=6, **options))
    ranks = [
        epoch(Loader(Numbers(24), batch_size=2, rank=rank, world_size=3, **options)) for rank in range(3)
    ]
    assert [sorted(samples(batches)) for batches in zip(*ranks, strict=True)] == [
        sorted(batch) for batch in whole
    ]


@pytest.mark.parametrize(
    ("num_samples", "drop_last"), [(1, False), (4, False), (10, False), (12, False), (10, True), (12, True)]
)
def test_padded_ranks_have_equally_many_samples(num_samples, drop_last):
    options = {"batch_size": 2, "world_size": 3, "drop_last": drop_last}
    loaders = [Loader(Numbers(num_samples), rank=rank, **options) for rank in range(3)]
    epochs = [epoch(loader) for loader in loaders]
    assert len({len(loader) for loader in loaders} | {len(batches) for batches in epochs}) == 1
    assert len({tuple(len(batch) for batch in batches) for batches in epochs}) == 1
    seen = [sample for batches in epochs for sample in samples(batches)]
    if drop_last:
        assert len(seen) == len(set(seen)) == num_samples // 6 * 6
    else:
        assert set(seen) == set(range(num_samples))
        assert len(seen) - num_samples < 3


@pytest.mark.parametrize("num_samples", [1, 4, 10])
def test_without_padding_no_sample_is_seen_twice(num_samples):
    loaders = [Loader(Numbers(num_samples), batch_size=2, rank=r, world_size=3, pad=False) for r in range(3)]
    epochs = [epoch(loader) for loader in loaders]
    assert sorted(s for batches in epochs for s in samples(batches)) == list(range(num_samples))
    assert [len(loader) for loader in loaders] == [len(batches) for batches in epochs]


def test_an_epoch_of_another_length_goes_on_at_the_same_share_and_says_so(caplog):
    loader = Loader(Numbers(20), batch_size=1)
    loader.load_state_dict({"epoch": 3, "batch": 5, "num_batches": 10})
    assert loader.state_dict() == {"epoch": 3, "batch": 10, "num_batches": 20, "seed": 0}
    assert "20 batches now, 10 when the state was saved" in caplog.text


@pytest.mark.parametrize("state", [{"epoch": 1}, {"epoch": "x", "batch": 1, "num_batches": 1}, None])
def test_a_state_of_something_else_is_refused(state):
    with pytest.raises(
        CheckpointError, match=r"data loader: expected a state with epoch, batch and num_batches"
    ):
        Loader(Numbers(2), batch_size=1).load_state_dict(state)


def test_a_dataset_makes_its_own_batches_with_get_batch():
    class InMemory(Numbers):
        def get_batch(self, indices):
            assert indices.dtype == torch.int64
            return {"double": indices * 2}

        def __getitems__(self, indices):
            raise AssertionError

    for num_workers in (0, 1):
        loader = Loader(InMemory(3), batch_size=2, shuffle=False, num_workers=num_workers)
        assert [batch["double"].tolist() for batch in loader] == [[0, 2], [4]]


def test_getitems_gives_samples_that_are_collated():
    class Listed(Numbers):
        def __getitems__(self, indices):
            assert isinstance(indices, list)
            return [{"x": index + 0.5} for index in indices]

    (batch,) = Loader(Listed(2), batch_size=2, shuffle=False)
    assert batch["x"].tolist() == [0.5, 1.5]


ROWS = {
    "float32": torch.arange(42.0).view(7, 3, 2),
    "numbers": torch.arange(7),
    "bool": torch.arange(7) % 2 == 0,
    "bfloat16": torch.arange(14.0).view(7, 2).bfloat16(),
    "channels last": torch.arange(84.0).view(7, 3, 2, 2).to(memory_format=torch.channels_last),
    "every other column": torch.arange(28.0).view(7, 4)[:, ::2],
    "one row for all": torch.arange(3.0).expand(7, 3),
}
IN_MEMORY = {
    "tensor": ROWS["float32"],
    "tensors": TensorDataset(*ROWS.values()),
    "stack": StackDataset(*ROWS.values()),
    "named": StackDataset(**ROWS),
    "nested": StackDataset(pair=TensorDataset(*[ROWS["numbers"]] * 2), alone=StackDataset(ROWS["bool"])),
    "subset": Subset(TensorDataset(*ROWS.values()), [4, -1, 0, 4, 2]),
    "subset of a subset": Subset(Subset(TensorDataset(ROWS["numbers"]), range(1, 6)), np.array([3, 0, -1])),
}


@pytest.fixture
def no_single_samples(monkeypatch):
    def refused(self, index):
        raise AssertionError(f"{type(self).__name__} was read sample by sample")

    for cls in (TensorDataset, StackDataset, Subset):
        monkeypatch.setattr(cls, "__getitem__", refused)
        monkeypatch.setattr(cls, "__getitems__", refused, raising=False)


@pytest.mark.parametrize("name", IN_MEMORY)
def test_datasets_in_memory_are_indexed_to_just_what_collated_samples_are(name, request):
    dataset = IN_MEMORY[name]
    expected = list(DataLoader(dataset, batch_size=2))
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(1)).tolist()
    expected_shuffled = default_collate([dataset[index] for index in order])
    request.getfixturevalue("no_single_samples")
    batches = list(Loader(dataset, batch_size=2, shuffle=False))
    assert_same_batch(batches, expected)
    assert_same_batch(batch_maker(dataset)(torch.tensor(order)), expected_shuffled)


def assert_same_batch(ours, theirs):
    assert type(ours) is type(theirs)
    if isinstance(theirs, torch.Tensor):
        assert (ours.dtype, ours.device, ours.stride()) == (theirs.dtype, theirs.device, theirs.stride())
        assert torch.equal(ours, theirs)
    else:
        assert len(ours) == len(theirs)
        for key in theirs if isinstance(theirs, dict) else range(len(theirs)):
            assert_same_batch(ours[key], theirs[key])


def test_workers_index_what_is_in_memory_too(no_single_samples):
    dataset = Subset(TensorDataset(torch.arange(8)), [7, 6, 5, 4])
    loader = Loader(dataset, batch_size=3, shuffle=False, num_workers=1)
    assert [batch[0].tolist() for batch in loader] == [[7, 6, 5], [4]]


def test_tensors_on_a_device_are_indexed_there(no_single_samples):
    (batch,) = Loader(TensorDataset(torch.ones(4, 2, device="meta")), batch_size=4)
    assert (batch[0].device.type, batch[0].shape) == ("meta", (4, 2))


def test_gradients_flow_into_tensors_that_are_indexed():
    table = torch.ones(4, 2, requires_grad=True)
    for batch in Loader(TensorDataset(table), batch_size=2):
        batch[0].sum().backward()
    assert torch.equal(table.grad, torch.ones(4, 2))


def test_a_subset_whose_indices_change_is_read_anew_in_the_next_epoch():
    subset = Subset(TensorDataset(torch.arange(8)), [0, 1])
    loader = Loader(subset, batch_size=2, shuffle=False)
    assert [batch[0].tolist() for batch in loader] == [[0, 1]]
    subset.indices = [5, 7]
    assert [batch[0].tolist() for batch in loader] == [[5, 7]]


class Doubled(TensorDataset):
    def __getitem__(self, index):
        return tuple(2 * part for part in super().__getitem__(index))


class Halves(TensorDataset):
    def get_batch(self, indices):
        return self.tensors[0][indices] / 2


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [
        (Doubled(torch.arange(3)), [torch.tensor([0, 2, 4])]),
        (Subset(Doubled(torch.arange(4)), [1, 2, 3]), [torch.tensor([2, 4, 6])]),
        (
            StackDataset(Doubled(torch.arange(3)), torch.arange(3)),
            [[torch.tensor([0, 2, 4])], torch.arange(3)],
        ),
        (Halves(torch.arange(3)), torch.tensor([0.0, 0.5, 1.0])),
        (TensorDataset(nn.Parameter(torch.arange(3.0))), [torch.arange(3.0)]),
        (Subset(Numbers(9), [8, 3, 5]), torch.tensor([8, 3, 5])),
    ],
)
def test_a_dataset_that_only_resembles_one_in_memory_is_asked_for_its_samples(dataset, expected):
    (batch,) = Loader(dataset, batch_size=3, shuffle=False)
    assert_same_batch(batch, expected)


def test_an_epoch_of_many_batches_is_whole_and_can_be_taken_up_anywhere():
    dataset = TensorDataset(torch.arange(1801))
    expected = [batch[0].tolist() for batch in Loader(dataset, batch_size=3, seed=2)]
    assert [len(batch) for batch in expected] == [3] * 600 + [1]
    assert sorted(samples(expected)) == list(range(1801))
    for number in (255, 256, 511, 599, 600):
        resumed = Loader(dataset, batch_size=3, seed=2)
        resumed.load_state_dict({"epoch": 0, "batch": number, "num_batches": 601})
        assert [batch[0].tolist() for batch in resumed] == expected[number:]


class Pinned:
    """Stands for a tensor in page-locked memory, which there is none of without CUDA."""


def test_pinning_memory_without_workers_reaches_every_tensor(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: Pinned())

    class Mixed(Numbers):
        def get_batch(self, indices):
            return {"pair": (indices, "text"), "more": [indices]}

    (batch,) = Loader(Mixed(2), batch_size=2, pin_memory=True)
    assert isinstance(batch["pair"][0], Pinned)
    assert batch["pair"][1] == "text"
    assert isinstance(batch["more"][0], Pinned)


def test_pinning_memory_without_cuda_has_no_effect_and_no_warning(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert epoch(Loader(Numbers(2), batch_size=2, shuffle=False, pin_memory=True)) == [[0, 1]]


@pytest.mark.parametrize(
    ("size", "options", "message"),
    [
        (0, {"batch_size": 1}, "loader.dataset: expected at least one sample, got 0"),
        (3, {"batch_size": 0}, "loader.batch_size: expected a whole number >= 1, got 0"),
        (3, {"batch_size": 2.5}, "loader.batch_size: expected a whole number >= 1, got 2.5"),
        (3, {"batch_size": "4"}, "loader.batch_size: expected a whole number >= 1, got '4'"),
        (
            3,
            {"batch_size": 1, "num_workers": True},
            "loader.num_workers: expected a whole number >= 0, got True",
        ),
        (3, {"batch_size": 1, "rank": "0"}, "loader.rank: expected a rank below world_size"),
        (3, {"batch_size": 1, "num_workers": -1}, "loader.num_workers: expected a whole number >= 0, got -1"),
        (
            3,
            {"batch_size": 1, "rank": 2, "world_size": 2},
            r"loader.rank: expected a rank below world_size \(2\)",
        ),
        (
            3,
            {"batch_size": 4, "drop_last": True},
            "at least one full batch, got 4. The dataset has 3 samples",
        ),
        (
            7,
            {"batch_size": 4, "drop_last": True, "world_size": 2},
            "one full batch on each of 2 ranks, got 4",
        ),
    ],
)
def test_what_gives_no_batch_is_refused_at_once(size, options, message):
    with pytest.raises(ConfigError, match=message):
        Loader(Numbers(size), **options)


def test_all_problems_are_reported_together():
    with pytest.raises(ConfigError) as caught:
        Loader(Numbers(0), batch_size=0, num_workers=-1)
    assert len(caught.value.problems) == 3


def test_a_dataset_and_options_become_a_loader():
    loader = build_loader(
        Numbers(4), {"batch_size": 1, "shuffle": False}, seed=7, rank=1, world_size=2, pad=False
    )
    assert isinstance(loader, Loader)
    assert (loader.seed, loader.pad, epoch(loader)) == (7, False, [[1], [3]])


@pytest.mark.parametrize("source", [Numbers(3), [1, 2, 3]])
def test_a_dataset_without_options_is_refused(source):
    with pytest.raises(ConfigError, match=r"data\.train: expected a 'loader' for the dataset .*batch_size"):
        build_loader(source, where="data.train")


class Stream(IterableDataset):
    def __iter__(self):
        return iter([torch.zeros(2)])

    def __len__(self):
        return 1


def test_what_yields_batches_is_taken_as_it_is():
    for source in (DataLoader(Numbers(3)), Stream()):
        assert build_loader(source) is source


def test_options_for_what_yields_batches_are_refused():
    with pytest.raises(
        ConfigError, match=r"data\.eval: expected no 'loader' for Stream, .* got \{'batch_size': 2\}"
    ):
        build_loader(Stream(), {"batch_size": 2}, where="data.eval")


def test_what_is_neither_is_refused():
    with pytest.raises(ConfigError, match="expected a dataset with __getitem__ and __len__, or an iterable"):
        build_loader(object())


def test_a_wrong_option_is_named_with_its_key():
    with pytest.raises(ConfigError, match=r"data\.train: loader\.batch_size: expected a whole number >= 1"):
        build_loader(Numbers(3), {"batch_size": 0}, where="data.train")
