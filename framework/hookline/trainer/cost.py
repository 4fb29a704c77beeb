"""What plugins cost: measured in one iteration of 16, and told as volatile scalars."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random
from time import monotonic
from typing import TYPE_CHECKING

from hookline.events import EventStorage
from hookline.plugins import HookManager

if TYPE_CHECKING:
    from hookline.delivery import Delivery

__all__ = ["Cost"]

_SAMPLED = 16  # one iteration in so many is measured, so that measuring costs nothing worth naming
_TOLD_EVERY_S = 1.0  # writers spend more time on a number than it took to measure it


class Cost:
    """Says which iterations are measured, and puts what was measured in them.

    Attributes:
        weight: How often the running iteration counts in ``HookManager.seconds``; 0 when it is not measured.
    """

    def __init__(self) -> None:
        self.weight = 0
        self._random = Random()
        self._next = -1
        self._told: dict[str, float] = {}
        self._told_at = 0.0

    def reset(self, hooks: HookManager) -> None:
        """Forget what earlier runs took."""
        hooks.forget_seconds()
        self.weight = 0
        self._random.seed(0)
        self._told = {}

    def begin(self, iteration: int, is_first: bool, hooks: HookManager) -> int:
        """Return the weight of ``iteration``, and begin its sample where that is above 0.

        It is 16 in one of every 16 iterations, drawn at random, which falls in with no period. The first one
        counts for itself alone: much is done in it that never comes back.
        """
        place = iteration % _SAMPLED
        if place == 0 or is_first:
            self._next = iteration - place + self._random.randrange(_SAMPLED)
        self.weight = 1 if is_first else _SAMPLED if iteration == self._next else 0
        if self.weight:
            hooks.sample.clear()
        return self.weight

    def put(self, storage: EventStorage, hooks: HookManager, deliveries: Iterable[Delivery]) -> None:
        """Put the seconds of each hook in this measured iteration, and of each writer since the last time.

        As ``plugin_s/<plugin>/<hook>`` and ``plugin_s/<writer>/write``. Does nothing within a second of the
        last time, unless it is the first iteration that was measured.
        """
        now = monotonic()
        if self.weight == _SAMPLED and now - self._told_at < _TOLD_EVERY_S:
            return
        self._told_at = now
        seconds = {f"plugin_s/{plugin}/{hook}": taken for (plugin, hook), taken in hooks.sample.items()}
        for delivery in deliveries:
            for writer, total in delivery.seconds.items():
                seconds[f"plugin_s/{writer}/write"] = total - self._told.get(writer, 0.0)
                self._told[writer] = total
        storage.put_timings(seconds)
