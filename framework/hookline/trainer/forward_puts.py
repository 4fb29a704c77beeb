"""What a model puts into the storage in its ``forward``, where a replayed graph does not run that forward."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hookline.events import EventStorage, get_event_storage

__all__ = ["ForwardPuts"]


class _Puts(NamedTuple):
    scalars: dict[str, Tensor]
    smoothing_hint: bool
    volatile: bool


class ForwardPuts:
    """Puts the scalars of a captured forward again after each replay; a `ForwardWatch` of the kernel.

    Args:
        device: Where values must be: those on the host are not written by a replay.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._puts: list[_Puts] = []

    @contextmanager
    def discarding(self) -> Iterator[None]:
        """See `ForwardWatch`."""
        with EventStorage():
            yield

    @contextmanager
    def recording(self) -> Iterator[None]:
        """See `ForwardWatch`."""
        recorder = _Recorder(self._device)
        with recorder:
            yield
        self._puts = recorder.puts

    def renew(self) -> None:
        """Put every scalar again, in the order and as often as the forward did."""
        if self._puts:
            storage = get_event_storage()
            for puts in self._puts:
                storage.put_scalars(puts.scalars, smoothing_hint=puts.smoothing_hint, volatile=puts.volatile)


class _Recorder(EventStorage):
    """Keeps scalars on the device, which stay what a replay writes, and refuses all else by name."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.puts: list[_Puts] = []
        self._device = device

    def put_scalar(
        self, name: str, value: Any, smoothing_hint: bool = True, *, volatile: bool = False
    ) -> None:
        """Keep a copy, which a replay writes too."""
        if not isinstance(value, Tensor) or value.device != self._device:
            raise _refused("scalar", name, f" from the host, not from {self._device}")
        last, name = self.puts[-1] if self.puts else None, self._prefix + name
        # Those that stand together are taken by one operation.
        if last is None or name in last.scalars or last[1:] != (smoothing_hint, volatile):
            last = _Puts({}, smoothing_hint, volatile)
            self.puts.append(last)
        last.scalars[name] = value.detach().clone()  # As it is here, whatever is done to it after.

    def put_scalars(
        self,
        scalars: Mapping[str, Any] | None = None,
        /,
        *,
        smoothing_hint: bool = True,
        volatile: bool = False,
        **named: Any,
    ) -> None:
        """Keep each of them."""
        for name, value in {**(scalars or {}), **named}.items():
            self.put_scalar(name, value, smoothing_hint, volatile=volatile)

    def put_timings(self, seconds: Mapping[str, float]) -> None:
        """Refuse them."""
        raise _refused("timing", next(iter(seconds), ""))

    def put_image(self, name: str, image: Any) -> None:
        """Refuse it."""
        raise _refused("image", name)

    def put_histogram(self, name: str, values: Any, bins: int = 64) -> None:
        """Refuse it."""
        raise _refused("histogram", name)

    def put_text(self, name: str, text: str) -> None:
        """Refuse it."""
        raise _refused("text", name)

    def put_hparams(self, hparams: Mapping[str, bool | int | float | str]) -> None:
        """Refuse them."""
        raise _refused("hyper-parameter", next(iter(hparams), ""))


def _refused(kind: str, name: str, how: str = "") -> ValueError:
    return ValueError(f"the model puts the {kind} {name!r}{how} in its forward, which a replay does not run")
