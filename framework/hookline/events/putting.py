"""What can be put into an iteration, and under which names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from threading import RLock
from typing import Any

from torch import Tensor

from hookline.errors import Problem
from hookline.events import convert
from hookline.events.device import DeviceQueue
from hookline.events.iteration import Flags, Record

__all__ = ["Putting"]


class Putting:
    """The half of `EventStorage` that is put into: the open iteration, and the names in it.

    Args:
        start_iter: The first iteration.
    """

    def __init__(self, start_iter: int) -> None:
        self.iter = start_iter
        # Of every scalar how it was put last. Sealed records share it, so it is copied before a change.
        self._flags: Flags = {}
        self._owns_flags = False
        self._open = Record(self._flags)
        self._queue = DeviceQueue()
        self._are_read = True  # whether the histories know of all that was put
        self._kinds: dict[str, str] = {}
        self._prefix = ""
        self._lock = RLock()

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
