"""The loop: what happens in an iteration and at its end, and how a run begins and ends."""

from hookline.trainer.base import Checkpointer, Evaluation, Status, TrainerBase
from hookline.trainer.restoring import restoring, say_if_exit
from hookline.trainer.simple import SimpleTrainer
from hookline.trainer.weights import find_weights, load_weights, offered_weights, saved_weights, weights_in

__all__ = [
    "Checkpointer",
    "Evaluation",
    "SimpleTrainer",
    "Status",
    "TrainerBase",
    "find_weights",
    "load_weights",
    "offered_weights",
    "restoring",
    "saved_weights",
    "say_if_exit",
    "weights_in",
]
