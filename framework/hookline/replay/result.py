"""What came of running an iteration again."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hookline.capsules import Capsule
from hookline.replay.batch import Part
from hookline.replay.origin import Watch

__all__ = ["Replay", "verdict_of"]

Verdict = Literal["equal", "close", "differs"]

_CLOSE = 1e-3  # Relative: what another device or an unfused kernel makes of the same float32.


@dataclass
class Replay:
    """What came of it.

    Attributes:
        path: The capsule.
        capsule: What is in it.
        precision: The trainer's, as it is now.
        weights_from: Where the weights came from: the capsule, or the checkpoint that was trained on from.
        batch: How the batches came about: ``as kept``, ``drawn again, …``.
        is_same_batch: False where those drawn again are others than those of the run.
        values: What the iteration measures now.
        verdict: Whether that is what the run measured: ``equal`` to the bit, ``close``, or not.
        watch: What was found in the model; None without anomaly mode.
        bad_weights: The parameters that were not finite to begin with.
        parts: The tensors of the batches.
    """

    path: Path
    capsule: Capsule
    precision: str = "fp32"
    weights_from: str = ""
    batch: str = "as kept"
    is_same_batch: bool = True
    values: dict[str, float] = field(default_factory=dict)
    verdict: Verdict = "differs"
    watch: Watch | None = None
    bad_weights: list[str] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)

    @property
    def is_reproduced(self) -> bool:
        """Whether the iteration went as it did in the run."""
        return self.verdict != "differs" and self.is_same_batch

    def shown(self, name: str) -> str:
        """Return what the iteration measures now under ``name``, beside what the run recorded."""
        recorded, now = self.capsule.values[name], self.values.get(name, math.nan)
        if self.capsule.world_size > 1:
            return f"{now:.6g} on this rank alone; the run recorded {recorded:.6g}, of all ranks"
        if _is_equal(recorded, now):
            return f"{now:.6g}, as recorded"
        if _is_close(recorded, now):
            return f"{now:.6g}, close to the {recorded:.6g} that was recorded"
        return f"{now:.6g}, differs from what was recorded: {recorded:.6g}"


def verdict_of(found: Replay) -> Verdict:
    """Return whether what the iteration measured now is what the run recorded."""
    recorded, now = found.capsule.values, found.values
    if found.capsule.world_size > 1:  # What was recorded is of all ranks together.
        is_bad_here = not all(math.isfinite(now.get(name, math.nan)) for name in recorded)
        return "close" if is_bad_here else "differs"
    names = [name for name in recorded if name in now]
    if not names:
        return "differs"
    if all(_is_equal(recorded[name], now[name]) for name in names):
        return "equal"
    return "close" if all(_is_close(recorded[name], now[name]) for name in names) else "differs"


def _is_equal(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))


def _is_close(one: float, other: float) -> bool:
    return _is_equal(one, other) or math.isclose(one, other, rel_tol=_CLOSE)
