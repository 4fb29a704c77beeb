"""Collects what is measured, iteration by iteration."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from threading import RLock
from types import TracebackType
from typing import Any

from torch import Tensor

from hookline.errors import Problem
from hookline.events import convert
from hookline.events.current import enter, leave
from hookline.events.device import DeviceQueue
from hookline.events.histories import Histories
from hookline.events.history import History
from hookline.events.iteration import Flags, Record
from hookline.events.records import Events

__all__ = ["EventStorage"]

Reader = Callable[[list[Events]], None]


class EventStorage:
    """Holds what is measured, by iteration; the current one inside its ``with``.

    Values may be numbers or tensors. A tensor that is not on the CPU is taken without reading it: its value
    arrives some iterations later, under the iteration it was put in, and training never waits.

    Several threads may put; all else, ``name_scope`` and ``step`` above all, belongs to the one that trains.

    Args:
        start_iter: The first iteration.
        period: Values on a device are copied every ``period`` iterations, in one go.
    """

    def __init__(self, start_iter: int = 0, *, period: int = 20) -> None:
        if period < 1:
            raise ValueError(str(Problem("EventStorage.period", "a whole number >= 1", period)))
        self.iter = start_iter
        self.arrived_iter = start_iter
        """Every iteration below this one is complete on the host."""
        self._period = period
        # Of every scalar how it was put last. Sealed records share it, so it is copied before a change.
        self._flags: Flags = {}
        self._open = Record(self._flags)
        self._sealed: deque[Record] = deque()
        self._queue = DeviceQueue()
        self._histories = Histories(self._read)
        self._are_read = True
        self._kinds: dict[str, str] = {}
        self._owns_flags = False
        self._prefix = ""
        self._readers: list[Reader] = []
        self._lock = RLock()

    def __enter__(self) -> EventStorage:
        enter(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        leave()

    # -- putting ---------------------------------------------------------------------------------

    def put_scalar(
        self, name: str, value: Any, smoothing_hint: bool = True, *, volatile: bool = False
    ) -> None:
        """Record ``value`` under ``name`` in this iteration.

        Puts of one name in one iteration are averaged. Costs about 1 µs for a number.

        Args:
            name: Its key, inside the current ``name_scope``.
            value: A number, or a tensor or array of one element; may be NaN or infinite.
            smoothing_hint: False for what must not be smoothed, such as an evaluation; the last put decides.
            volatile: True for what differs between two equal runs; json keeps it out of ``metrics.jsonl``.

        Raises:
            TypeError: If ``value`` is not a real number.
            ValueError: If ``value`` has several elements, or ``name`` cannot be used.
        """
        with self._lock:
            self._put(((name, value),), smoothing_hint, volatile)

    def put_scalars(
        self,
        scalars: Mapping[str, Any] | None = None,
        /,
        *,
        smoothing_hint: bool = True,
        volatile: bool = False,
        **named: Any,
    ) -> None:
        """Record several scalars, as ``put_scalar`` does; those of one device are taken at once.

        Args:
            scalars: Values by name.
            smoothing_hint: As for ``put_scalar``.
            volatile: As for ``put_scalar``.
            named: More of them.
        """
        if scalars is None:
            scalars = named
        elif named:
            scalars = {**scalars, **named}
        with self._lock:
            self._put(scalars.items(), smoothing_hint, volatile)

    def put_timings(self, seconds: Mapping[str, float]) -> None:
        """Record volatile scalars that only writers are told of: they have no history, and cost little.

        For many numbers that are put often. Their names are taken as they are, outside of any ``name_scope``.
        """
        with self._lock:
            record = self._open
            if record.timings is None:
                record.timings = {}
            for key, value in seconds.items():
                if self._kinds.setdefault(key, "scalar") == "scalar":
                    if self._flags.get(key) != (True, True):
                        self._set_flags(key, True, True)
                    record.timings[key] = value

    def put_image(self, name: str, image: Any) -> None:
        """Record an image; a second one of the same name in an iteration replaces the first.

        Args:
            name: Its key, inside the current ``name_scope``.
            image: Tensor or array of shape (C, H, W), C of 1, 3 or 4; uint8, or floats, clamped to [0, 1].

        Raises:
            TypeError: If it is no array, or of another dtype.
            ValueError: If it has another shape, such as (H, W, C).
        """
        with self._lock:
            key = self._key(name, "image")
            self._put_array("image", key, convert.image_bytes(self._where("image", key), image))

    def put_histogram(self, name: str, values: Any, bins: int = 64) -> None:
        """Record how the finite elements of ``values`` are spread over ``bins`` bins of equal width.

        Args:
            name: Its key, inside the current ``name_scope``.
            values: Tensor or array of any shape; on a device it is counted there.
            bins: How many.
        """
        with self._lock:
            key = self._key(name, "histogram")
            self._put_array(
                "histogram", key, convert.histogram_vector(self._where("histogram", key), values, bins)
            )

    def put_text(self, name: str, text: str) -> None:
        """Record a text; a second one of the same name in an iteration replaces the first."""
        with self._lock:
            key = self._key(name, "text")
            if not isinstance(text, str):
                raise TypeError(str(Problem(self._where("text", key), "a string", text)))
            self._open.others("texts")[key] = text

    def put_hparams(self, hparams: Mapping[str, bool | int | float | str]) -> None:
        """Record hyper-parameters of the run; once, before the first iteration, is usual."""
        with self._lock:
            for name, value in hparams.items():
                where = f"hyper-parameter {name!r}"
                if not isinstance(name, str) or not name:
                    raise ValueError(str(Problem("put_hparams", "non-empty strings as names", name)))
                if not isinstance(value, (bool, int, float, str)):
                    raise TypeError(str(Problem(where, "a bool, a number or a string", value)))
            self._open.others("hparams").update(hparams)

    @contextmanager
    def name_scope(self, name: str) -> Iterator[None]:
        """Prefix every name put inside with ``name/``; scopes nest to ``a/b/…``."""
        if not isinstance(name, str) or not name.strip("/"):
            raise ValueError(str(Problem("name_scope", "a non-empty string", name)))
        outer = self._prefix
        self._prefix = f"{outer}{name.strip('/')}/"
        try:
            yield
        finally:
            self._prefix = outer

    # -- reading ---------------------------------------------------------------------------------

    def history(self, name: str) -> History:
        """Return the recent values of a scalar.

        Raises:
            KeyError: If none has been put, or none has arrived from its device yet.
        """
        histories = self._read()
        if name in histories:
            return histories[name]
        if any(name in record.values for record in (*self._sealed, self._open)):
            exists, fix = (
                "Its values are still on their device",
                "They arrive when a period ends, or after drain()",
            )
        else:
            exists, fix = f"There are: {', '.join(sorted(histories)) or 'none'}", ""
        raise KeyError(
            str(
                Problem(f"history of {name!r}", "a scalar that was put", missing=True, exists=exists, fix=fix)
            )
        )

    def histories(self) -> dict[str, History]:
        """Return the history of every scalar that has one, by name."""
        return dict(self._read())

    def latest(self) -> dict[str, tuple[float, int]]:
        """Return the last value of every scalar and the iteration it was put in."""
        with self._lock:
            return {name: history.values()[-1] for name, history in self._read().items()}

    def latest_with_smoothing_hint(self, window: int = 20) -> dict[str, tuple[float, int]]:
        """Return what ``latest`` does, smoothed where the last put allowed it.

        Smoothed is the median of the values of the ``window`` iterations up to its last one.
        """
        with self._lock:
            return {
                name: (self._smoothed(name, value, iteration, window), iteration)
                for name, (value, iteration) in self.latest().items()
            }

    # -- the end of an iteration -----------------------------------------------------------------

    def step(self) -> list[Events]:
        """Seal this iteration and go to the next; return the events that are complete on the host.

        On a CPU these are of the iteration just sealed. Where values come from a device they arrive later,
        several iterations at once, always in order. An iteration in which nothing was put has none.
        """
        with self._lock:
            record = self._seal()
            self.iter += 1
            if record.batch is None and not self._sealed:
                self.arrived_iter = self.iter
                arrived = [] if record.is_empty() else [record.events()]
            else:
                self._sealed.append(record)
                if self._queue.num_waiting and self.iter % self._period == 0:
                    self._queue.start()
                arrived = self._collect()
        self._tell(arrived)
        return arrived

    def drain(self) -> list[Events]:
        """Wait for the values of all sealed iterations; return the events that were not complete before."""
        with self._lock:
            if self._queue.num_waiting:
                self._queue.start()
            for record in self._sealed:
                if record.batch is not None:
                    record.batch.wait()
            arrived = self._collect()
        self._tell(arrived)
        return arrived

    def attach(self, reader: Reader) -> None:
        """Call ``reader`` at the end of every ``step`` and ``drain`` with the events that arrived, if any."""
        self._readers.append(reader)

    def detach(self, reader: Reader) -> None:
        """Call ``reader`` no more."""
        self._readers.remove(reader)

    # -- checkpoints -----------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return the iteration, what was put in it so far, and the histories; waits for the device.

        The sealed iterations belong to the attached readers, who are told of all of them first.
        """
        self.drain()
        with self._lock:
            self._open.iteration = self.iter
            if self._open.batch is not None:
                self._open.batch.wait()
                self._finish(self._open)
            self._read()
            return {
                "iter": self.iter,
                "open": self._open.to_state(),
                "histories": self._histories.state_dict(),
                "hints": {name: hint for name, (hint, _) in self._flags.items()},
            }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` returned; forget what was put before."""
        with self._lock:
            self._sealed.clear()
            self.iter = self.arrived_iter = state["iter"]
            self._open = Record.from_state(state["open"])
            self._histories.load_state_dict(state["histories"])
            # Whether one is volatile is known again when it is put again.
            self._flags = {name: (hint, False) for name, hint in state["hints"].items()}
            self._flags.update(self._open.flags)
            self._open.flags = self._flags
            self._owns_flags = False
            self._kinds = dict.fromkeys(self._flags, "scalar")

    # -- inside ----------------------------------------------------------------------------------

    def _where(self, kind: str, name: Any) -> str:
        return f"{kind} {name!r} at iteration {self.iter}"

    def _key(self, name: str, kind: str) -> str:
        """Return ``name`` in its scope; one name is of one kind, since a writer has one place for it."""
        if not isinstance(name, str) or not name:
            raise ValueError(str(Problem(self._where(kind, name), "a non-empty string as name", name)))
        key = self._prefix + name
        if key == "iteration":
            fix = "It is the key of the iteration itself; use another name"
            raise ValueError(str(Problem(self._where(kind, key), "a name of its own", key, fix=fix)))
        known = self._kinds.setdefault(key, kind)
        if known != kind:
            fix = "Use another name"
            raise ValueError(
                str(Problem(self._where(kind, key), f"a name not used for a {known}", key, fix=fix))
            )
        return key

    def _put(self, scalars: Iterable[tuple[str, Any]], smoothing_hint: bool, volatile: bool) -> None:
        record, prefix = self._open, self._prefix
        values, iteration = record.values, self.iter
        self._are_read = False
        flags = (smoothing_hint, volatile)
        later: dict[str, Any] = {}
        try:
            for name, value in scalars:
                # On a CPU reading is no wait.
                number = value.tolist() if type(value) is Tensor and value.is_cpu else value
                if type(number) is not float:
                    number = convert.as_number(value, name, iteration)
                key = prefix + name if type(name) is str else ""
                if self._flags.get(key) != flags:
                    key = self._key(name, "scalar")
                    self._set_flags(key, smoothing_hint, volatile)
                if type(number) is not float:
                    later[key] = number
                    continue
                if key in values:
                    number = record.put_again(key, number)
                values[key] = number
        finally:
            if later:
                for keys, read, batch in self._queue.put_values(later):
                    record.put_later(keys, read, batch)

    def _set_flags(self, key: str, smoothing_hint: bool, volatile: bool) -> None:
        if not self._owns_flags:
            self._flags, self._owns_flags = dict(self._flags), True
        self._flags[key] = (smoothing_hint, volatile)
        self._open.flags = self._flags

    def _put_array(self, kind: str, key: str, tensor: Tensor) -> None:
        if tensor.is_cpu:
            self._open.put_array(kind, key, tensor.numpy())
        else:
            self._open.expect(kind, (key,), self._queue.put_array(tensor), self._queue.batch)

    def _seal(self) -> Record:
        """Return the record of this iteration, and begin the next one."""
        record, self._open = self._open, Record(self._flags)
        record.iteration, record.time_s = self.iter, time.time()
        self._owns_flags = False
        self._histories.take(record.iteration, record.arrived())
        return record

    def _collect(self) -> list[Events]:
        """Return the events of the sealed iterations that are complete, up to the first that is not."""
        arrived = []
        while self._sealed and (self._sealed[0].batch is None or self._sealed[0].batch.is_ready()):
            record = self._sealed.popleft()
            if record.batch is not None:
                self._finish(record)
            self.arrived_iter = record.iteration + 1
            if not record.is_empty():
                arrived.append(record.events())
        return arrived

    def _finish(self, record: Record) -> None:
        self._histories.take(record.iteration, record.finish())
        self._are_read = False

    def _read(self) -> dict[str, History]:
        """Return every history by name, up to date."""
        with self._lock:
            if not self._are_read:
                self._histories.sort_in()
                self._histories.show(self.iter, self._open.arrived())
                self._are_read = True
            return self._histories.by_name

    def _tell(self, arrived: list[Events]) -> None:
        """Give every reader the events, whatever another one raises; raise the first error then."""
        errors: list[Exception] = []
        for reader in tuple(self._readers):
            try:
                reader(arrived)
            except Exception as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def _smoothed(self, name: str, value: float, iteration: int, window: int) -> float:
        if not self._flags[name][0]:
            return value
        history = self._histories.by_name[name]
        return history.median(history.count_since(iteration - window + 1))
