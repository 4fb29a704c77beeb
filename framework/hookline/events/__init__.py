"""What was measured, and who is told.

::

    put_scalar, put_image, … ─▶ EventStorage ── step() seals the iteration ──▶ Events ─▶ EventWriter.write

Values on a device are taken without waiting and become `Events` when their copy has arrived. A writer
only ever sees host data; `hookline.delivery` carries it there.

What writers need is here without torch, which the storage imports when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hookline.events.history import History
from hookline.events.records import Events, Histogram, Scalar
from hookline.events.table import EventTable, as_tables
from hookline.events.writer import EventWriter, Run

if TYPE_CHECKING:
    from hookline.events.storage import EventStorage, get_event_storage

__all__ = [
    "EventStorage",
    "EventTable",
    "EventWriter",
    "Events",
    "Histogram",
    "History",
    "Run",
    "Scalar",
    "as_tables",
    "get_event_storage",
]


def __getattr__(name: str) -> Any:
    if name not in ("EventStorage", "get_event_storage"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from hookline.events import storage

    globals()[name] = getattr(storage, name)
    return globals()[name]
