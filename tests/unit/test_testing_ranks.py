"""Functions on two real processes."""

import os
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


def sleep():
    time.sleep(60)


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
