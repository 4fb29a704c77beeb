"""From events to what W&B calls a row of the history. Importing this imports wandb."""

from __future__ import annotations

import html
import io
from typing import Any

import numpy as np
import numpy.typing as npt
import wandb
from PIL import Image

from hookline import Events, Histogram

__all__ = ["row", "utf8"]


def row(events: Events, attempt: int) -> dict[str, Any]:
    """Return everything of one iteration but its hyper-parameters; iteration and attempt are among it."""
    found = {
        "iteration": events.iteration,
        "attempt": attempt,
        "_timestamp": events.time_s,
        **{name: scalar.value for name, scalar in events.scalars.items()},
        **{name: _image(array) for name, array in events.images.items()},
        **{name: _histogram(data) for name, data in events.histograms.items()},
        **{name: _text(text) for name, text in events.texts.items()},
    }
    return {utf8(name): value for name, value in found.items()}


def utf8(value: Any) -> Any:
    """Return ``value`` with half surrogate pairs in its strings, as some file names have them, as escapes."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode(errors="backslashreplace").decode()
    if isinstance(value, dict):
        return {utf8(key): utf8(item) for key, item in value.items()}
    return [utf8(item) for item in value] if isinstance(value, list) else value


def _image(image_CHW: npt.NDArray[np.uint8]) -> wandb.Image:
    # wandb drops the dimensions of size 1 of an array; a picture is left alone.
    pixels = image_CHW[0] if image_CHW.shape[0] == 1 else image_CHW.transpose(1, 2, 0)
    return wandb.Image(Image.fromarray(np.ascontiguousarray(pixels)))


def _histogram(data: Histogram) -> wandb.Histogram:
    """Return ``data`` with neighbouring bins merged where there are more than W&B takes."""
    merged = -(-len(data.counts) // wandb.Histogram.MAX_LENGTH)
    starts = np.arange(0, len(data.counts), merged)
    counts = np.add.reduceat(data.counts, starts)
    edges = np.append(data.edges[starts], data.edges[-1])
    return wandb.Histogram(np_histogram=(counts, edges))


def _text(text: str) -> wandb.Html:
    # A plain string is shown in the run's summary only; a page has a panel with a slider.
    return wandb.Html(io.StringIO(f"<pre>{html.escape(utf8(text))}</pre>"), inject=False)
