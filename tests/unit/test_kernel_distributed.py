"""Two processes with DistributedDataParallel are one process with all batches, in health and in failure."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.functional import mse_loss
from torch.nn.parallel import DistributedDataParallel

from hookline.kernel import StepKernel

WORLD_SIZE = 2
pytestmark = pytest.mark.skipif(not dist.is_available(), reason="torch without torch.distributed")


class Net(nn.Module):
    """Batches are (x, y); returns two losses and the number of rows, unless told not to count."""

    def __init__(self, dtype=torch.float64, counted=True):
        super().__init__()
        torch.manual_seed(0)
        self.counted = counted
        self.norm = nn.BatchNorm1d(4, affine=False)
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
        self.to(dtype)

    def forward(self, batch):
        x, y = batch
        # Batch norm learns its statistics here; they differ from rank to rank, so nothing is normalised.
        self.norm(x.detach())
        # The second loss has no gradient: only the losses themselves tell when it is not finite.
        losses = {"fit": mse_loss(self.layers(x), y), "log": 0 * y.detach().abs().mean().log()}
        # Counts, as of tokens, that float32 cannot hold; only their proportions matter.
        num_items = len(x) * 99_999_991
        num_items = num_items if len(x) % 2 == 0 else torch.tensor(num_items)
        return {**losses, "num_items": num_items} if self.counted else losses


def make_batch(rows, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    sizes = ((rows, 4), (rows, 2))
    return tuple(torch.randn(size, generator=generator, dtype=torch.float64).to(dtype) for size in sizes)


def make_optimizer(name, model):
    fused = {"fused": True} if name.endswith("-fused") else {}
    return torch.optim.AdamW(model.parameters(), lr=0.01, **fused)


# Rows of each microbatch, by iteration and rank; ranks differ in rows and in the number of microbatches.
ROWS = [([5, 2], [3, 2]), ([4], [2, 2]), ([2, 6], [7])]


def batches_of(iteration, rank):
    return [
        make_batch(rows, seed=100 * iteration + 10 * rank + index)
        for index, rows in enumerate(ROWS[iteration][rank])
    ]


def one_big_batch(rank, name):
    kernel = ddp_kernel(name, accumulate=2, clip_norm=0.4)
    metrics = [kernel.step(batches_of(iteration, rank)) for iteration in range(len(ROWS))]
    return metrics, parameters_of(kernel)


def means_without_counts(rank, name):
    kernel = ddp_kernel(name, accumulate=2, counted=False)
    metrics = [kernel.step([make_batch(4, seed=rank), make_batch(2, seed=2 + rank)])]
    return metrics, parameters_of(kernel)


def bad_on_one_rank(rank, name, kind):
    """A good iteration, one that is bad on rank 1 only, and a good one."""
    kernel = ddp_kernel(name, accumulate=2)
    results = [kernel.step(batches_of(0, rank))]
    before = {key: value.clone() for key, value in kernel.model.state_dict().items()}
    batches = batches_of(1, rank)
    if kind == "gradient":
        kernel.after_backward = lambda: rank == 1 and next(kernel.model.parameters()).grad.fill_(math.nan)
    elif rank == 1:
        x, y = batches[0]
        batches[0] = (torch.full_like(x, math.nan), y) if kind == "nan" else (x, torch.zeros_like(y))
    results.append(kernel.step(batches))
    kernel.after_backward = None
    # DDP sends rank 0's buffers at the next forward: what was restored is read before that.
    untouched = {key: torch.equal(value, before[key]) for key, value in kernel.model.state_dict().items()}
    results.append(kernel.step(batches_of(2, rank)))
    return results, parameters_of(kernel), untouched


def fp16_overflow_on_one_rank(rank):
    kernel = ddp_kernel("adamw-fused", precision="fp16", dtype=torch.float32, counted=False)
    x, y = make_batch(4, seed=rank, dtype=torch.float32)
    results = [kernel.step([(x, y * (1e4 if rank == 1 else 1))])]
    return results, parameters_of(kernel), kernel.state_dict()


def gradient_exchanges(rank):
    """How often DDP exchanges its one bucket of gradients in an iteration of three microbatches."""
    kernel = ddp_kernel("adamw", accumulate=3)
    calls = []

    def counting_hook(group, bucket):
        calls.append(bucket.index())
        return allreduce_hook(group, bucket)

    kernel.model.register_comm_hook(None, counting_hook)
    kernel.step([make_batch(2, seed=i) for i in range(3)])
    return len(calls)


def ddp_kernel(name, dtype=torch.float64, counted=True, **options):
    model = DistributedDataParallel(Net(dtype, counted))
    return StepKernel(model, make_optimizer(name, model), **options)


def parameters_of(kernel):
    return [p.detach().clone() for p in kernel.model.parameters()]


SCENARIOS = {
    "big-adamw": (one_big_batch, "adamw"),
    "big-adamw-fused": (one_big_batch, "adamw-fused"),
    "means": (means_without_counts, "adamw-fused"),
    **{
        f"bad-{name}-{kind}": (bad_on_one_rank, name, kind)
        for name in ("adamw", "adamw-fused")
        for kind in ("nan", "log", "gradient")
    },
    "fp16": (fp16_overflow_on_one_rank,),
    "exchanges": (gradient_exchanges,),
}


def run_rank(rank, directory):
    """Run every scenario as one of the ranks; what a child process does."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    store = dist.FileStore(f"{directory}/store", WORLD_SIZE)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=WORLD_SIZE)
    results = {name: function(rank, *arguments) for name, (function, *arguments) in SCENARIOS.items()}
    torch.save(results, f"{directory}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What every scenario returned, by rank; one pair of processes runs them all."""
    directory = tmp_path_factory.mktemp("ranks")
    commands = [[sys.executable, __file__, str(rank), str(directory)] for rank in range(WORLD_SIZE)]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
    try:
        errors = [process.communicate(timeout=120)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * WORLD_SIZE, "\n".join(errors)
    return [torch.load(directory / f"{rank}.pt") for rank in range(WORLD_SIZE)]


def assert_close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def one_process(name, iterations, clip_norm):
    """Train by hand on all ranks' rows at once; return losses, norms and parameters."""
    model = Net()
    optimizer = make_optimizer(name, model)
    losses, norms = [], []
    for iteration in iterations:
        batches = [batch for rank in range(WORLD_SIZE) for batch in batches_of(iteration, rank)]
        loss = model(tuple(torch.cat(parts) for parts in zip(*batches, strict=True)))["fit"]
        optimizer.zero_grad()
        loss.backward()
        norms.append(nn.utils.clip_grad_norm_(model.parameters(), clip_norm))
        losses.append(loss.detach())
        optimizer.step()
    return losses, norms, [p.detach() for p in model.parameters()]


@pytest.mark.parametrize("name", ["adamw", "adamw-fused"])
def test_two_ranks_of_unequal_microbatches_are_one_big_batch(ranks, name):
    losses, norms, parameters = one_process(name, range(len(ROWS)), clip_norm=0.4)
    for rank in range(WORLD_SIZE):
        metrics, ours = ranks[rank][f"big-{name}"]
        assert_close(ours, parameters)
        assert_close([m["grad_norm"] for m in metrics], norms)
    for iteration, loss in enumerate(losses):
        rows = torch.tensor([sum(ROWS[iteration][rank]) for rank in range(WORLD_SIZE)], dtype=torch.float64)
        local = torch.stack([ranks[rank][f"big-{name}"][0][iteration]["fit"] for rank in range(WORLD_SIZE)])
        assert_close((local * rows).sum() / rows.sum(), loss)


def test_ranks_without_counts_weigh_the_same(ranks):
    model = Net(counted=False)
    optimizer = make_optimizer("adamw-fused", model)
    for rows, seed in ((4, 0), (2, 2), (4, 1), (2, 3)):
        (model(make_batch(rows, seed))["fit"] / 4).backward()
    optimizer.step()
    for rank in range(WORLD_SIZE):
        assert_close(ranks[rank]["means"][1], [p.detach() for p in model.parameters()])


@pytest.mark.parametrize("name", ["adamw", "adamw-fused"])
@pytest.mark.parametrize("kind", ["nan", "log", "gradient"])
def test_what_is_not_finite_on_one_rank_is_skipped_on_both(ranks, name, kind):
    _, norms, parameters = one_process(name, (0, 2), clip_norm=math.inf)
    for rank in range(WORLD_SIZE):
        metrics, ours, untouched = ranks[rank][f"bad-{name}-{kind}"]
        assert all(untouched.values())
        assert metrics[1]["grad_norm"].isnan()
        assert_close([metrics[0]["grad_norm"], metrics[2]["grad_norm"]], norms)
        assert_close(ours, parameters)
    # The loss is each rank's own: this one's was fine.
    assert ranks[0][f"bad-{name}-{kind}"][0][1]["total_loss"].isfinite()


def test_an_fp16_overflow_on_one_rank_lowers_the_scale_of_both(ranks):
    for rank in range(WORLD_SIZE):
        metrics, parameters, state = ranks[rank]["fp16"]
        assert metrics[0]["grad_norm"] == math.inf
        assert state["scale"] == 32768
        for ours, initial in zip(parameters, Net(torch.float32).parameters(), strict=True):
            assert torch.equal(ours, initial)


def test_gradients_are_exchanged_once_an_iteration(ranks):
    assert [ranks[rank]["exchanges"] for rank in range(WORLD_SIZE)] == [1, 1]


if __name__ == "__main__":
    run_rank(int(sys.argv[1]), sys.argv[2])
