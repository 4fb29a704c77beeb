"""With ``background`` training stops only for a copy; what is written, told and raised is as without it."""

import errno
import json
import os
import signal
import threading
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
import torch

from hookline import CheckpointError, HookBase, RunError, hooks
from hookline.checkpoint import host_copy, in_background, load, newest_valid, snapshot, verify, write, writing
from hookline.rundir import RunDir


class Told(HookBase):
    """Keeps what after_save was called with, when, and on which thread."""

    def __init__(self):
        self.calls = []

    def after_save(self, path):
        assert verify(path)
        assert threading.current_thread() is threading.main_thread()
        self.calls.append((path.name, self.trainer.iter))


class Gate:
    """Holds up every write until it is opened."""

    def __init__(self, monkeypatch):
        self.opened, self.num_begun, self.error = threading.Event(), 0, None
        self.most, self.num_inside = 0, 0
        real = hooks.checkpoint.store.write
        monkeypatch.setattr(hooks.checkpoint.store, "write", lambda *args, **kw: self.pass_on(real, args, kw))

    def pass_on(self, real, args, kwargs):
        self.num_begun += 1
        self.num_inside += 1
        self.most = max(self.most, self.num_inside)
        try:
            assert self.opened.wait(20)
            if self.error is not None:
                raise self.error
            return real(*args, **kwargs)
        finally:
            self.num_inside -= 1


@pytest.fixture
def gate(monkeypatch):
    return Gate(monkeypatch)


def names(root):
    return sorted(path.name for path in (root / "checkpoints").iterdir())


def at(iteration, do):
    def after_step(trainer):
        if trainer.iter == iteration:
            do()

    return hooks.Callback(after_step=after_step)


class TestSnapshot:
    def test_a_copy_is_not_changed_by_what_training_does_next(self, tmp_path):
        weight, array, history = torch.ones(4, 2).t(), np.ones(3), [1, [2]]
        state = {"model": {"w": weight, "again": weight, "none": torch.empty(0)}, "hooks": [array, history]}
        state["model"]["odd"] = torch.ones(2, dtype=torch.complex128)
        taken = snapshot(3, state, to_host=host_copy.HostCopy())
        for value in (weight, array, state["model"]["odd"]):
            value *= 0
        history[1].append(3)
        loaded = load(write(tmp_path, taken))
        assert torch.equal(loaded["model"]["w"], torch.ones(2, 4))
        assert loaded["model"]["w"].stride() == weight.stride()
        assert loaded["model"]["again"] is loaded["model"]["w"]
        assert torch.equal(loaded["model"]["odd"], torch.ones(2, dtype=torch.complex128))
        assert loaded["hooks"][0].tolist() == [1, 1, 1]
        assert loaded["hooks"][1] == [1, [2]]

    def test_it_gives_the_same_files_as_one_that_shares(self, tmp_path):
        state = {"model": torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2)).state_dict()}
        shared, copied = (
            write(tmp_path / str(number), snapshot(1, state, to_host=to_host))
            for number, to_host in enumerate((None, host_copy.HostCopy()))
        )
        assert verify(shared).files == verify(copied).files

    def test_tensors_of_a_device_are_copied_into_pinned_memory_and_waited_for_once(self, monkeypatch):
        """A stand-in for the device; tests/gpu has a real one."""
        events, empty = [], torch.empty

        class OnDevice:
            is_cuda, shape, dtype, device = True, torch.Size([2]), torch.float32, torch.device("cuda", 1)

        class Host:
            shape, dtype = torch.Size([2]), torch.float32

            def copy_(self, source, non_blocking):
                events.append(("copy", non_blocking))
                return self

        class Stream:
            def synchronize(self):
                events.append("wait")

        def pinned(shape, dtype, pin_memory):
            events.append(("empty", pin_memory))
            return Host() if pin_memory else empty(shape, dtype=dtype)

        monkeypatch.setattr(torch, "empty", pinned)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: events.append(device) or Stream())
        copy = host_copy.HostCopy()
        assert isinstance(copy(OnDevice()), Host)
        copy(OnDevice())
        on_host = copy(torch.ones(2))
        copy.wait()
        assert on_host.tolist() == [1.0, 1.0]
        copy.begin()
        copy(OnDevice())
        copy.wait()
        assert events == [
            ("empty", True),
            ("empty", True),
            ("empty", False),
            ("copy", True),
            ("copy", True),
            torch.device("cuda", 1),
            "wait",
            ("copy", True),
            torch.device("cuda", 1),
            "wait",
        ]

    def test_the_memory_of_copies_is_used_again_for_tensors_of_the_same_form(self):
        copy = host_copy.HostCopy()
        first = [copy(torch.full(shape, 1.0)) for shape in ((2,), (3,), (4,))]
        copy.begin()
        second = [copy(torch.full(shape, 2.0)) for shape in ((2,), (5,), (4,), (6,))]
        copy.wait()
        places = [[value.data_ptr() for value in values] for values in (first, second)]
        assert [old == new for old, new in zip(*places, strict=False)] == [True, False, True]
        assert [value.tolist() for value in second] == [[2.0] * size for size in (2, 5, 4, 6)]
        copy.begin()
        assert copy(torch.ones(2, dtype=torch.float64)).dtype == torch.float64


class TestThread:
    def test_the_result_and_the_error_are_those_of_the_work(self):
        assert in_background(lambda: Path("x")).result(10) == Path("x")

        def fail():
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            in_background(fail).result(10)

    def test_it_does_not_keep_the_process_from_ending(self):
        threads = []
        in_background(lambda: threads.append(threading.current_thread())).result(10)
        assert threads[0].daemon


class TestRun:
    def test_it_writes_what_a_run_without_it_writes(self, make_trainer, tmp_path):
        for background in (False, True):
            run_dir = tmp_path / str(background)
            hook = hooks.Checkpoint(period=2, keep=0, background=background)
            make_trainer(hook, run_dir=run_dir).train(0, 7)
        assert names(tmp_path / "True") == names(tmp_path / "False")
        for name in ("iter_0000001", "iter_0000003", "iter_0000005", "iter_0000006"):
            files = [verify(tmp_path / kind / "checkpoints" / name).files for kind in ("True", "False")]
            for part in ("model.safetensors", "optimizer.safetensors", "rng.safetensors", "data.json"):
                assert files[0][part] == files[1][part]

    def test_training_goes_on_meanwhile_and_after_save_comes_when_it_is_durable(
        self, make_trainer, tmp_path, gate
    ):
        told, seen = Told(), []
        trainer = make_trainer(hooks.Checkpoint(period=3, background=True), told, run_dir=tmp_path)

        def look(trainer):
            seen.append((names(tmp_path), list(told.calls)))
            if trainer.iter == 4:  # the one of iteration 2 has waited through iteration 3
                gate.opened.set()
                trainer._saving.under_way.result(20)

        trainer.register_hooks([hooks.Callback(after_step=look)])
        trainer.train(0, 6)
        assert seen[3] == seen[4] == ([], [])
        assert seen[5] == (["iter_0000002", "latest"], [("iter_0000002", 4)])
        assert told.calls == [("iter_0000002", 4), ("iter_0000005", 5)]

    def test_one_is_written_at_a_time_and_the_next_waits(self, make_trainer, tmp_path, gate):
        told = Told()
        trainer = make_trainer(hooks.Checkpoint(period=1, keep=0, background=True), told, run_dir=tmp_path)
        threading.Timer(0.05, gate.opened.set).start()
        trainer.train(0, 5)
        assert (gate.num_begun, gate.most) == (5, 1)
        assert [name for name, _ in told.calls] == [f"iter_000000{iteration}" for iteration in range(5)]

    def test_the_hook_itself_waits_for_the_one_before_as_it_needs_the_copies(
        self, make_trainer, tmp_path, gate
    ):
        hook = hooks.Checkpoint(keep=0, background=True, dir=str(tmp_path))
        trainer = make_trainer(hook)
        weight = torch.ones(1000)
        first = hook.save(1, {"model": {"w": weight}}, ())
        threading.Timer(0.1, gate.opened.set).start()
        weight += 1
        second = hook.save(2, {"model": {"w": weight}}, ())
        assert first.done()
        assert (load(first.result())["model"]["w"] == 1).all()
        assert (load(second.result(20))["model"]["w"] == 2).all()
        assert trainer.status == "created"

    def test_its_error_ends_the_run_at_an_iteration_after_it(self, make_trainer, tmp_path, gate):
        gate.error = CheckpointError("the disk is gone")
        gate.opened.set()
        trainer = make_trainer(hooks.Checkpoint(period=2, background=True), run_dir=tmp_path)

        def wait(trainer):
            if trainer.iter == 2:
                with pytest.raises(CheckpointError):
                    trainer._saving.under_way.result(20)

        trainer.register_hooks([hooks.Callback(after_step=wait)])
        with pytest.raises(CheckpointError, match="the disk is gone"):
            trainer.train(0, 100)
        assert (trainer.status, trainer.iter) == ("failed", 2)

    def test_its_error_ends_the_run_at_the_end(self, make_trainer, tmp_path, gate):
        gate.error = CheckpointError("the disk is gone")
        gate.opened.set()
        told = Told()
        trainer = make_trainer(hooks.Checkpoint(background=True), told, run_dir=tmp_path)
        with pytest.raises(CheckpointError, match="the disk is gone"):
            trainer.train(0, 3)
        assert trainer.status == "failed"
        assert told.calls == []

    def test_a_run_that_fails_meanwhile_waits_for_it(self, make_trainer, tmp_path, gate):
        told = Told()

        def fail():
            threading.Timer(0.05, gate.opened.set).start()
            raise ValueError("first")

        trainer = make_trainer(
            hooks.Checkpoint(period=2, background=True), told, at(2, fail), run_dir=tmp_path
        )
        with pytest.raises(ValueError, match="first"):
            trainer.train(0, 9)
        assert told.calls == [("iter_0000001", 2)]

    def test_when_both_fail_the_first_error_is_raised_and_the_other_logged(
        self, make_trainer, tmp_path, gate, caplog
    ):
        gate.error = CheckpointError("the disk is gone")

        def fail():
            gate.opened.set()
            raise ValueError("first")

        trainer = make_trainer(hooks.Checkpoint(period=2, background=True), at(2, fail), run_dir=tmp_path)
        with pytest.raises(ValueError, match="first"):
            trainer.train(0, 9)
        assert "The last save failed" in caplog.text
        assert "the disk is gone" in caplog.text

    def test_a_process_that_is_killed_meanwhile_leaves_the_last_good_one(self, make_trainer, tmp_path):
        child = os.fork()
        if child == 0:
            calls, real = [], writing.verify

            def verify_or_die(path):
                calls.append(path)
                if len(calls) == 2:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(path)

            writing.verify = verify_or_die
            make_trainer(hooks.Checkpoint(period=2, background=True), run_dir=tmp_path).train(0, 99)
            os._exit(0)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        found, messages = newest_valid(tmp_path / "checkpoints")
        assert (found.name, messages) == ("iter_0000001", [])
        trainer = make_trainer(hooks.Checkpoint(background=True), run_dir=tmp_path)
        trainer.load_state_dict(load(found))
        trainer.train(2, 4)
        assert names(tmp_path) == ["iter_0000001", "iter_0000003", "latest"]

    def test_it_is_complete_before_after_train(self, make_trainer, tmp_path):
        seen = []
        trainer = make_trainer(hooks.Checkpoint(background=True), run_dir=tmp_path)
        trainer.register_hooks([hooks.Callback(after_train=lambda trainer: seen.append(names(tmp_path)))])
        trainer.train(0, 3)
        assert seen == [["iter_0000002", "latest"]]

    def test_best_is_pointed_at_it_only_when_it_is_durable(self, make_trainer, tmp_path, monkeypatch):
        pointed, real = [], writing.write_pointer

        def noted(root, name, target):
            pointed.append((name, newest_valid(root)[0] == target))
            real(root, name, target)

        monkeypatch.setattr(writing, "write_pointer", noted)
        monkeypatch.setattr(hooks.checkpoint.store, "write_pointer", noted)
        trainer = make_trainer(hooks.Checkpoint(background=True), run_dir=tmp_path)
        trainer.register_hooks(
            [hooks.Callback(after_step=lambda trainer: trainer.request_checkpoint("best"))]
        )
        trainer.train(0, 1)
        assert pointed == [("latest", True), ("best", True)]

    @pytest.mark.parametrize("background", [False, True])
    def test_how_long_an_iteration_stopped_is_told_in_the_next(self, make_trainer, tmp_path, background):
        events = []
        trainer = make_trainer(hooks.Checkpoint(period=2, background=background), run_dir=tmp_path)
        trainer.storage.attach(events.extend)
        trainer.train(0, 4)
        stalls = {
            e.iteration: e.scalars["checkpoint_stall_s"] for e in events if "checkpoint_stall_s" in e.scalars
        }
        assert list(stalls) == [2]
        assert stalls[2].volatile
        assert 0 < stalls[2].value < 20
        assert [event.iteration for event in events] == [0, 1, 2, 3]

    def test_what_a_trainer_of_ones_own_saves_with_may_return_a_path_or_a_future(
        self, make_trainer, tmp_path
    ):
        class Mine:
            def save(self, iteration, state, tags):
                done = Future()
                done.set_result(Path(f"there-{iteration}"))
                return done if iteration else Path("here")

        paths = []
        trainer = make_trainer(hooks.Callback(after_step=lambda trainer: trainer.request_checkpoint()))
        trainer.checkpointer = Mine()

        class Note(HookBase):
            def after_save(self, path):
                paths.append(str(path))

        trainer.register_hooks([Note()])
        trainer.train(0, 3)
        assert paths == ["here", "there-1", "there-2"]


class TestHook:
    def test_one_alone_is_refused(self):
        with pytest.raises(CheckpointError, match="keep: expected 0 for all, or a whole number >= 2, got 1"):
            hooks.Checkpoint(keep=1)

    @pytest.mark.parametrize("value", [1, -1, True, 2.0, "3"])
    def test_a_config_that_keeps_one_is_refused_with_the_reason(self, value):
        from hookline.config import check_options

        valid, (problem,) = check_options(hooks.Checkpoint, {"keep": value}, "hooks.checkpoint")
        assert valid == {}
        assert "hooks.checkpoint.keep: expected 0 for all, or a whole number >= 2, got" in str(problem)
        assert ("One alone is no way back" in str(problem)) == (type(value) is int)

    @pytest.mark.parametrize("value", [0, 2, 9])
    def test_a_config_that_keeps_all_or_several_is_right(self, value):
        from hookline.config import check_options

        assert check_options(hooks.Checkpoint, {"keep": value}, "hooks.checkpoint") == ({"keep": value}, [])

    def test_a_folder_that_cannot_be_written_is_found_before_the_first_iteration(
        self, make_trainer, tmp_path
    ):
        (tmp_path / "file").touch()
        trainer = make_trainer(hooks.Checkpoint(dir=str(tmp_path / "file" / "below")))
        with pytest.raises(CheckpointError, match=r"below: expected a disk that takes it.* option 'dir'"):
            trainer.train(0, 3)
        assert trainer.iter == 0

    @pytest.mark.parametrize("background", [False, True])
    def test_a_save_that_fails_deletes_nothing(self, make_trainer, tmp_path, monkeypatch, background):
        make_trainer(hooks.Checkpoint(period=1, keep=0), run_dir=tmp_path).train(0, 4)
        before = names(tmp_path)
        hook = hooks.Checkpoint(keep=2, background=background)
        trainer = make_trainer(hook, run_dir=tmp_path)

        def full(path, pieces):
            raise OSError(errno.ENOSPC, "No space left on device")

        trainer.register_hooks([at(5, lambda: monkeypatch.setattr(writing, "write_new", full))])
        with pytest.raises(CheckpointError, match="No space left on device"):
            trainer.train(4, 6)
        assert names(tmp_path) == before == [*(f"iter_000000{i}" for i in range(4)), "latest"]

    def test_only_rank_0_looks(self, make_trainer, tmp_path, monkeypatch):
        monkeypatch.setattr(hooks.checkpoint.distributed, "is_main", lambda: False)
        (tmp_path / "file").touch()
        make_trainer(hooks.Checkpoint(dir=str(tmp_path / "file" / "below"))).train(0, 3)

    def test_looking_whether_it_can_be_written_leaves_nothing(self, tmp_path):
        writing.check_writable(tmp_path / "a" / "b")
        assert list((tmp_path / "a" / "b").iterdir()) == []

    @pytest.mark.parametrize("background", [False, True])
    def test_a_process_that_was_taken_for_dead_commits_nothing_more(self, make_trainer, tmp_path, background):
        run = RunDir.create(tmp_path, "line")
        trainer = make_trainer(hooks.Checkpoint(period=2, background=background), run_dir=run.path)

        def take_over():
            if trainer._saving.under_way is not None:
                trainer._saving.under_way.result(20)
            (run.path / "generation").write_text("2\n")

        trainer.register_hooks([at(3, take_over)])
        with run.held() as generation:
            trainer.generation = generation
            with pytest.raises(RunError, match="expected to be its only trainer"):
                trainer.train(0, 9)
        assert names(run.path) == ["iter_0000001", "latest"]
        manifest = json.loads((run.path / "checkpoints" / "iter_0000001" / "manifest.json").read_text())
        assert (manifest["generation"], manifest["world_size"]) == (1, 1)
