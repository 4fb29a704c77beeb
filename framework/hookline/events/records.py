"""What one iteration measured, as plain host data that any thread may read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Events", "Histogram", "Scalar"]


class Scalar(NamedTuple):
    """One scalar of one iteration; the mean where it was put several times.

    Args:
        value: The value; may be NaN or infinite.
        smoothing_hint: Whether a reader should smooth it over several iterations.
        volatile: True for what differs between two equal runs (times, memory, throughput).
    """

    value: float
    smoothing_hint: bool = True
    volatile: bool = False


@dataclass(frozen=True, eq=False)
class Histogram:
    """How the finite values of a tensor are spread over bins of equal width.

    Args:
        counts: Number of values in each bin, int64, shape (N,).
        edges: Bounds of the bins, ascending, float64, shape (N + 1,); the last bin includes its upper one.
        num: How many finite values there were; the others are left out of everything here.
        min: Smallest value.
        max: Largest value.
        sum: Sum of the values.
        sum_squares: Sum of their squares.
    """

    counts: npt.NDArray[np.int64]
    edges: npt.NDArray[np.float64]
    num: int
    min: float
    max: float
    sum: float
    sum_squares: float


@dataclass(frozen=True, eq=False)
class Events:
    """Everything put in one iteration.

    All writers are given the same object: read it, never change it.

    Args:
        iteration: The 0-based iteration.
        time_s: Wall clock when the iteration was sealed, seconds since the epoch; differs from run to run.
        scalars: By name, in the order they were first put.
        images: uint8, shape (C, H, W) with C of 1, 3 or 4.
        histograms: By name.
        texts: By name.
        hparams: Hyper-parameters of the run, not tied to the iteration.

    Attributes:
        values: The numbers of ``scalars`` alone, in the same order. For a writer that looks at every
            iteration: ``scalars`` is made when it is first asked for, ``values`` is there.
        flags: (smoothing_hint, volatile) by name, of all of ``values`` and maybe of others. One object for
            as long as no scalar is put otherwise than before.
    """

    iteration: int
    time_s: float
    scalars: dict[str, Scalar] = field(default_factory=dict)
    images: dict[str, npt.NDArray[np.uint8]] = field(default_factory=dict)
    histograms: dict[str, Histogram] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    hparams: dict[str, bool | int | float | str] = field(default_factory=dict)

    if TYPE_CHECKING:
        values: dict[str, float] = field(init=False)
        flags: Mapping[str, tuple[bool, bool]] = field(init=False)
    else:

        def __getattr__(self, name: str) -> Any:
            """Make what has not been asked for before, such as ``scalars`` of ``values``."""
            if name not in _MADE:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            made = vars(self)[name] = _MADE[name](self)
            return made

    @classmethod
    def of_values(
        cls, iteration: int, time_s: float, values: dict[str, float], flags: Mapping[str, tuple[bool, bool]]
    ) -> Events:
        """Return events with nothing but scalars, at a third of what the constructor costs."""
        events = cls.__new__(cls)
        fields = events.__dict__
        fields["iteration"], fields["time_s"] = iteration, time_s
        fields["values"], fields["flags"] = values, flags
        return events

    def has_only_scalars(self) -> bool:
        """Return whether there is nothing but scalars."""
        fields = vars(self)
        return not any(map(fields.get, _OTHERS))

    def to_state(self) -> dict[str, Any]:
        """Return the same as nested dicts of JSON values and arrays, for a checkpoint."""
        return {
            "iteration": self.iteration,
            "time_s": self.time_s,
            "scalars": {name: list(scalar) for name, scalar in self.scalars.items()},
            "images": dict(self.images),
            "histograms": {name: dict(vars(histogram)) for name, histogram in self.histograms.items()},
            "texts": dict(self.texts),
            "hparams": dict(self.hparams),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Events:
        """Return the events that ``to_state`` was called on."""
        arrays = {"counts": np.int64, "edges": np.float64}
        return cls(
            iteration=state["iteration"],
            time_s=state["time_s"],
            scalars={name: Scalar(*scalar) for name, scalar in state["scalars"].items()},
            images={name: np.asarray(image, np.uint8) for name, image in state["images"].items()},
            histograms={
                name: Histogram(**{**fields, **{key: np.asarray(fields[key], arrays[key]) for key in arrays}})
                for name, fields in state["histograms"].items()
            },
            texts=dict(state["texts"]),
            hparams=dict(state["hparams"]),
        )


_OTHERS = ("images", "histograms", "texts", "hparams")
_MADE: dict[str, Callable[[Events], Any]] = {
    **dict.fromkeys(_OTHERS, lambda _: {}),
    "scalars": lambda events: {
        name: Scalar(value, *events.flags[name]) for name, value in events.values.items()
    },
    "values": lambda events: {name: scalar.value for name, scalar in events.scalars.items()},
    "flags": lambda events: {name: tuple(scalar[1:]) for name, scalar in events.scalars.items()},
}
