"""The state of the random generators in every iteration, at a quarter of what it costs to ask NumPy."""

from __future__ import annotations

import ctypes
import random
from typing import Any

import numpy as np
import torch

__all__ = ["Generators"]

# Source: mt19937_state in numpy/random/src/mt19937/mt19937.h: 624 words, and the place in them.
_MT19937_BYTES = 4 * 625


class Generators:
    """Tells the state of the global generators, in the form of `hookline.checkpoint.capture`.

    NumPy's makes a list of 624 numbers for it. So its memory is compared with what it was the last time, and
    the state told then is told again where nothing was drawn.

    Args:
        on_cuda: Whether those of CUDA matter.
    """

    def __init__(self, on_cuda: bool) -> None:
        self._on_cuda = on_cuda
        self._generator: Any = None
        self._memory = b""
        self._numpy: dict[str, Any] = {}

    def now(self) -> dict[str, Any]:
        """Return the state of each; draws nothing."""
        return {
            "python": random.getstate(),
            "numpy": self._state_of_numpy(),
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if self._on_cuda else [],
        }

    def _state_of_numpy(self) -> dict[str, Any]:
        generator = np.random.get_bit_generator()  # type: ignore[attr-defined]
        if type(generator) is not np.random.MT19937:  # Somebody has chosen another kind.
            return _asked()
        memory = ctypes.string_at(generator.ctypes.state_address, _MT19937_BYTES)
        # A normal number that waits to be drawn stands elsewhere: where there is one, this does not tell all.
        is_same = generator is self._generator and memory == self._memory
        if not is_same or self._numpy["has_gauss"]:
            self._generator, self._memory, self._numpy = generator, memory, _asked()
        return self._numpy


def _asked() -> dict[str, Any]:
    state: dict[str, Any] = np.random.get_state(legacy=False)
    return state
