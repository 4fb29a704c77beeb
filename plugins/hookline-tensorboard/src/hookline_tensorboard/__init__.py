"""Writes the events of a hookline run for TensorBoard; importing this imports no TensorBoard."""

from hookline_tensorboard.writer import TensorBoardWriter

__all__ = ["TensorBoardWriter"]
