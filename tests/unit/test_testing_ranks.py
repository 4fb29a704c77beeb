"""Functions on two real processes."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
import torch.distributed as dist

from hookline import RunError
from hookline.errors import notes
from hookline.testing import run_ranks, tiny_trainer


def add_up(amount):
    tensor = torch.ones(2) * amount * (dist.get_rank() + 1)
    dist.all_reduce(tensor)
    return tensor, os.getpid()


def train(max_iter):
    trainer = tiny_trainer(max_iter=max_iter)
    trainer.train()
    return [parameter.detach() for parameter in trainer.model.parameters()], trainer.microbatches[0][0]


def fail_on_rank_1():
    if dist.get_rank() == 1:
        raise KeyError("no such sample")
    dist.barrier()


def die_on_rank_1():
    if dist.get_rank() == 1:
        os._exit(7)
    dist.barrier()


def wait_in_vain():
    if dist.get_rank() == 0:
        dist.all_reduce(torch.ones(1))


def leave_early():
    if dist.get_rank() == 0:
        sys.exit(3)


def raise_on_rank_0_and_die_later_on_rank_1():
    if dist.get_rank() == 0:
        raise KeyError("no such sample")
    time.sleep(0.6)
    os._exit(3)


def sleep():
    time.sleep(60)


def surroundings():
    return os.environ.get("HOOKLINE_TEST"), os.getcwd(), os.environ["RANK"]


def load_with_a_worker():
    data = torch.utils.data.TensorDataset(torch.arange(4.0))
    return sum(x.item() for (x,) in torch.utils.data.DataLoader(data, num_workers=1))


def start_a_child():
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]).pid


def die_with_a_child():
    if dist.get_rank() == 1:
        os.fork() or time.sleep(60)  # has the pipe of its parent
        os._exit(7)
    dist.barrier()


def is_alive(pid):
    """Return whether ``pid`` runs; one that nobody has waited for does not."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout
    return bool(state.strip()) and not state.startswith("Z")


def all_end(pids):
    """Return whether all of ``pids`` end within some seconds."""
    deadline = time.monotonic() + 5
    while any(map(is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(map(is_alive, pids))


def unpicklable():
    return lambda: 1


class Local:
    """Pickled by the name of this module, which cannot be imported by it."""

    def __init__(self, value):
        self.value = value


def unpack(local):
    return Local(local.value + dist.get_rank())


def test_results_come_from_ranks_that_talk_to_each_other():
    (first, here), (second, there) = run_ranks(add_up, 3)
    assert first.tolist() == second.tolist() == [9.0, 9.0]
    assert len({here, there, os.getpid()}) == 3


def test_the_number_of_ranks_is_a_choice():
    results = run_ranks(add_up, 1, world_size=3)
    assert [tensor.tolist() for tensor, _ in results] == [[6.0, 6.0]] * 3


def test_tiny_trainers_of_ranks_train_one_model_on_different_batches():
    (first, one), (second, other) = run_ranks(train, 6)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(one, other)


def test_classes_of_a_test_module_travel_both_ways():
    assert [local.value for local in run_ranks(unpack, Local(5))] == [5, 6]


def test_what_a_rank_raises_is_told_with_its_rank_and_traceback():
    with pytest.raises(RunError, match="rank 1 of 2 failed: KeyError: 'no such sample'") as raised:
        run_ranks(fail_on_rank_1)
    trace = notes(raised.value)[0]
    assert "in fail_on_rank_1" in trace
    assert "testing/ranks.py" not in trace


def test_a_rank_that_dies_is_named():
    with pytest.raises(RunError, match="rank 1 of 2 failed: it died, with exit code 7"):
        run_ranks(die_on_rank_1)


def test_what_was_raised_first_is_told_first_though_another_rank_dies():
    with pytest.raises(RunError, match="rank 0 of 2 failed: KeyError: 'no such sample'") as raised:
        run_ranks(raise_on_rank_0_and_die_later_on_rank_1)
    trace, other = notes(raised.value)
    assert "in raise_on_rank_0_and_die_later_on_rank_1" in trace
    assert other == "Rank 1 failed, too: it died, with exit code 3"


def test_a_rank_that_dies_is_named_though_what_it_had_forked_lives_on():
    start = time.monotonic()
    with pytest.raises(RunError, match="rank 1 of 2 failed: it died, with exit code 7"):
        run_ranks(die_with_a_child)
    assert time.monotonic() - start < 20


def test_ranks_have_the_environment_and_the_directory_of_the_moment(tmp_path, monkeypatch):
    for value in ("first", "second", None):
        folder = tmp_path / str(value)
        folder.mkdir()
        monkeypatch.chdir(folder)
        monkeypatch.delenv("HOOKLINE_TEST", raising=False)
        if value is not None:
            monkeypatch.setenv("HOOKLINE_TEST", value)
        assert run_ranks(surroundings) == [(value, str(folder), "0"), (value, str(folder), "1")]


def test_a_rank_may_load_with_workers():
    assert run_ranks(load_with_a_worker) == [6.0, 6.0]


def test_what_a_rank_started_ends_with_the_call():
    assert all_end(run_ranks(start_a_child))


SCRIPT = """
import os, sys, time
from hookline.testing import run_ranks

def sleep(folder):
    open(os.path.join(folder, f"{os.getpid()}.pid"), "w").close()
    time.sleep(60)

if __name__ == "__main__":
    run_ranks(sleep, sys.argv[1])
"""


@pytest.mark.skipif(not hasattr(os, "setsid"), reason="ranks have no process group here")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_no_rank_is_left_behind_when_the_caller_is_interrupted_or_killed(sent, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    caller = subprocess.Popen([sys.executable, script, tmp_path], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(pids := [int(file.stem) for file in tmp_path.glob("*.pid")]) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert all(map(is_alive, pids))
    caller.send_signal(sent)
    assert caller.wait(timeout=20) == -sent
    assert all_end(pids)


def test_a_rank_that_exits_is_a_failure():
    with pytest.raises(RunError, match="rank 0 of 2 failed: SystemExit: 3"):
        run_ranks(leave_early)


def test_ranks_that_hang_are_ended_and_it_is_told_where_they_were():
    start = time.monotonic()
    with pytest.raises(
        RunError, match="expected every rank to end within 1 s, but rank 0 and rank 1"
    ) as raised:
        run_ranks(sleep, timeout_s=1.0)
    assert time.monotonic() - start < 15
    assert len(notes(raised.value)) == 2
    assert all("in sleep" in note and "hookline/testing" not in note for note in notes(raised.value))


def test_a_collective_that_one_rank_alone_calls_does_not_hang():
    with pytest.raises(RunError, match="rank 0") as raised:
        run_ranks(wait_in_vain, timeout_s=3.0)
    assert "wait_in_vain" in "".join(notes(raised.value))


@pytest.mark.parametrize(("function", "arguments"), [(lambda: 1, ()), (unpack, (sys._getframe(),))])
def test_what_cannot_be_pickled_is_refused(function, arguments):
    with pytest.raises(RunError, match=r"run_ranks: .*can be pickled.*top of their module"):
        run_ranks(function, *arguments)


@pytest.mark.parametrize(("function", "options"), [("train", {}), (train, {"world_size": 0})])
def test_what_is_no_function_and_no_process_is_refused(function, options):
    with pytest.raises(
        RunError, match="expected a function and at least 1 process, got ('train'|0 processes)"
    ):
        run_ranks(function, 1, **options)


def test_a_result_that_cannot_be_pickled_is_refused():
    with pytest.raises(RunError, match="result that can be pickled"):
        run_ranks(unpicklable)
