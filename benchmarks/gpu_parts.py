"""What is measured on a GPU, one function a part; each returns rows of a table."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import nn

from benchmarks import gpu_models
from benchmarks.gpu_loops import LOG_PERIOD, Framework, Loop, Plain, Setup
from benchmarks.gpu_models import Sizes
from benchmarks.parts import put_scalar
from hookline import HookBase, NonFiniteError

__all__ = ["PARTS", "Row"]

# Source: the makers' data sheets, dense bf16 with float32 accumulation, FLOP/s.
_PEAKS = {"H200": 989.4e12, "H100": 989.4e12, "A100": 312e12}
_MODES = ("eager", "compiled", "graph")


@dataclass(frozen=True)
class Row:
    """One line: what was measured, and what came out, or why nothing did.

    Args:
        ratio: To the plain loop of the same round, median and range over rounds.
    """

    part: str
    what: str
    value: str = ""
    ratio: str = ""
    note: str = ""


Make = Callable[[], Loop]


@dataclass
class _Timed:
    """A loop, the seconds of its iterations in each round, and what kept it from running, if anything."""

    loop: Loop | None = None
    seconds: list[float] = field(default_factory=list)
    error: str = ""


def _in_turn(loops: dict[str, Make], warmup: int, num_iters: int, rounds: int) -> dict[str, _Timed]:
    """Time every loop in every round; one that cannot run does not take the others with it."""
    found: dict[str, _Timed] = {}
    for name, make in loops.items():
        found[name] = _Timed()
        try:
            found[name].loop = make()
            found[name].loop.run(warmup)
        except Exception as error:
            found[name].error = f"did not run: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
    for _ in range(rounds):
        for timed in found.values():
            if timed.loop is not None and not timed.error:
                timed.seconds.append(timed.loop.run(num_iters))
    return found


def _rows(
    part: str, found: dict[str, _Timed], reference: str, more: Callable[[float], str] = lambda seconds: ""
) -> list[Row]:
    """Return a row for each loop, its time divided by that of ``reference`` in the same round."""
    rows = []
    for name, timed in found.items():
        if timed.loop is None or timed.error:
            rows.append(Row(part, name, note=timed.error))
            continue
        pairs = zip(timed.seconds, found[reference].seconds, strict=False)
        ratios = [mine / its for mine, its in pairs] or [float("nan")]
        ratio = f"{median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
        middle = median(timed.seconds)
        notes = [note for note in (more(middle), timed.loop.note()) if note]
        rows.append(Row(part, name, f"{1e6 * middle:,.0f} µs", ratio, "; ".join(notes)))
    return rows


def launch_bound(sizes: Sizes, device: torch.device) -> Iterator[Row]:
    """Iterations that take the host longer to ask for than the GPU to do; eager, compiled and as a graph."""
    # Fewer of the second: each takes ten times as long.
    models = {"MLP": (gpu_models.mlp, 1), "150 tensors": (gpu_models.many_tensors, 4)}
    for title, (make, fewer) in models.items():
        for clip_norm in (0.0, 1.0):
            setup = Setup(partial(make, device), device, clip_norm=clip_norm, lr=1e-3)
            num_iters = max(sizes.short_iters // fewer, 2)
            found = _in_turn(_modes(setup, sizes), num_iters // 5 + 2, num_iters, sizes.rounds)
            clipped = ", clipped" if clip_norm else ""
            yield from _rows(f"launch-bound, {title}{clipped}", found, "plain, eager")


def _modes(setup: Setup, sizes: Sizes) -> dict[str, Make]:
    loops: dict[str, Make] = {
        "plain, eager": partial(Plain, setup),
        "hookline, eager": partial(Framework, setup),
        "hookline, graph": partial(Framework, replace(setup, kernel="graph")),
        "hookline, auto": partial(Framework, replace(setup, kernel="auto")),
    }
    if setup.clip_norm:  # It changes nothing that is compiled, and compiling takes long.
        return loops
    compiled = replace(setup, compile=sizes.compile)
    return {
        **loops,
        "plain, compiled": partial(Plain, compiled),
        "hookline, compiled": partial(Framework, compiled),
        "hookline, compiled graph": partial(Framework, replace(compiled, kernel="graph")),
    }


def gpt(sizes: Sizes, device: torch.device) -> Iterator[Row]:
    """GPT-2 in bf16, compiled; how many tokens a second, and what share of the chip's peak that is."""
    for batch_size in sizes.gpt_batches:
        torch._dynamo.reset()  # or the second batch size makes shapes dynamic
        make = partial(gpu_models.gpt2, sizes, batch_size, device)
        setup = Setup(make, device, precision="bf16", clip_norm=1.0, compile=sizes.compile)
        loops: dict[str, Make] = {
            "plain, compiled": partial(Plain, setup),
            "hookline, compiled": partial(Framework, setup),
        }
        found = _in_turn(loops, 5, sizes.long_iters, sizes.rounds)
        speed = partial(_speed, sizes, batch_size, make()[0], device)
        yield from _rows(f"GPT-2, bf16, batch {batch_size}", found, "plain, compiled", speed)


def _speed(sizes: Sizes, batch_size: int, model: nn.Module, device: torch.device, seconds: float) -> str:
    """Return tokens/s and MFU. Source: PaLM (Chowdhery et al. 2022), appendix B: 6N + 12 L·H·Q·T a token."""
    num_tokens = batch_size * sizes.context / seconds
    counted = sum(p.numel() for name, p in model.named_parameters() if "position" not in name)
    flops = 6 * counted + 12 * sizes.gpt_layers * sizes.gpt_width * sizes.context
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    peak = next((peak for name, peak in _PEAKS.items() if name in kind), None)
    share = f", MFU {num_tokens * flops / peak:.1%}" if peak else ""
    return f"{num_tokens:,.0f} tokens/s{share}"


def half_precision(sizes: Sizes, device: torch.device) -> Iterator[Row]:
    """Float16 with loss scaling, clipping and four microbatches."""
    make = partial(gpu_models.gpt2, sizes, sizes.gpt_batches[0], device)
    setup = Setup(make, device, precision="fp16", accumulate=4, clip_norm=1.0)
    loops: dict[str, Make] = {
        "plain, GradScaler": partial(Plain, setup),
        "hookline, eager": partial(Framework, setup),
        "hookline, graph": partial(Framework, replace(setup, kernel="graph")),
    }
    found = _in_turn(loops, 3, max(sizes.long_iters // 3, 2), sizes.rounds)
    yield from _rows("fp16, 4 microbatches, clipped", found, "plain, GradScaler")


def input_bound(sizes: Sizes, device: torch.device) -> Iterator[Row]:
    """Images whose copy takes longer than what is computed of them."""
    setup = Setup(partial(gpu_models.images, sizes, device), device)
    loops: dict[str, Make] = {
        "plain, blocking copies": partial(Plain, replace(setup, copies="blocking")),
        "plain, asynchronous copies": partial(Plain, replace(setup, copies="async")),
        "hookline, prefetch": partial(Framework, setup),
        "hookline, no prefetch": partial(Framework, replace(setup, prefetch=False)),
    }
    found = _in_turn(loops, 5, 2 * sizes.long_iters, sizes.rounds)
    yield from _rows("input-bound images", found, "plain, asynchronous copies")


def storage(sizes: Sizes, device: torch.device) -> Iterator[Row]:
    """What it costs the host to put a tensor that is on the device, its share of the copies included."""
    for what, value_us in put_scalar(5 * sizes.short_iters, str(device)).items():
        yield Row("put_scalar", what, f"{value_us:.2f} µs")


class _Window(HookBase):
    """Opens something once the run is warm, and closes it after so many iterations."""

    graph_safe = True

    def __init__(self, first: int, last: int, window: Callable[[], Any]) -> None:
        self.first, self.last, self.window = first, last, window
        self.opened: Any = None

    def before_step(self) -> None:
        if self.trainer.iter == self.first:
            self.opened = self.window()
            self.opened.__enter__()
        elif self.trainer.iter == self.last:
            self.opened.__exit__(None, None, None)


def syncs(sizes: Sizes, device: torch.device) -> Iterator[Row]:
    """How often the host waits in 200 iterations with 20 plugins; and a loop that waits, as a proof."""
    part = f"waits of the host in {sizes.sync_iters} iterations"
    first = 2 * LOG_PERIOD
    for mode in _MODES:
        warned: list[Any] = []
        profiled = torch.profiler.profile(activities=_activities(device))
        # Apart: the profiler itself waits as it begins and ends.
        middle = first + sizes.sync_iters
        hooks = [
            _Window(first, middle, partial(_warning_of_waits, device, warned)),
            _Window(middle + LOG_PERIOD, middle + LOG_PERIOD + sizes.sync_iters, lambda p=profiled: p),
        ]
        setup = Setup(partial(gpu_models.mlp, device), device, clip_norm=1.0, extra_hooks=hooks)
        loop = Framework(_in_mode(setup, mode, sizes))
        loop.run(middle + 3 * LOG_PERIOD + sizes.sync_iters)
        notes = [note for note in (_first(warned), loop.note()) if note]
        yield Row(part, f"hookline, {mode}", _waits(warned, profiled), note="; ".join(notes))
    warned = []
    plain = Plain(Setup(partial(gpu_models.mlp, device), device))
    profiled = torch.profiler.profile(activities=_activities(device))
    with _warning_of_waits(device, warned), profiled:
        for _ in range(sizes.sync_iters):
            plain.iterate().item()
    yield Row(part, "plain, reading the loss each time", _waits(warned, profiled), note=_first(warned))


@contextmanager
def _warning_of_waits(device: torch.device, warned: list[Any]) -> Iterator[None]:
    """Collect what CUDA's debug mode warns of; it sees most waits, and the profiler the others."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("warn")
        try:
            yield
        finally:
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")
            warned += [one for one in caught if "synchroniz" in str(one.message)]


def _activities(device: torch.device) -> list[Any]:
    kinds = torch.profiler.ProfilerActivity
    return [kinds.CPU, kinds.CUDA] if device.type == "cuda" else [kinds.CPU]


def _waits(warned: Sequence[Any], profiled: Any) -> str:
    names = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
    counts = {event.key: event.count for event in profiled.key_averages() if event.key in names}
    # The profiler's own, as it ends.
    counted = sum(counts.values()) - min(counts.get("cudaDeviceSynchronize", 0), 1)
    return f"debug mode {len(warned)}, profiler {counted}"


def _first(warned: Sequence[Any]) -> str:
    return f"first: {warned[0].filename.rsplit('/', 1)[-1]}:{warned[0].lineno}" if warned else ""


def bad_batch(sizes: Sizes, device: torch.device) -> Iterator[Row]:
    """A batch with NaN in it: the weights must stay as they were, and the run must end within a period."""
    bad = 2 * LOG_PERIOD + 3
    for mode in _MODES:
        setup = _in_mode(Setup(partial(_poisoned, device, bad), device, lr=1e-3), mode, sizes)
        told, until = Framework(setup), Framework(setup)
        until.run(bad)
        value, note = _told(told, until.model, bad)
        yield Row(
            "a NaN batch", f"hookline, {mode}", value, note="; ".join(filter(None, (note, told.note())))
        )


def _in_mode(setup: Setup, mode: str, sizes: Sizes) -> Setup:
    compile = sizes.compile if mode == "compiled" else None
    return replace(setup, compile=compile, kernel="graph" if mode == "graph" else "eager")


def _told(loop: Framework, before: nn.Module, bad: int) -> tuple[str, str]:
    try:
        loop.run(10 * LOG_PERIOD)
    except NonFiniteError as error:
        late = loop.trainer.iter - error.iteration
        pairs = zip(loop.model.state_dict().values(), before.state_dict().values(), strict=True)
        equal = all(torch.equal(mine, its) for mine, its in pairs)
        weights = "weights equal to the bit" if equal else "WEIGHTS DIFFER"
        named = "" if error.iteration == bad else f"named iteration {error.iteration}, not {bad}"
        return weights, f"reported {late} iterations later, period {LOG_PERIOD}{named and '; ' + named}"
    return "NOT REPORTED", ""


def _poisoned(device: torch.device, bad: int) -> tuple[nn.Module, Sequence[Any]]:
    model, batches = gpu_models.mlp(device)
    sequence = list(itertools.islice(itertools.cycle(batches), 20 * LOG_PERIOD))
    x, y = sequence[bad]
    for later in range(bad, len(sequence)):  # All that follow too, so that no later update hides anything.
        sequence[later] = (torch.full_like(x, torch.nan), y)
    return model, sequence


PARTS: dict[str, Callable[[Sizes, torch.device], Iterator[Row]]] = {
    "bad-batch": bad_batch,
    "syncs": syncs,
    "storage": storage,
    "launch-bound": launch_bound,
    "gpt": gpt,
    "fp16": half_precision,
    "images": input_bound,
}
