"""What to do about what was found."""

from __future__ import annotations

import math

import torch

from hookline.replay.origin import Origin
from hookline.replay.result import Replay

__all__ = ["advice", "origins"]

_FLOAT16_MAX = 65504


def origins(found: Replay) -> list[Origin]:
    """Return the operations that first made what is not finite, in the order in which they ran.

    Where the loss is not finite these are of forward, for backward only handed that on; else of backward, or
    of what comes after it.
    """
    if found.watch is None:
        return []
    is_finite = math.isfinite(found.values.get("total_loss", math.nan))
    for phase in ("backward", "update") if is_finite else ("forward", "backward", "update"):
        of_phase = {what: origin for (where, what), origin in found.watch.origins.items() if where == phase}
        nan, inf = of_phase.get("NaN"), of_phase.get("inf")
        if nan is not None:  # An infinity that no NaN was made of may be meant, as one in a mask.
            return [inf, nan] if nan.of_inf and inf is not None else [nan]
        if inf is not None:
            return [inf]
    return []


def advice(found: Replay) -> str:
    """Return what to do next, in a sentence or two."""
    if not found.is_reproduced:
        return _where_it_differs(found)
    if found.capsule.why == "spike":
        return (
            "Compare min, max and mean of the batch with those of others. If they are alike, the weights "
            "were driven apart before: lower the learning rate, warm up for longer, or set train.clip_norm."
        )
    if found.bad_weights:
        return "The weights were not finite before this iteration. Look at what loads or changes them."
    if any(part.num_nan or part.num_inf for part in found.parts):
        return "Mend or leave out the samples, or check them in the dataset with torch.isfinite(x).all()."
    first = next(iter(origins(found)), None)
    if first is None:
        return "Run it with other options to see what matters, such as train.precision=fp32."
    return _about(first, found)


def _where_it_differs(found: Replay) -> str:
    capsule = found.capsule
    if capsule.world_size > 1:
        return "This rank's part is finite. Look at the capsules of the other ranks."
    was, now = capsule.versions.get("torch"), str(torch.__version__)
    updated = f" torch was {was}, and is {now}." if was != now else ""
    begun = (
        " A run that was started with --weights cannot be trained again from its beginning: save earlier."
        if capsule.weights is None and capsule.checkpoint is None
        else ""
    )
    return f"Has the code or the data changed since, or does it run on another device?{updated}{begun}"


def _about(origin: Origin, found: Replay) -> str:
    if origin.op == "_to_copy" or (found.precision == "fp16" and origin.what == "inf"):
        return f"float16 ends at {_FLOAT16_MAX}. Use train.precision=bf16, or make these values smaller."
    if origin.phase == "forward":
        return "Keep what goes into that line in range, with clamp or an epsilon."
    if origin.phase == "backward":
        return (
            "The loss is finite, its gradient at that line is not, as that of sqrt or norm at 0. Add an "
            "epsilon inside of it; torch.where around it does not help."
        )
    return "Every gradient is finite, and together they are not. Make the loss smaller."
