from __future__ import annotations

import logging
import math

import pytest
import torch
from torch import nn

from hookline import HookBase, Loader, TrainerBase, checkpoint
from hookline.capsules import Capsule as Kept
from hookline.capsules import find, read, write
from hookline.errors import CheckpointError, ConfigError, NonFiniteError, PluginError, RunError, notes
from hookline.hooks import Capsule
from hookline.replay.result import Replay, verdict_of
from hookline.testing import tiny_trainer
from hookline.testing.tiny import TinyTrainer


class Scripted(nn.Module):
    """Returns as loss what is written down for each call, times a weight of 1."""

    script: dict[int, float] = {}

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.dropout = nn.Dropout(0.5)
        self.num_calls = 0

    def forward(self, batch):
        self.drawn = self.dropout(torch.ones(4))
        value = self.script.get(self.num_calls, 1.0)
        self.num_calls += 1
        return self.weight * 0 + value * (1 if math.isfinite(value) else self.weight)


def scripted(tmp_path, script, *hooks, **options):
    model = type("Model", (Scripted,), {"script": script})
    return tiny_trainer(*hooks, run_dir=tmp_path, model=model, **options)


def kept(tmp_path):
    return sorted(path.name for path in (tmp_path / "capsules").glob("iter_*"))


def test_a_healthy_run_keeps_nothing(tmp_path):
    trainer = scripted(tmp_path, {}, Capsule())
    trainer.train()
    assert not (tmp_path / "capsules").exists()
    assert trainer.on_drawn == []


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_loss_that_is_not_finite_is_kept_with_clean_weights(tmp_path, value, precision):
    trainer = scripted(tmp_path, {3: value}, Capsule(), precision=precision)
    with pytest.raises(NonFiniteError) as raised:
        trainer.train()
    capsule = read(tmp_path / "capsules" / "iter_0000003")
    assert (capsule.iteration, capsule.why, capsule.max_iter) == (3, "non-finite", 10)
    assert math.isnan(capsule.values["grad_norm"])
    assert capsule.weights["weight"] == trainer.model.weight
    assert f"hookline replay {tmp_path}/capsules/iter_0000003" in notes(raised.value)[-1]


def test_what_is_kept_is_the_batch_and_the_random_numbers_that_it_was_trained_with(tmp_path):
    trainer = scripted(tmp_path, {3: math.nan}, Capsule())
    with pytest.raises(NonFiniteError):
        trainer.train()
    capsule = read(tmp_path / "capsules" / "iter_0000003")
    (batch,) = capsule.batches
    assert all(map(torch.equal, batch, trainer.microbatches[0]))
    checkpoint.restore(capsule.rng)
    assert torch.equal(trainer.model.dropout(torch.ones(4)), trainer.model.drawn)
    x, _ = batch
    (sample,) = capsule.samples
    assert torch.equal(trainer.data_loader.dataset.tensors[0][sample["indices"]], x)


def test_samples_are_known_across_the_end_of_an_epoch(tmp_path):
    trainer = scripted(tmp_path, {8: math.nan}, Capsule(), accumulate=3)  # 8 batches an epoch
    with pytest.raises(NonFiniteError):
        trainer.train()
    capsule = read(tmp_path / "capsules" / "iter_0000002")
    assert [(one["epoch"], one["batch"]) for one in capsule.samples] == [(0, 6), (0, 7), (1, 0)]
    for batch, sample in zip(capsule.batches, capsule.samples, strict=True):
        assert torch.equal(trainer.data_loader.dataset.tensors[0][sample["indices"]], batch[0])


def test_a_run_that_may_skip_goes_on_and_keeps_the_first_of_each_series(tmp_path):
    script = {2: math.nan, 3: math.nan, 4: math.nan, 7: math.inf}
    trainer = scripted(tmp_path, script, Capsule(), max_skips=3)
    trainer.train()
    assert trainer.status == "finished"
    assert kept(tmp_path) == ["iter_0000002", "iter_0000007"]


def test_of_a_series_that_ends_the_run_the_first_one_is_named(tmp_path):
    trainer = scripted(tmp_path, {2: math.nan, 3: math.nan}, Capsule(), max_skips=1)
    with pytest.raises(NonFiniteError) as raised:
        trainer.train()
    assert raised.value.iteration == 3
    (note,) = notes(raised.value)
    assert note.startswith("The first one's batch is kept")
    assert note.endswith("iter_0000002")


def test_an_overflow_that_lowers_the_scale_is_ordinary(tmp_path):
    class Steep(Scripted):
        def forward(self, batch):
            return (self.weight * 1e35).float()  # its gradient times 65536 overflows

    trainer = tiny_trainer(Capsule(), run_dir=tmp_path, model=Steep, precision="fp16", max_iter=2)
    trainer.train()
    assert math.isinf(trainer.storage.history("grad_norm").values()[0][0])
    assert not (tmp_path / "capsules").exists()


@pytest.mark.parametrize(("precision", "iteration"), [("fp32", 0), ("bf16", 0), ("fp16", 40)])
def test_a_gradient_alone_that_is_not_finite_is_kept(tmp_path, precision, iteration):
    class Rooted(Scripted):
        def forward(self, batch):
            return (self.weight * 0).sqrt()  # 0, and its gradient is NaN

    trainer = tiny_trainer(Capsule(), run_dir=tmp_path, model=Rooted, precision=precision, max_iter=60)
    with pytest.raises(NonFiniteError):
        trainer.train()
    # With fp16 the scale is lowered as far as it goes before: it might have been to blame.
    capsule = read(tmp_path / "capsules" / f"iter_{iteration:07d}")
    assert capsule.values["total_loss"] == 0
    assert capsule.weights["weight"] == 1


def test_a_spike_is_a_loss_far_above_the_median_of_a_full_window(tmp_path):
    script = {1: 50.0, 5: 4.9, 6: 5.1, 7: 9.0, 9: 26.0}  # by then the median is 5
    scripted(tmp_path, script, Capsule(spike=5, window=4)).train()
    assert kept(tmp_path) == ["iter_0000006", "iter_0000009"]
    capsule = read(tmp_path / "capsules" / "iter_0000006")
    assert (capsule.why, capsule.median, capsule.values["total_loss"]) == ("spike", 1.0, pytest.approx(5.1))
    assert capsule.weights is None  # the update has changed them


def test_losses_below_zero_have_no_spike(tmp_path):
    scripted(tmp_path, {**dict.fromkeys(range(9), -1.0), 9: 5.0}, Capsule(spike=2, window=4)).train()
    assert kept(tmp_path) == []


def test_only_the_newest_are_kept(tmp_path):
    script = dict.fromkeys((1, 3, 5, 7), math.nan)
    scripted(tmp_path, script, Capsule(keep=2), max_skips=1).train()
    assert kept(tmp_path) == ["iter_0000005", "iter_0000007"]


def test_the_window_and_the_series_outlast_a_resume(tmp_path):
    whole = Capsule(spike=5, window=4)
    scripted(tmp_path / "whole", {4: 6.0, 5: 6.0}, whole, max_iter=8).train()
    hook = Capsule(spike=5, window=4)
    first = scripted(tmp_path / "parts", {4: 6.0}, hook, max_iter=8)
    first.stop_at = 5
    first.train()
    again = Capsule(spike=5, window=4)
    second = scripted(tmp_path / "parts", {0: 6.0}, again, max_iter=8)
    second.load_state_dict(first.state_dict())
    second.train()
    assert again.state_dict() == whole.state_dict()
    assert kept(tmp_path / "parts") == kept(tmp_path / "whole") == ["iter_0000004"]


def test_what_cannot_be_written_is_one_warning(tmp_path, caplog):
    (tmp_path / "capsules").write_text("in the way")
    trainer = scripted(tmp_path, {2: math.nan}, Capsule(), max_skips=1)
    with caplog.at_level(logging.WARNING, "hookline"):
        trainer.train()
    assert trainer.status == "finished"
    (text,) = [record.getMessage() for record in caplog.records if "could not be kept" in record.getMessage()]
    assert text.startswith("Iteration 2 (total_loss=nan, grad_norm=nan) could not be kept: ")


def test_a_capsule_that_could_not_be_written_is_not_named(tmp_path):
    (tmp_path / "capsules").write_text("in the way")
    with pytest.raises(NonFiniteError) as raised:
        scripted(tmp_path, {2: math.nan}, Capsule()).train()
    assert notes(raised.value) == []


def late(trainer, period):
    """Make values arrive when so many iterations have ended, as from a CUDA device."""
    storage, waiting = trainer.storage, []
    attach = storage.attach

    def attach_late(reader):
        def read_late(events):
            waiting.extend(events)
            if storage.iter % period == 0:
                reader(waiting[:])
                waiting.clear()

        attach(read_late)
        storage.detach = lambda _: None

    storage.attach = attach_late


def test_values_that_arrive_late_still_find_their_batch_and_leave_the_weights_out(tmp_path):
    seen = {}

    class Look(HookBase):
        def after_step(self):
            seen[self.trainer.iter] = self.trainer.microbatches[0][0].clone()

    trainer = scripted(tmp_path, {5: math.nan}, Look(), Capsule(), max_skips=1, max_iter=12)
    late(trainer, trainer.log_period)
    trainer.train()
    capsule = read(tmp_path / "capsules" / "iter_0000005")
    assert torch.equal(capsule.batches[0][0], seen[5])
    assert [one["batch"] for one in capsule.samples] == [5]
    assert capsule.weights is None


def test_values_that_arrive_far_too_late_are_a_warning(tmp_path, caplog):
    trainer = scripted(tmp_path, {1: math.nan}, Capsule(), log_period=1, max_skips=1, max_iter=12)
    late(trainer, 12)
    trainer.train()
    assert "could not be kept: Capsule: expected its batch to be at hand" in caplog.text


def test_of_a_trainer_that_has_more_than_a_model_the_weights_are_not_enough(tmp_path):
    class More(TinyTrainer):
        def state_dict(self):
            return super().state_dict()

    trainer = scripted(tmp_path, {2: math.nan}, Capsule(), max_skips=1)
    trainer.__class__ = More
    trainer.train()
    assert read(tmp_path / "capsules" / "iter_0000002").weights is None


def test_no_more_batches_are_held_than_values_are_awaited_for(tmp_path):
    hook = Capsule()
    trainer = scripted(tmp_path, {}, hook)
    held = []
    trainer.storage.attach(lambda events: held.append(len(hook._begun)))
    trainer.train()
    assert max(held) <= 1


def test_a_trainer_that_shows_no_batches_is_refused(tmp_path):
    class Bare(TrainerBase):
        def run_step(self):
            self.storage.put_scalar("total_loss", 1.0)

    trainer = Bare()
    trainer.run_dir = tmp_path
    trainer.register_hooks([Capsule()])
    with pytest.raises(PluginError, match="Capsule: expected a trainer that shows its batches, got Bare"):
        trainer.train(0, 2)


def test_a_trainer_without_the_kernel_is_looked_at_too(tmp_path):
    class Own(TrainerBase):
        model = nn.Linear(1, 1)

        def run_step(self):
            self.microbatches = [torch.rand(2)]
            self.storage.put_scalar("total_loss", math.nan if self.iter == 1 else 1.0)

    trainer = Own()
    trainer.run_dir = tmp_path
    trainer.register_hooks([Capsule()])
    trainer.train(0, 3)
    capsule = read(tmp_path / "capsules" / "iter_0000001")
    assert not capsule.is_drawn
    checkpoint.restore(capsule.rng)
    assert torch.equal(torch.rand(2), capsule.batches[0])
    assert capsule.weights is None  # nobody says that they are clean


def test_without_a_run_directory_a_folder_is_asked_for(tmp_path):
    with pytest.raises(RunError, match="expected a folder for capsules"):
        tiny_trainer(Capsule()).train()
    model = type("Model", (Scripted,), {"script": {1: math.nan}})
    with pytest.raises(NonFiniteError):
        tiny_trainer(Capsule(dir=str(tmp_path / "here")), model=model).train()
    assert read(tmp_path / "here" / "iter_0000001").config is None


def test_a_trainer_can_train_again(tmp_path):
    trainer = scripted(tmp_path, {12: math.nan}, Capsule(), max_iter=20, max_skips=1)
    trainer.train(0, 5)
    trainer.train(5, 15)
    assert kept(tmp_path) == ["iter_0000012"]


@pytest.mark.parametrize(
    "options", [{}, {"shuffle": False}, {"drop_last": True}, {"rank": 1, "world_size": 2}]
)
def test_a_loader_tells_the_samples_of_any_batch(options):
    data = torch.arange(21)
    loader = Loader(data, batch_size=4, **options)
    for epoch in range(2):
        for number, batch in enumerate(list(loader)):
            position = loader.state_dict()
            assert torch.equal(loader.indices_of(epoch, number), batch)
            assert loader.state_dict() == position
    for number in (len(loader), -1, 1.0):
        with pytest.raises(ConfigError, match=f"expected one of 0 to {len(loader) - 1}"):
            loader.indices_of(0, number)


def a_capsule(**changed):
    return Kept(**{
        "iteration": 4, "why": "spike", "values": {"total_loss": 2.5}, "max_iter": 9,
        "batches": [{"x": torch.ones(2)}], "rng": checkpoint.capture(), **changed,
    })  # fmt: skip


def test_a_capsule_comes_back_as_it_was_written(tmp_path):
    written = a_capsule(samples=[{"epoch": 0, "batch": 3, "indices": torch.arange(2)}], checkpoint="a/b")
    back = read(write(tmp_path, written))
    assert (back.values, back.checkpoint, back.weights) == (written.values, "a/b", None)
    assert torch.equal(back.batches[0]["x"], torch.ones(2))
    assert torch.equal(back.samples[0]["indices"], torch.arange(2))


def test_the_weights_of_another_rank_are_those_of_rank_0(tmp_path):
    weights = {"weight": torch.ones(3)}
    write(tmp_path, a_capsule(weights=weights))
    other = write(tmp_path / "rank_1", a_capsule(rank=1, world_size=2))
    alone = write(tmp_path / "rank_1", a_capsule(rank=1, world_size=2, iteration=5))
    assert torch.equal(read(other).weights["weight"], weights["weight"])
    assert read(alone).weights is None


def test_the_newest_capsule_of_a_folder_is_found(tmp_path):
    for iteration in (3, 12):
        newest = write(tmp_path / "capsules", a_capsule(iteration=iteration))
    assert find(tmp_path) == find(tmp_path / "capsules") == find(newest) == newest
    with pytest.raises(
        CheckpointError, match=r"got 'nothing there'\. .*capsules has iter_0000003, iter_0000012"
    ):
        find(tmp_path / "capsules" / "iter_0000004")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="got 'a directory without one'"):
        find(tmp_path / "empty")


@pytest.mark.parametrize(
    "forged",
    [
        {"values": {"total_loss": "1"}},
        {"samples": [{"epoch": 0}]},
        {"samples": [], "batches": "text"},
        {"config": 3},
        {"median": "none"},
    ],
)
def test_a_forged_capsule_is_refused(tmp_path, forged):
    with pytest.raises(CheckpointError, match="expected a whole capsule, got 'another"):
        read(write(tmp_path, a_capsule(**forged)))


def test_what_only_calls_itself_a_capsule_is_refused(tmp_path):
    path = checkpoint.save(tmp_path, 4, {"capsule": {"version": 1}})
    with pytest.raises(CheckpointError, match="expected a whole capsule, got .*missing"):
        read(path)


def test_a_batch_in_a_dict_that_no_file_can_hold_is_stored_as_its_tensors(tmp_path):
    back = read(write(tmp_path, a_capsule(batches=[{(1, 2): torch.ones(2)}])))
    assert back.unstored == "dict"
    assert torch.equal(back.batches[0][0], torch.ones(2))


@pytest.mark.parametrize(
    ("now", "verdict", "shown"),
    [
        ({"total_loss": 2.5}, "equal", "2.5, as recorded"),
        ({"total_loss": 2.5001}, "close", "2.5001, close to the 2.5 that was recorded"),
        ({"total_loss": 2.6}, "differs", "2.6, differs from what was recorded: 2.5"),
        ({"total_loss": math.nan}, "differs", "nan, differs from what was recorded: 2.5"),
        ({}, "differs", "nan, differs from what was recorded: 2.5"),
    ],
)
def test_what_an_iteration_measures_is_held_against_what_was_recorded(tmp_path, now, verdict, shown):
    found = Replay(tmp_path, a_capsule(), values=now)
    assert (verdict_of(found), found.shown("total_loss")) == (verdict, shown)


def test_a_capsule_of_another_version_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("hookline.capsules._VERSION", 7)
    path = write(tmp_path, a_capsule())
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="expected a capsule of version 1, got 7"):
        read(path)


def test_every_rank_keeps_its_own_batch_and_rank_0_the_weights(tmp_path, monkeypatch):
    (tmp_path / "checkpoints/iter_0000001").mkdir(parents=True)
    for rank in range(2):
        monkeypatch.undo()
        trainer = scripted(tmp_path, {3: math.nan}, Capsule(), seed=rank, max_iter=4, max_skips=1)
        monkeypatch.setenv("WORLD_SIZE", "2")  # they have not joined each other
        monkeypatch.setenv("RANK", str(rank))
        checkpoint.write_pointer(tmp_path / "checkpoints", "latest", tmp_path / "checkpoints/iter_0000001")
        trainer.train()
        folder = tmp_path / "capsules" / f"rank_{rank}" if rank else tmp_path / "capsules"
        capsule = read(folder / "iter_0000003")
        assert (capsule.rank, capsule.world_size) == (rank, 2)
        assert capsule.checkpoint == ("checkpoints/iter_0000001" if rank else None)  # rank 0 has saved none
        assert all(map(torch.equal, capsule.batches[0], trainer.microbatches[0]))
        assert capsule.weights["weight"] == 1
        assert (folder / "iter_0000003" / "weights.json").exists() == (rank == 0)
