"""The loop: what happens in an iteration and at its end, and how a run begins and ends."""

from hookline.trainer.base import Checkpointer, Evaluation, Status, TrainerBase
from hookline.trainer.restoring import restoring, say_if_exit
from hookline.trainer.simple import SimpleTrainer
from hookline.trainer.weights import load_weights, offered_weights, saved_weights

__all__ = [
    "Checkpointer",
    "Evaluation",
    "SimpleTrainer",
    "Status",
    "TrainerBase",
    "load_weights",
    "offered_weights",
    "restoring",
    "saved_weights",
    "say_if_exit",
]
