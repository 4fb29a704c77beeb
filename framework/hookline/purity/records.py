"""What was put, in a form that two runs can be compared in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hookline.events import Events
from hookline.purity.digests import digests

__all__ = ["Records", "records_of"]

Records = dict[tuple[int, str, str], float | str]
"""What was put, by iteration, kind and name: a scalar's value, the digest of anything else."""


def records_of(events: Sequence[Events]) -> Records:
    """Return all that ``events`` hold but volatile scalars, which differ from run to run."""
    found: Records = {}
    for event in events:
        shapes = {name: vars(histogram) for name, histogram in event.histograms.items()}
        stable = {name: scalar.value for name, scalar in event.scalars.items() if not scalar.volatile}
        of_kind: dict[str, Mapping[str, float | str]] = {
            "scalar": stable,
            "image": digests(event.images),
            "histogram": digests(shapes),
            "text": digests(event.texts),
        }
        for kind, records in of_kind.items():
            found |= {(event.iteration, kind, name): record for name, record in records.items()}
    return found
