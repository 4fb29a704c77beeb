"""One iteration of a run once more, from its capsule, and where it went wrong."""

from hookline.replay.advice import advice, origins
from hookline.replay.batch import Part
from hookline.replay.rerun import replay
from hookline.replay.result import Replay

__all__ = ["Part", "Replay", "advice", "origins", "replay"]
