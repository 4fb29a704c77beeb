"""Writes the events of a hookline run to Weights & Biases; importing this imports no wandb."""

from hookline_wandb.writer import WandbWriter

__all__ = ["WandbWriter"]
