"""What a trainer draws its batches from, and what a resume needs to go on in it at the very next batch."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from hookline.checkpoint import rng
from hookline.data import (
    Loader,
    has_workers,
    load_generators,
    lost_in_workers,
    start_workers,
    state_of_generators,
)

__all__ = ["Source"]

_log = logging.getLogger(__name__)

_END = object()
_PARTS = ("batch_sampler", "sampler", "dataset")


class Source:
    """A data loader and its place in it; each ``iter()`` begins an epoch, or goes on in a restored one.

    A loader with ``state_dict`` and ``load_state_dict`` knows its place itself. A DataLoader of torch does
    not: a resumed epoch is begun again with the random numbers that it began with, and with what its sampler,
    batch sampler and dataset have in a ``state_dict``; the batches that were seen are drawn again and
    dropped. Any other loader begins anew. Random generators that a loader, its sampler or its dataset hold
    are part of the state of all three.

    A stream that is drawn in this process, an `IterableDataset` in a DataLoader without workers, draws from
    random numbers of its own: what it has in store depends on them, and training draws in between.

    Args:
        loader: Yields batches.
    """

    def __init__(self, loader: Iterable[Any]) -> None:
        self.loader: Any = loader
        self._has_state = _has_state(loader)
        self._is_replayed = isinstance(loader, DataLoader) and not self._has_state
        self._began: Mapping[str, Any] | None = None
        self._num_batches = 0  # of this epoch
        self._saved: Mapping[str, Any] | None = None

    @property
    def is_resumable(self) -> bool:
        """Whether a resumed run sees the very next batch."""
        return self._has_state or self._is_replayed

    def what_is_lost(self) -> str:
        """Return which batches are others in a resumed run, and what to do; nothing where none are."""
        if not self.is_resumable:
            kind = type(self.loader).__name__
            return (
                f"{kind} has no state_dict: a resumed run will not see the same batches. Give it state_dict "
                "and load_state_dict, or let data.train be a dataset with a 'loader'."
            )
        return "" if self._has_state and not isinstance(self.loader, Loader) else lost_in_workers(self.loader)

    def __iter__(self) -> Iterator[Any]:
        """Return the batches of an epoch, or those that are left of it."""
        if self._is_replayed:
            return self._counted()
        saved, self._saved = self._saved, None
        return iter(self.loader) if saved is None else self._rest(saved)

    def state_dict(self) -> dict[str, Any]:
        """Return the place, as data that a checkpoint can hold."""
        if self._saved is not None:
            return dict(self._saved)
        state: dict[str, Any] = {"generators": state_of_generators(self.loader)}
        if self._has_state:
            state["loader"] = self.loader.state_dict()
        elif self._is_replayed:
            state |= {"began": self._began, "num_batches": self._num_batches}
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on, at the next ``iter()``, where ``state`` was taken; another kind of loader starts anew."""
        if self._has_state and "loader" in state:
            self.loader.load_state_dict(state["loader"])
            self._saved = state
        elif self._is_replayed and "num_batches" in state:
            self._saved = state
        elif self.is_resumable or state.keys() - {"generators"}:
            kind = type(self.loader).__name__
            _log.warning(
                "The checkpoint holds the place in another kind of data loader: %s begins anew.", kind
            )
        load_generators(self.loader, state["generators"])

    def _rest(self, saved: Mapping[str, Any]) -> Iterator[Any]:
        """Return what a loader that knows its place has left of its epoch, or the next one."""
        with rng.forked_rng():  # It may draw for an iterator, which the run before had already.
            batches = iter(self.loader)
        load_generators(self.loader, saved["generators"])
        first = next(batches, _END)
        return iter(self.loader) if first is _END else chain([first], batches)

    def _counted(self) -> Iterator[Any]:
        saved, self._saved = self._saved, None
        if saved is not None and saved["began"] is not None:
            self._began, self._num_batches = saved["began"], saved["num_batches"]
            yield from self._count(self._replayed(saved))
            if self._num_batches > saved["num_batches"]:
                return
        self._began = {
            "global": rng.capture(cuda=False),
            "own": state_of_generators(self.loader),
            "parts": {name: part.state_dict() for name, part in self._parts()},
            "has_workers": has_workers(self.loader),
        }
        self._num_batches = 0
        yield from self._count(self._begun())

    def _begun(self) -> Iterator[Any]:
        """Return the batches of an epoch from its beginning."""
        batches: Iterator[Any] = iter(self.loader)
        is_stream = isinstance(self.loader.dataset, IterableDataset) and not self.loader.num_workers
        return rng.apart(batches) if is_stream else batches

    def _count(self, batches: Iterator[Any]) -> Iterator[Any]:
        for batch in batches:
            self._num_batches += 1
            yield batch

    def _replayed(self, saved: Mapping[str, Any]) -> Iterator[Any]:
        """Return the batches that follow those that were seen of the epoch."""
        began, num_seen = saved["began"], saved["num_batches"]
        if num_seen:
            _log.info(
                "Drawing the first %d batches of this epoch again, to go on after them: a DataLoader cannot "
                "skip them. One with state_dict can, as hookline.Loader.",
                num_seen,
            )
        with rng.forked_rng():
            if began["has_workers"]:
                start_workers(self.loader)
            rng.restore(began["global"])
            load_generators(self.loader, began["own"])
            for name, part in self._parts():
                if name in began["parts"]:
                    part.load_state_dict(began["parts"][name])
            batches = self._begun()
            num_found = sum(1 for _ in islice(batches, num_seen))
        if num_found < num_seen:
            _log.warning(
                "The epoch of the data loader has %d batches now, of which %d had been seen.",
                num_found,
                num_seen,
            )
        load_generators(self.loader, saved["generators"])
        return batches

    def _parts(self) -> Iterator[tuple[str, Any]]:
        """Yield what a DataLoader draws from and has a state of its own, by attribute."""
        for name in _PARTS:
            if _has_state(part := getattr(self.loader, name, None)):
                yield name, part


def _has_state(value: Any) -> bool:
    return hasattr(value, "state_dict") and hasattr(value, "load_state_dict")
