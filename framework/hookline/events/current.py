"""Which storage is the current one."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from hookline.errors import Problem, RunError

if TYPE_CHECKING:
    from hookline.events.storage import EventStorage

__all__ = ["enter", "get_event_storage", "leave"]

# A linked list, innermost first: a context that is copied or left in another order cannot disturb it.
_current: ContextVar[tuple[EventStorage, Any] | None] = ContextVar("hookline_event_storage", default=None)


def get_event_storage() -> EventStorage:
    """Return the storage of the innermost ``with EventStorage()`` around the caller.

    Works anywhere below a training loop, also inside a model's ``forward``. Each thread and each task
    has its own.

    Raises:
        RunError: If there is none, as in a thread that was started without its parent's context.
    """
    entry = _current.get()
    if entry is None:
        exists = (
            "No `with EventStorage()` is entered in this context; a new thread starts without its parent's"
        )
        fix = "In a thread of your own start the work with contextvars.copy_context().run(work)"
        raise RunError(
            str(Problem("get_event_storage()", "an event storage", missing=True, exists=exists, fix=fix))
        )
    return entry[0]


def enter(storage: EventStorage) -> None:
    """Make ``storage`` the current one of this thread or task."""
    _current.set((storage, _current.get()))


def leave() -> None:
    """Make the one before it the current one again."""
    entry = _current.get()
    _current.set(entry[1] if entry is not None else None)
