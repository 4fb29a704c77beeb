"""What hookline asks of every writer."""

import pytest
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.plugins.hparams import metadata

from hookline.testing import assert_plugin_conforms
from hookline_tensorboard import TensorBoardWriter

WITH_TIMES = (metadata.SESSION_START_INFO_TAG, metadata.SESSION_END_INFO_TAG)


def read(run_dir):
    """Return everything in the file but wall times, and the id of the run."""
    (path,) = (run_dir / "tensorboard").rglob("events.out.tfevents.*")
    events = [Event.FromString(record) for record in RawEventFileLoader(str(path)).Load()]
    for event in events:
        event.ClearField("wall_time")
        for value in event.summary.value:
            if value.tag in WITH_TIMES:
                value.ClearField("metadata")
    return [event.SerializeToString(deterministic=True) for event in events]


@pytest.mark.parametrize("options", [{}, {"every_value": True, "charts": {"losses": ".*loss"}}])
def test_it_conforms(options):
    assert_plugin_conforms(TensorBoardWriter, options, read=read)
