"""The author's kit: tiny runs, a writer in memory, plugins that make trouble, and the fixtures."""

import gc
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from torch import nn

import hookline.testing
from hookline import Delivery, EventStorage, PluginError, Run, RunError, WriterError
from hookline.errors import notes
from hookline.hooks import Checkpoint, Evaluate
from hookline.plugins.lint import HOOK_NAMES
from hookline.testing import (
    FailingHook,
    FailingWriter,
    HangingWriter,
    MemoryWriter,
    SlowHook,
    SlowWriter,
    TinyModel,
    tiny_data,
    tiny_trainer,
)


def weights(trainer):
    return torch.cat([value.detach().flatten().double() for value in trainer.model.state_dict().values()])


# -- the package ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", hookline.testing.__all__)
def test_every_public_name_is_there_and_documented(name):
    assert getattr(hookline.testing, name).__doc__
    assert name in dir(hookline.testing)


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'tiny_trainr'"):
        _ = hookline.testing.tiny_trainr


def test_importing_the_kit_and_its_pytest_plugin_imports_no_torch():
    code = "import sys, hookline.testing, hookline.testing.fixtures; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "pydantic", "yaml"} & set(done.stdout.split())


# -- the trainer ------------------------------------------------------------------------------------


def test_a_tiny_trainer_trains_to_its_max_iter_and_learns():
    writer = MemoryWriter()
    trainer = tiny_trainer(max_iter=60, writers=[writer])
    trainer.train()
    losses = [loss for _, loss in writer.scalars("total_loss")]
    assert (trainer.iter, trainer.status) == (60, "finished")
    assert sum(losses[-10:]) < sum(losses[:10]) / 2


@pytest.mark.parametrize("seed", [0, 1])
def test_trainers_made_alike_train_alike_and_those_of_another_seed_otherwise(seed):
    first, second = tiny_trainer(), tiny_trainer(seed=seed)
    for trainer in (first, second):  # each draws from the global generators: one after the other
        torch.manual_seed(seed)
        trainer.train()
    assert torch.equal(weights(first), weights(second)) is (seed == 0)


def test_the_seed_decides_the_weights():
    first, second, other = tiny_trainer(seed=3), tiny_trainer(seed=3), tiny_trainer(seed=4)
    assert torch.equal(weights(first), weights(second))
    assert not torch.equal(weights(first), weights(other))


def test_the_model_is_of_the_kind_whose_weights_show_what_a_plugin_disturbs():
    model = TinyModel()
    assert any(isinstance(module, nn.Dropout) for module in model.modules())
    assert any(isinstance(module, nn.BatchNorm1d) for module in model.modules())


def test_the_data_is_always_the_same():
    first, second = tiny_data(5), tiny_data(5)
    assert len(first) == 5
    assert all(torch.equal(a, b) for a, b in zip(first.tensors, second.tensors, strict=True))
    assert torch.equal(first[3][0], first.get_batch(torch.tensor([3]))[0][0])


def test_train_goes_on_where_the_run_stands():
    trainer = tiny_trainer(max_iter=6)
    trainer.stop_at = 2
    trainer.train()
    assert (trainer.iter, trainer.status) == (2, "paused")
    trainer.stop_at = None
    trainer.train()
    assert (trainer.start_iter, trainer.iter, trainer.status) == (2, 6, "finished")


def test_the_trainer_has_evaluation_data_and_a_run_directory(tmp_path):
    writer = MemoryWriter()
    hooks = Evaluate(period=2), Checkpoint(period=3)
    trainer = tiny_trainer(*hooks, max_iter=4, run_dir=tmp_path / "a" / "run", writers=[writer])
    trainer.train()
    assert [iteration for iteration, _ in writer.scalars("eval/total_loss")] == [1, 3]
    assert sorted(path.name for path in (tmp_path / "a" / "run" / "checkpoints").glob("iter*"))
    with pytest.raises(RunError, match="got the name 'test'"):
        trainer.evaluate("test")


def test_options_of_a_trainer_and_a_model_of_ones_own_are_taken():
    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.mean = nn.Parameter(torch.zeros(()))

        def forward(self, batch):
            return (batch[1] - self.mean).square().mean()

    trainer = tiny_trainer(model=Mean, accumulate=2, precision="bf16", log_period=7)
    trainer.train()
    assert trainer.model.mean.item() != 0
    assert (trainer.accumulate, trainer.precision, trainer.log_period) == (2, "bf16", 7)
    assert len(trainer.microbatches) == 2


def test_data_of_ones_own_is_trained_and_evaluated_on():
    sizes = []

    def constant(num_samples):
        sizes.append(num_samples)
        return torch.utils.data.TensorDataset(torch.ones(num_samples, 4), torch.ones(num_samples))

    trainer = tiny_trainer(Evaluate(), data=constant, max_iter=2)
    trainer.train()
    assert sorted(set(sizes)) == [20, 64]
    assert trainer.microbatches[0][1].tolist() == [1.0] * 8


def test_a_model_in_place_of_what_makes_it_is_refused():
    with pytest.raises(RunError, match="got a model .TinyModel.. Give what makes it, as in model=TinyModel"):
        tiny_trainer(model=TinyModel())


def test_writers_without_a_run_directory_get_a_folder_that_goes_with_the_trainer():
    writer = MemoryWriter()
    trainer = tiny_trainer(writers={"memory": writer}, max_iter=2)
    trainer.train()
    folder = writer.run.dir
    assert folder.is_dir()
    del trainer
    gc.collect()
    assert not folder.exists()


def test_hooks_are_registered_in_order_after_the_writers():
    first, second = SlowHook(seconds=0), FailingHook()
    trainer = tiny_trainer(first, second, writers=[MemoryWriter()])
    assert trainer.hooks.names() == ["writers", "SlowHook", "FailingHook"]


# -- the writer -------------------------------------------------------------------------------------


@pytest.fixture
def told(tmp_path):
    """A writer that was told of one iteration of each kind."""
    writer = MemoryWriter()
    with EventStorage() as storage, Delivery(storage, {"memory": writer}, Run(tmp_path, "r", "r")):
        storage.put_hparams({"lr": 0.5})
        storage.put_scalar("a", 1)
        storage.step()
        storage.put_scalars(a=2, b=3)
        storage.put_image("i", np.ones((1, 2, 2), np.uint8))
        storage.put_histogram("h", np.arange(4.0), bins=2)
        storage.put_text("t", "x")
        storage.step()
    return writer


def test_a_memory_writer_keeps_what_it_is_told_of_every_kind(told, tmp_path):
    assert told.iterations == [0, 1]
    assert told.names() == ["a", "b"]
    assert (told.scalars("a"), told.scalars("b")) == ([(0, 1.0), (1, 2.0)], [(1, 3.0)])
    ((iteration, image),) = told.images("i")
    assert (iteration, image.shape) == (1, (1, 2, 2))
    assert [(i, h.num) for i, h in told.histograms("h")] == [(1, 4)]
    assert (told.texts("t"), told.hparams) == ([(1, "x")], {"lr": 0.5})
    assert (told.status, told.run.dir) == ("finished", tmp_path)
    assert told.scalars("c") == []


def test_a_memory_writer_goes_back_to_a_position_also_one_of_another_object(told):
    told.load_state_dict({"last": 0})
    assert told.iterations == [0]
    assert told.state_dict() == {"last": 0}
    fresh = MemoryWriter()
    fresh.load_state_dict({"last": 7})
    assert (fresh.iterations, fresh.state_dict()) == ([], {"last": -1})
    assert MemoryWriter(position=False).state_dict() is None


# -- trouble ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("hook", HOOK_NAMES)
def test_a_failing_hook_implements_its_hook_and_no_other(hook):
    trainer = tiny_trainer(FailingHook(hook))
    assert [name for name in HOOK_NAMES if trainer.hooks.implements(name)] == [hook]


def test_a_failing_hook_fails_at_its_iteration_with_its_error():
    error = KeyError("this one")
    trainer = tiny_trainer(FailingHook("before_step", 3, error))
    with pytest.raises(KeyError) as raised:
        trainer.train()
    assert raised.value is error
    assert "FailingHook" in notes(error)[0]
    assert (trainer.iter, trainer.status) == (3, "failed")


def test_a_failing_hook_without_an_iteration_fails_at_once():
    trainer = tiny_trainer(FailingHook())
    with pytest.raises(RuntimeError, match="after_step was told to fail"):
        trainer.train()
    assert trainer.iter == 0


@pytest.mark.parametrize("kind", [FailingHook, SlowHook])
def test_a_hook_that_does_not_exist_is_refused(kind):
    with pytest.raises(PluginError, match=f"{kind.__name__}.hook: .*Did you mean 'after_step'"):
        kind("after_stp")


def test_a_slow_hook_takes_its_time():
    trainer = tiny_trainer(SlowHook("before_step", 0.01), max_iter=5)
    start = time.perf_counter()
    trainer.train()
    assert time.perf_counter() - start >= 0.05


def test_a_failing_writer_fails_at_its_calls_and_nothing_is_doubled_or_lost():
    writer = FailingWriter("write", calls=[0, 1])
    trainer = tiny_trainer(writers=[writer], max_iter=6)
    trainer.train()
    assert writer.iterations == list(range(6))
    assert writer.num_calls == 3
    assert trainer.gaps == []


@pytest.mark.parametrize("method", ["write", "state_dict", "close"])
def test_a_writer_that_always_fails_leaves_a_gap_and_the_weights_as_they_are(method, caplog):
    writer = FailingWriter(method, calls=None if method != "state_dict" else range(1, 100))
    trainer, plain = tiny_trainer(writers={"bad": writer}, max_iter=6), None
    trainer.train()
    (gap,) = trainer.gaps
    assert (gap.writer, gap.reason) == ("bad", "OSError: disk full")
    plain = tiny_trainer(max_iter=6)
    plain.train()
    assert torch.equal(weights(trainer), weights(plain))


def test_a_writer_whose_open_fails_ends_the_run():
    trainer = tiny_trainer(writers=[FailingWriter("open", error=ValueError("no key"))])
    with pytest.raises(WriterError, match="no key"):
        trainer.train()


def test_a_method_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="expected one of open, write, .*got 'wirte'"):
        FailingWriter("wirte")


def test_a_slow_writer_takes_its_time_and_gets_everything():
    writer = SlowWriter(0.02)
    tiny_trainer(writers=[writer], max_iter=5).train()
    assert (writer.iterations, writer.status) == ([0, 1, 2, 3, 4], "finished")
    start = time.perf_counter()
    writer.write([])
    assert time.perf_counter() - start >= 0.02


def test_a_hanging_writer_hangs_until_it_is_released():
    writer = HangingWriter()
    storage = EventStorage()
    delivery = Delivery(storage, {"hanging": writer}, Run(".", "r", "r"))
    delivery.open()
    storage.put_scalar("a", 1)
    storage.step()
    assert delivery.flush(timeout_s=0.05) is False
    assert writer.hangs.wait(10)
    writer.release()
    assert delivery.flush() is True
    assert delivery.close("finished") == []
    assert writer.iterations == [0]


# -- fixtures ---------------------------------------------------------------------------------------


def test_the_fixtures_are_there_without_an_import(hookline_trainer, hookline_run, hookline_writer, tmp_path):
    trainer = hookline_trainer(SlowHook(seconds=0), writers=[hookline_writer], max_iter=3)
    trainer.train()
    assert trainer.run_dir == hookline_run.dir == hookline_writer.run.dir == tmp_path / "run"
    assert hookline_writer.iterations == [0, 1, 2]
    assert hookline_run.dir.is_dir()
    assert hookline_trainer(run_dir=tmp_path / "other").run_dir == tmp_path / "other"
