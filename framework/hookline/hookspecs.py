"""The contract of a hook plugin: which hooks exist, when each is called, and what it may do.

One iteration calls them in this order::

    before_step ─▶ run_step (forward, backward ─▶ after_backward ─▶ clipping, update) ─▶ after_step

and around the iterations::

    before_train ─▶ … ─▶ [before_evaluate ─▶ after_evaluate] ─▶ [after_save] ─▶ … ─▶ [on_error] ─▶ after_train
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from hookline.trainer import TrainerBase

__all__ = ["HookBase", "HookSpecs", "hookimpl", "hookspec"]

hookspec = pluggy.HookspecMarker("hookline")
hookimpl = pluggy.HookimplMarker("hookline")


class HookSpecs:
    """The hooks a plugin may implement; an implementation names only the arguments it wants."""

    @hookspec
    def before_train(self, trainer: TrainerBase) -> None:
        """Called once before the first iteration, after a resumed run's state is restored.

        Open what the plugin needs here: ``trainer.model``, ``trainer.start_iter`` and
        ``trainer.max_iter`` are set. Costs nothing per iteration. What is drawn, put or requested here when
        a run goes on is undone: it was when the run began.
        """

    @hookspec
    def before_step(self, trainer: TrainerBase) -> None:
        """Called before iteration ``trainer.iter`` runs.

        Keep it short: the device may be idle meanwhile, and timers start here.
        """

    @hookspec
    def after_backward(self, trainer: TrainerBase) -> None:
        """Called once an iteration when every gradient is in place, before clipping and the update.

        Gradients are averaged over microbatches and ranks, and unscaled. They may be read and changed
        in place. Implementing it makes the kernel finish the gradients before the update instead of
        within it.
        """

    @hookspec
    def after_step(self, trainer: TrainerBase) -> None:
        """Called when iteration ``trainer.iter`` has been queued on the device.

        Slow work belongs here, not in ``before_step``. Ask for a stop, an evaluation or a checkpoint
        with ``trainer.request_stop`` and its siblings: the trainer carries them out when every
        ``after_step`` has returned.
        """

    @hookspec
    def before_evaluate(self, trainer: TrainerBase, name: str) -> None:
        """Called before the evaluation ``name`` runs; weights may be swapped here (an average, say).

        Random numbers drawn from here to ``after_evaluate`` do not disturb training.
        """

    @hookspec
    def after_evaluate(self, trainer: TrainerBase, name: str, metrics: Mapping[str, float]) -> None:
        """Called after the evaluation ``name``, with its flat metrics, already put in the storage.

        Undo here what ``before_evaluate`` did. ``request_stop`` and ``request_checkpoint`` still
        take effect in this iteration.
        """

    @hookspec
    def after_save(self, trainer: TrainerBase, path: Path) -> None:
        """Called on rank 0 when the checkpoint at ``path`` is complete and durable.

        One that is written in the background is so at the end of a later iteration, or of the run. A run
        that goes on from there does not call it: random numbers drawn here do not disturb training, and what
        is put must be volatile.
        """

    @hookspec
    def after_load(self, trainer: TrainerBase, path: Path) -> None:
        """Called when the run's state, every plugin's included, was restored from ``path``."""

    @hookspec
    def on_error(self, trainer: TrainerBase, error: BaseException) -> None:
        """Called when training ends by ``error``, before ``after_train``; the error is raised again after.

        Each implementation runs in its own try. It cannot swallow the error.
        """

    @hookspec
    def after_train(self, trainer: TrainerBase) -> None:
        """Called once at the end, however training ended; ``trainer.status`` tells how.

        Each implementation runs in its own try, so all of them run. ``trainer.iter == trainer.max_iter``
        after a finished run.
        """


class HookBase:
    """Base of a hook plugin: override the hooks you need, each with the arguments you want.

    ``self.trainer`` is the trainer the plugin is registered with. No decorator and no
    ``super().__init__()`` is needed. The parameters of ``__init__`` are the plugin's options.

    The class attributes are its traits. Give the plugin ``state_dict`` and ``load_state_dict``
    methods and its state becomes part of every checkpoint, under the plugin's instance name. Weights of the
    model that the state holds under ``model``, an average of them say, are what `hookline.load_model` gives
    for ``weights_of=name``.
    """

    name: str = ""
    """Instance name; set when the plugin is registered."""
    before: tuple[str, ...] = ()
    """Instance names of plugins that must be called after this one."""
    after: tuple[str, ...] = ()
    """Instance names of plugins that must be called before this one."""
    observer: bool = False
    """True when the plugin changes neither weights nor random state."""
    collective: bool = False
    """True when every rank must call it, because it communicates."""
    graph_safe: bool = False
    """True when it may run with an iteration that is replayed as a CUDA graph."""
    state_version: int = 1
    """Raise it when the meaning of ``state_dict`` changes."""

    _trainer: weakref.ReferenceType[TrainerBase] | None = None

    @property
    def trainer(self) -> TrainerBase:
        """The trainer this plugin is registered with; held weakly, so that the model is freed with it."""
        trainer = self._trainer() if self._trainer is not None else None
        if trainer is None:
            raise AttributeError(
                f"{type(self).__name__}.trainer: expected a registered plugin, got one without a trainer. "
                "Pass it to trainer.register_hooks first."
            )
        return trainer

    @trainer.setter
    def trainer(self, trainer: TrainerBase) -> None:
        if not hasattr(trainer, "register_hook"):
            raise AttributeError(
                f"{type(self).__name__}.trainer: expected it to be left alone, got {trainer!r}. "
                "It is the trainer, set when the plugin is registered."
            )
        self._trainer = weakref.ref(trainer)

    def before_train(self, *args: Any, **kwargs: Any) -> Any:
        """See `HookSpecs.before_train`."""

    def before_step(self, *args: Any, **kwargs: Any) -> Any:
        """See `HookSpecs.before_step`."""

    def after_backward(self, *args: Any, **kwargs: Any) -> Any:
        """See `HookSpecs.after_backward`."""

    def after_step(self, *args: Any, **kwargs: Any) -> Any:
        """See `HookSpecs.after_step`."""

    def before_evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """See `HookSpecs.before_evaluate`."""

    def after_evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """See `HookSpecs.after_evaluate`."""

    def after_save(self, *args: Any, **kwargs: Any) -> Any:
        """See `HookSpecs.after_save`."""

    def after_load(self, *args: Any, **kwargs: Any) -> Any:
        """See `HookSpecs.after_load`."""

    def on_error(self, *args: Any, **kwargs: Any) -> Any:
        """See `HookSpecs.on_error`."""

    def after_train(self, *args: Any, **kwargs: Any) -> Any:
        """See `HookSpecs.after_train`."""
