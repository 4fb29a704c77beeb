"""From events to the protos that TensorBoard reads. Importing this imports TensorBoard."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event, SourceMetadata
from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as layout_metadata
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.plugins.hparams.api_pb2 import STATUS_FAILURE, STATUS_SUCCESS
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo
from tensorboard.plugins.text import metadata as text_metadata

from hookline import Events, Histogram

__all__ = ["file_header", "iteration", "layout", "session_end", "session_start", "text"]

# "paused" has none: the session goes on.
_STATUS = {"finished": STATUS_SUCCESS, "stopped": STATUS_SUCCESS, "failed": STATUS_FAILURE}


def file_header(time_s: float) -> Any:
    """Return the Event that an event file begins with."""
    return Event(
        wall_time=time_s,
        file_version="brain.Event:2",
        source_metadata=SourceMetadata(writer="hookline-tensorboard"),
    )


def iteration(events: Events, extra: Sequence[Any] = ()) -> Any:
    """Return one Event with everything of one iteration but its hyper-parameters, and with ``extra``."""
    values = [
        *extra,
        *(
            Summary.Value(tag=_utf8(name), simple_value=scalar.value)
            for name, scalar in events.scalars.items()
        ),
        *(Summary.Value(tag=_utf8(name), image=_image(array)) for name, array in events.images.items()),
        *(Summary.Value(tag=_utf8(name), histo=_histogram(data)) for name, data in events.histograms.items()),
        *(text(name, content) for name, content in events.texts.items()),
    ]
    return Event(wall_time=events.time_s, step=events.iteration, summary=Summary(value=values))


def layout(charts: Mapping[str, str]) -> Any:
    """Return the value that lays out ``charts``, title to regular expression of scalar names."""
    category = layout_pb2.Category(
        title="hookline",
        chart=[
            layout_pb2.Chart(title=title, multiline=layout_pb2.MultilineChartContent(tag=[pattern]))
            for title, pattern in charts.items()
        ],
    )
    return Summary.Value(
        tag=layout_metadata.CONFIG_SUMMARY_TAG,
        metadata=layout_metadata.create_summary_metadata(),
        tensor=_string(layout_pb2.Layout(category=[category]).SerializeToString()),
    )


def session_start(hparams: Mapping[str, bool | int | float | str], run_id: str, time_s: float) -> Any:
    """Return the value that makes the run a row of the hyper-parameter table; its scalars are the metrics."""
    info = SessionStartInfo(group_name=run_id, start_time_secs=time_s)
    for name, value in hparams.items():
        hparam = info.hparams[_utf8(name)]
        if isinstance(value, bool):
            hparam.bool_value = value
        elif isinstance(value, str):
            hparam.string_value = _utf8(value)
        else:
            hparam.number_value = float(value)
    return _session(hparams_metadata.SESSION_START_INFO_TAG, HParamsPluginData(session_start_info=info))


def session_end(status: str, time_s: float) -> Any | None:
    """Return the value that says how the run ended; None for one that will go on."""
    if status not in _STATUS:
        return None
    info = SessionEndInfo(status=_STATUS[status], end_time_secs=time_s)
    return _session(hparams_metadata.SESSION_END_INFO_TAG, HParamsPluginData(session_end_info=info))


def text(name: str, content: str) -> Any:
    """Return the value that shows ``content``, which is Markdown."""
    plugin = SummaryMetadata.PluginData(plugin_name=text_metadata.PLUGIN_NAME)
    metadata = SummaryMetadata(plugin_data=plugin)
    return Summary.Value(tag=_utf8(name), metadata=metadata, tensor=_string(_utf8(content).encode()))


def _session(tag: str, data: Any) -> Any:
    metadata = hparams_metadata.create_summary_metadata(data)
    return Summary.Value(tag=tag, metadata=metadata, tensor=hparams_metadata.NULL_TENSOR)


def _image(image_CHW: npt.NDArray[np.uint8]) -> Any:
    num_channels, height, width = image_CHW.shape
    pixels = image_CHW[0] if num_channels == 1 else image_CHW.transpose(1, 2, 0)
    png = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(png, format="PNG")
    return Summary.Image(
        height=height, width=width, colorspace=num_channels, encoded_image_string=png.getvalue()
    )


def _histogram(data: Histogram) -> Any:
    return HistogramProto(
        min=data.min,
        max=data.max,
        num=data.num,
        sum=data.sum,
        sum_squares=data.sum_squares,
        bucket_limit=data.edges[1:].tolist(),
        bucket=data.counts.tolist(),
    )


def _utf8(text: str) -> str:
    """Return ``text`` with its half surrogate pairs, as some file names have them, as escapes."""
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def _string(content: bytes) -> Any:
    return TensorProto(dtype=DT_STRING, string_val=[content])
