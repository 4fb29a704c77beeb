"""An exponential moving average of the weights: kept on their device, and what evaluations measure."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
import torch.distributed as dist
from pydantic import Field
from torch import Tensor, nn

from hookline import CheckpointError, HookBase, Period, PluginError, SimpleTrainer, hookimpl, is_due

__all__ = ["EMA"]

_log = logging.getLogger("hookline")


class EMA(HookBase):
    """Keeps an exponential moving average of the weights, and lets evaluations measure it in their place.

    After an iteration's update: ``average = decay * average + (1 - decay) * weights``, on their device and
    without waiting for it. The first update copies the weights. Numbers of less than 32 bits are averaged in
    float32, where a small change is not lost.

    The average stands in for the weights from the beginning of an evaluation to its end, so metrics, and the
    checkpoint that is best by them, are those of the average. Training itself is as without it. Checkpoints
    hold both; ``load_model(run, weights_of="ema")`` and ``--weights-of ema`` give the average. Where the hook
    is enabled more than once, the first in the list is evaluated, the others are kept.

    It takes as much memory as the weights in float32, and during an evaluation as much again.

    Args:
        decay: Weight of the average in an update; it looks back on about ``1 / (1 - decay)`` updates.
        warmup: Begin with a smaller decay, ``(1 + n) / (10 + n)`` after n updates, until that is ``decay``;
            else the first weights, which are the worst, stay in the average for long.
        period: Update every so many iterations.
        buffers: ``copy`` evaluates with the model's buffers as they are; ``average`` also averages those of
            floating point, such as the statistics of batch norm. With several processes they are those of
            rank 0, which are saved: an update then broadcasts them.

    Source:
        torch.optim.swa_utils.get_ema_multi_avg_fn, equal to the bit without ``warmup``; the warm-up is that
        of ``num_updates`` in tf.train.ExponentialMovingAverage.
    """

    # Training is as without it, but what is measured is not: that is no mere observer.
    observer = False
    graph_safe = True

    def __init__(
        self,
        decay: Annotated[float, Field(ge=0, lt=1)] = 0.9999,
        warmup: bool = True,
        period: Period = 1,
        buffers: Literal["copy", "average"] = "copy",
    ) -> None:
        if period == 0:
            raise ValueError("period: expected at least 1, got 0. Remove the hook to average nothing.")
        self.decay, self.warmup, self.period, self.buffers = decay, warmup, period, buffers
        self.collective = buffers == "average"
        self.num_updates = 0
        self._by_name: dict[str, Tensor] = {}
        self._averages: list[Tensor] = []  # those of the parameters, then those of the buffers
        self._parameters: list[Tensor] = []
        self._buffers: list[tuple[nn.Module, str]] = []
        self._is_narrow = False
        self._set_aside: list[Tensor] | None = None

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """The average of each weight by its name in the model's state dict; empty before the first update."""
        return dict(self._by_name) if self.num_updates else {}

    def before_train(self, trainer: SimpleTrainer) -> None:
        """Make room for the average, or go on with that of the checkpoint."""
        model = getattr(trainer, "model", None)
        if not isinstance(model, nn.Module):
            raise PluginError(
                f"{self.name}: expected a trainer with a model, got {type(trainer).__name__} without. "
                "Set trainer.model before training."
            )
        self._put_back()
        self._bind(model)
        if first := self._evaluated(trainer):
            measured = "its average" if first is self else f"that of {first.name!r}, which is before it"
            _log.info("%s: evaluations measure %s, not the weights that are trained.", self.name, measured)

    def after_step(self, trainer: SimpleTrainer) -> None:
        """Update the average when the period ends."""
        if is_due(trainer.iter, self.period):
            self.update()

    def update(self) -> None:
        """Take the weights as they are now into the average; queued on their device, not waited for.

        With ``buffers: average`` every process must call it.
        """
        averages, live = self._averages, self._live()
        with torch.no_grad():
            live = self._with_shared_buffers(live)
            if self.num_updates == 0:
                torch._foreach_copy_(averages, live)
            else:
                n = self.num_updates
                decay = min(self.decay, (1 + n) / (10 + n)) if self.warmup else self.decay
                if self._is_narrow:
                    live = [value.to(average.dtype) for average, value in zip(averages, live, strict=True)]
                torch._foreach_lerp_(averages, live, 1 - decay)
                num_parameters = len(self._parameters)
                for average, value in zip(averages[num_parameters:], live[num_parameters:], strict=True):
                    # In a buffer -inf may stand for masked, and -inf less -inf is NaN.
                    average.copy_(torch.where(average.isfinite(), average, value))
        self.num_updates += 1

    @hookimpl(tryfirst=True)
    def before_evaluate(self, trainer: SimpleTrainer) -> None:
        """Let the average stand in for the weights, before any other plugin looks at them."""
        if self.num_updates and self._evaluated(trainer) is self:
            live = self._live()
            with torch.no_grad():
                # hookline's evaluations leave every rank with the buffers of rank 0: so does this one.
                self._set_aside = self._with_shared_buffers([value.clone() for value in live])
                torch._foreach_copy_(live, self._averages)

    @hookimpl(trylast=True)
    def after_evaluate(self) -> None:
        """Put the weights back, when every other plugin has looked at the average."""
        self._put_back()

    @hookimpl(tryfirst=True)
    def on_error(self) -> None:
        """Put the weights back before any other plugin looks: it may be the evaluation that failed."""
        self._put_back()

    def state_dict(self) -> dict[str, Any]:
        """Return the average under ``model``, where `hookline.load_model` finds it; it is not copied."""
        return {"num_updates": self.num_updates, "model": self.weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from an average, at the next ``before_train``."""
        self.num_updates = state["num_updates"]
        self._by_name = {name: value.clone() for name, value in state["model"].items()}

    def _bind(self, model: nn.Module) -> None:
        """Give each tensor of ``model`` that is averaged its average, where it is."""
        owners = {
            id(buffer): (module, name)
            for module in model.modules()
            for name, buffer in module.named_buffers(recurse=False)
        }
        saved, self._by_name = self._by_name, {}
        averages: dict[int, Tensor] = {}
        parameters: list[Tensor] = []
        buffers: list[Tensor] = []
        for name, value in self._averaged(model).items():
            if id(value) not in averages:  # A tied weight has several names, and one average.
                averages[id(value)] = self._first(name, value, saved)
                if isinstance(value, nn.Parameter):
                    parameters.append(value)
                else:
                    buffers.append(value)
            self._by_name[name] = averages[id(value)]
        self._averages = [averages[id(value)] for value in (*parameters, *buffers)]
        pairs = zip(self._averages, (*parameters, *buffers), strict=True)
        self._is_narrow = any(average.dtype != value.dtype for average, value in pairs)
        self._parameters, self._buffers = parameters, [owners[id(buffer)] for buffer in buffers]

    def _averaged(self, model: nn.Module) -> dict[str, Tensor]:
        """Return what is averaged by its names in the model's state dict, which is all that is saved."""
        state = model.state_dict(keep_vars=True)
        kept = {name: value for name, value in state.items() if isinstance(value, Tensor)}
        return {
            name: value
            for name, value in kept.items()
            if (value.is_floating_point() or value.is_complex())
            and (self.buffers == "average" or isinstance(value, nn.Parameter))
        }

    def _first(self, name: str, value: Tensor, saved: Mapping[str, Tensor]) -> Tensor:
        """Return what the average of ``value`` begins with: what was saved, or a copy that is replaced."""
        wide = torch.promote_types(value.dtype, torch.float32)
        is_new = name not in saved and not isinstance(value, nn.Parameter)  # the option was changed since
        if not self.num_updates or is_new:
            return value.detach().to(wide, copy=True)
        if name not in saved or saved[name].shape != value.shape:
            got = f"shape {tuple(saved[name].shape)}" if name in saved else "none"
            raise CheckpointError(
                f"{self.name}: expected an average of {name} of shape {tuple(value.shape)}, got {got}. "
                "Use the model it was saved with, or give the hook another name, and it starts anew."
            )
        return saved[name].to(value.device, wide)

    def _live(self) -> list[Tensor]:
        """Return what is averaged as it is now; a forward may have assigned another tensor to a buffer."""
        return self._parameters + [getattr(module, name) for module, name in self._buffers]

    def _with_shared_buffers(self, values: Sequence[Tensor]) -> list[Tensor]:
        """Return ``values`` with rank 0's of the buffers among them: each rank's forward saw other data."""
        num_parameters = len(self._parameters)
        return [*values[:num_parameters], *_of_rank_0(values[num_parameters:])]

    def _evaluated(self, trainer: SimpleTrainer) -> EMA | None:
        """Return the first of its kind: two that swapped in turn would put back each other's average."""
        plugins = map(trainer.hooks.get_plugin, trainer.hooks.names())
        return next((plugin for plugin in plugins if isinstance(plugin, EMA)), None)

    def _put_back(self) -> None:
        if self._set_aside is not None:
            with torch.no_grad():
                torch._foreach_copy_(self._live(), self._set_aside)
            self._set_aside = None


def _of_rank_0(values: Sequence[Tensor]) -> list[Tensor]:
    """Return the ``values`` of rank 0, in one broadcast a device and dtype; no device is waited for."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return list(values)
    shared = list(values)
    for kind in dict.fromkeys((value.device, value.dtype) for value in values):
        places = [i for i, value in enumerate(values) if (value.device, value.dtype) == kind]
        flat = torch.cat([values[i].reshape(-1) for i in places])
        dist.broadcast(flat, src=0)
        for i, part in zip(places, torch.split(flat, [values[i].numel() for i in places]), strict=True):
            shared[i] = part.view(values[i].shape)
    return shared
