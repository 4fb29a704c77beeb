"""Carries events from the storage to the writers, each on a thread of its own.

Every event reaches every writer once and in order. A writer *acknowledges* events by the position that its
``state_dict`` returns after ``write``; what it has not acknowledged is kept here, so that it can be
written again after a failure, and becomes part of a checkpoint, so that a save never waits for a writer.

A writer may be slow, may raise, or may hang:

* Slow: its events wait, up to 256 MiB of them. Beyond that it is switched off; for a journal training waits.
* Raising: ``retry`` (the default) goes back to the last position and writes again, three times; ``disable``
  switches the writer off at once; ``raise`` ends the run, and so does a journal in the end.
* Hanging: at a ``flush`` or ``close`` a call that takes more than ``timeout_s`` is given up; a backlog
  that moves is waited for.

A writer that is switched off is reported once, loudly, and what it missed is named in a `Gap`. So is what
one missed that was left out of a run for a while; its position is kept meanwhile.
"""

from hookline.delivery.delivery import Delivery, check_journals
from hookline.delivery.gap import Gap
from hookline.delivery.left_out import can_go_on, left_out

__all__ = ["Delivery", "Gap", "can_go_on", "check_journals", "left_out"]
