"""What ``hookline replay`` does; imports torch."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
from rich.console import Console

from hookline.cli.layout import printable
from hookline.console import show_logs
from hookline.replay import Part, Replay, advice, origins
from hookline.replay import replay as run_again
from hookline.replay.origin import Origin

__all__ = ["replay"]

_MAX_SAMPLES = 32


def replay(place: str, overrides: Sequence[str], anomaly: bool) -> None:
    """Run the iteration of the capsule at ``place`` again, print what came of it, and exit with that."""
    show_logs()
    with Console(stderr=True).status("") as status:  # Where nobody watches, in silence.
        found = run_again(
            place, overrides, anomaly=anomaly, say=lambda text: status.update(f"replay: {text}")
        )
    lines = list(_lines(found))
    width = max(len(name) for name, _ in lines)
    for name, text in lines:
        click.echo(printable(f"{name.ljust(width)}  {text}".rstrip()))
    sys.exit(0 if found.is_reproduced else 1)


def _lines(found: Replay) -> Iterator[tuple[str, str]]:
    capsule = found.capsule
    of_rank = f", rank {capsule.rank} of {capsule.world_size}" if capsule.world_size > 1 else ""
    yield "capsule", f"{_shown(found.path)} (iteration {capsule.iteration}, {capsule.why}{of_rank})"
    yield "weights", f"from {found.weights_from}"
    yield "batch", found.batch
    yield from ((name, found.shown(name)) for name in capsule.values if name in found.values)
    if capsule.median is not None:
        yield (
            "spike",
            f"{capsule.values['total_loss'] / capsule.median:.1f} times the median {capsule.median:.6g}",
        )
    yield from (("weight", f"{name} is not finite to begin with") for name in found.bad_weights)
    for origin, name in zip(origins(found), ("first", "and"), strict=False):
        yield name, _origin(origin, len({part.microbatch for part in found.parts}))
    if found.watch is not None and found.watch.module is not None:
        name, kind = found.watch.module
        yield "module", f"{name or 'the model'} ({kind}) is the first to return what is not finite"
    if found.watch is not None and (bad := found.watch.gradient) is not None:
        of_all = (
            f"the first of {found.watch.num_gradients}" if found.watch.num_gradients > 1 else "the only one"
        )
        yield "gradient", f"{bad.name}: {bad.num_bad} of {bad.num} not finite, {of_all}"
    yield from _samples(found)
    yield from ((f"batch {part.microbatch}", _part(part)) for part in found.parts)
    yield "result", _result(found)
    yield "next", advice(found)


def _origin(origin: Origin, num_batches: int) -> str:
    of = " of inf" if origin.of_inf else ""
    where = f" in {origin.module or 'the model'} ({origin.kind})" if origin.kind else ""
    batch = f", batch {origin.microbatch}" if num_batches > 1 and origin.phase != "update" else ""
    line = f": {_shown(Path(origin.file))}:{origin.line}: {origin.text}" if origin.line else ""
    return f"{origin.phase}{batch}, {origin.op} made {origin.what}{of}{where}{line}"


def _samples(found: Replay) -> Iterator[tuple[str, str]]:
    for batch in found.capsule.samples or ():
        indices = batch["indices"].tolist()
        more = f" and {len(indices) - _MAX_SAMPLES} more" if len(indices) > _MAX_SAMPLES else ""
        shown = " ".join(map(str, indices[:_MAX_SAMPLES])) + more
        yield "samples", f"epoch {batch['epoch']}, batch {batch['batch']}: {shown}"


def _part(part: Part) -> str:
    shape = list(part.shape)
    name = f"{part.name}: " if part.name else ""
    text = f"{name}{part.dtype} {shape}"
    if not math.isnan(part.min):
        text += f", min {part.min:.4g}, max {part.max:.4g}, mean {part.mean:.4g}"
    if part.num_nan or part.num_inf:
        text += f", {part.num_nan} NaN, {part.num_inf} inf"
    elif part.rows:
        text += ", largest"
    if part.rows:
        text += f" in row {', '.join(map(str, part.rows))}"
    if part.samples:
        text += f" (sample {', '.join(map(str, part.samples))})"
    return text


def _result(found: Replay) -> str:
    if not found.is_reproduced:
        return "not reproduced"
    return "reproduced, to the bit" if found.verdict == "equal" else "reproduced"


def _shown(path: Path) -> str:
    here = Path.cwd()
    return os.fspath(path.relative_to(here) if path.is_relative_to(here) else path)
