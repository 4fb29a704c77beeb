"""Data in batches: a loader whose position can be saved, and how samples become a batch."""

from hookline.data.batches import MapDataset
from hookline.data.build import build_loader, iterations_per_epoch
from hookline.data.generators import generators, load_generators, state_of_generators
from hookline.data.loader import Loader
from hookline.data.persistent import has_workers, lost_in_workers, start_workers

__all__ = [
    "Loader",
    "MapDataset",
    "build_loader",
    "generators",
    "has_workers",
    "iterations_per_epoch",
    "load_generators",
    "lost_in_workers",
    "start_workers",
    "state_of_generators",
]
