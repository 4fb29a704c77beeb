"""What a model scores on data: mean losses and metrics, with the model left as it was."""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import reduce
from itertools import islice
from numbers import Real
from typing import Any, Protocol, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hookline import distributed
from hookline.data import has_workers, load_generators, start_workers, state_of_generators
from hookline.errors import ConfigError, Problem, RunError, add_note, did_you_mean
from hookline.kernel import AUTOCAST_DTYPES
from hookline.nesting import to_device

__all__ = ["Metric", "check_metrics", "evaluate", "evaluation_state", "load_evaluation_state"]


class Metric(Protocol):
    """Something measured over a whole evaluation; every metric of torchmetrics is one.

    The parameters of ``update`` are names of model outputs::

        class Accuracy:
            def reset(self):
                self.num_right = self.num_items = 0

            def update(self, logits, labels):
                self.num_right += (logits.argmax(-1) == labels).sum()
                self.num_items += len(labels)

            def compute(self):
                return self.num_right / self.num_items

            def merge(self, other):  # only where several ranks evaluate
                self.num_right += other.num_right
                self.num_items += other.num_items

    On several ranks each sees its own share of the data. Then a metric either has a method ``sync``, as
    torchmetrics' have, and combines itself over ranks inside ``compute``, or a method ``merge(other)`` that
    adds what another rank's copy has seen.
    """

    def reset(self) -> Any:
        """Forget everything; called before the first batch and after ``compute``."""
        ...

    def update(self, *args: Any, **kwargs: Any) -> Any:
        """Take the outputs of one batch, without gradients, on the device, as keyword arguments."""
        ...

    def compute(self) -> Any:
        """Return a number, a 0-D tensor, or a dict of them, which may be nested."""
        ...


def evaluate(
    model: nn.Module,
    loader: Iterable[Any],
    metrics: Mapping[str, Metric] = {},
    *,
    device: torch.device | str | None = None,
    precision: str = "fp32",
    max_batches: int = 0,
) -> dict[str, float]:
    """Return the mean losses of ``model`` over ``loader``, and what ``metrics`` computed, by flat name.

    In eval mode ``model(batch)`` returns a 0-D loss or a dict. In a dict, 0-D floating-point tensors are
    losses; ``num_items``, where there is one, is how many items they are means over, and their weight;
    batches weigh the same otherwise. Everything else is an output for metrics to take by name.

    The same names as in training: ``total_loss`` is the sum of the losses, and each has its own entry where
    there are several. A metric's dict is flattened: ``accuracy/top1``.

    No gradients are kept, and every submodule gets its mode back, also after an error. Nothing is drawn from
    a random generator here, though model and data may. Losses are read from the device once, at the end.
    A loader that has ``rewind()`` is rewound, so every evaluation sees the same batches: give it a loader
    of its own, not the one that training draws from.

    Args:
        model: The model; `DistributedDataParallel` around it is fine, ranks may have unequally many batches.
        loader: Yields batches; on several ranks, each its share.
        metrics: What to measure besides losses, by the name of its result.
        device: Where batches are sent; None: where the model's first parameter is.
        precision: ``fp32``, or autocast in ``bf16`` or ``fp16``.
        max_batches: Stop after so many batches on each rank; 0 takes all.

    Raises:
        ConfigError: If model and metrics do not fit together, or a result is not a number.
        RunError: If there is no batch, on any rank.
    """
    check_metrics(metrics, precision)
    module: nn.Module = model.module if isinstance(model, DistributedDataParallel) else model
    device = torch.device(device or next((p.device for p in module.parameters()), "cpu"))
    if callable(rewind := getattr(loader, "rewind", None)):
        rewind()
    for metric in metrics.values():
        if isinstance(metric, nn.Module):
            metric.to(device)
        metric.reset()
    totals = _Totals(device)
    dtype = AUTOCAST_DTYPES[precision]
    with _eval_mode(module), torch.no_grad():
        for batch in islice(loader, max_batches or None):
            with torch.autocast(device.type, dtype=dtype) if dtype else nullcontext():
                output = module(to_device(batch, device))
            losses, outputs, num_items = _split(output, type(module).__name__)
            totals.add(losses, num_items)
            for name, metric in metrics.items():
                _update(name, metric, outputs)
        results = totals.means(type(loader).__name__)
        for name, metric in metrics.items():
            results |= _computed(name, metric, taken=results)
    if not results:
        expected = "a loss from the model in eval mode, or a metric"
        raise ConfigError([Problem("evaluate", expected, missing=True, fix="Return a loss or add a metric")])
    return results


def evaluation_state(loader: Iterable[Any], metrics: Mapping[str, Metric]) -> dict[str, Any]:
    """Return what outlasts an evaluation: the data's random generators and workers, and what metrics keep.

    A metric keeps something across evaluations if it has ``state_dict`` and ``load_state_dict``. One that is
    a module has them anyway, and does not: every evaluation resets it.
    """
    kept = {name: metric for name, metric in metrics.items() if _keeps_state(metric)}
    return {
        "generators": state_of_generators(loader),
        "has_workers": has_workers(loader),
        "metrics": {name: metric.state_dict() for name, metric in kept.items()},
    }


def load_evaluation_state(
    loader: Iterable[Any], metrics: Mapping[str, Metric], state: Mapping[str, Any]
) -> None:
    """Restore what `evaluation_state` returned; a metric that is new starts anew."""
    if state["has_workers"] and not has_workers(loader):
        start_workers(loader)
    load_generators(loader, state["generators"])
    for name, saved in state["metrics"].items():
        metric: Any = metrics.get(name)
        if metric is not None and _keeps_state(metric):
            metric.load_state_dict(saved)


def _keeps_state(metric: Any) -> TypeGuard[_Stateful]:
    has_both = hasattr(metric, "state_dict") and hasattr(metric, "load_state_dict")
    return has_both and not isinstance(metric, nn.Module)


class _Stateful(Protocol):
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class _Totals:
    """Sums of losses and of their weights, kept on the device; float64 where it has that."""

    def __init__(self, device: torch.device) -> None:
        self.num_batches = 0
        self._dtype = torch.float32 if device.type == "mps" else torch.float64
        self._sums: dict[str, Tensor] = {}  # name -> (sum of loss x weight, sum of weights)

    def add(self, losses: Mapping[str, Tensor], num_items: int | Tensor) -> None:
        """Count one batch."""
        self.num_batches += 1
        for name, loss in losses.items():
            weight = loss.new_zeros((), dtype=self._dtype).add_(num_items)
            pair = torch.stack([loss.to(self._dtype) * weight, weight])
            self._sums[name] = self._sums[name] + pair if name in self._sums else pair

    def means(self, loader: str) -> dict[str, float]:
        """Return the weighted mean of each loss over all batches of all ranks; read the device once."""
        sums = torch.stack([*self._sums.values()]).tolist() if self._sums else []
        ranks = distributed.gather((self.num_batches, dict(zip(self._sums, sums, strict=True))))
        if not any(num_batches for num_batches, _ in ranks):
            raise RunError(
                f"evaluate: expected at least one batch, got none from {loader}. "
                "Check the length of its data, and that it can be iterated over more than once."
            )
        names = dict.fromkeys(name for _, sums_of_rank in ranks for name in sums_of_rank)
        means = {}
        for name in names:
            pairs = [sums_of_rank[name] for _, sums_of_rank in ranks if name in sums_of_rank]
            total, weight = (sum(column) for column in zip(*pairs, strict=True))
            means[name] = total / weight if weight else math.nan
        return means


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    """Put every submodule in eval mode; on exit, each back in its own."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _split(output: Any, model: str) -> tuple[dict[str, Tensor], dict[str, Any], int | Tensor]:
    """Return what a model returned: losses and their sum, outputs for metrics, number of items."""
    outputs = dict(output) if isinstance(output, Mapping) else {"total_loss": output}
    num_items = outputs.pop("num_items", 1)
    losses = {name: value for name, value in outputs.items() if _is_scalar(value)}
    where = f"{model}(batch) in eval mode"
    if not isinstance(output, Mapping) and not losses:
        raise ConfigError(
            [Problem(where, "a 0-D floating-point loss, or a dict of losses and outputs", output)]
        )
    if "total_loss" in losses and len(losses) > 1:
        fix = "Leave 'total_loss' out: it is their sum"
        raise ConfigError([Problem(where, "losses not named 'total_loss'", [*losses], fix=fix)])
    if losses:
        # At least float32: sums of halves lose digits, or overflow.
        losses = {
            name: loss.to(torch.promote_types(loss.dtype, torch.float32)) for name, loss in losses.items()
        }
        total = reduce(operator.add, losses.values())
        losses = {"total_loss": total, **(losses if len(losses) > 1 else {})}
    return losses, outputs, num_items


def _is_scalar(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 0 and value.is_floating_point()


def _update(name: str, metric: Metric, outputs: Mapping[str, Any]) -> None:
    """Give ``metric`` the outputs that the parameters of its ``update`` are named after."""
    arguments, problems = {}, []
    for parameter in inspect.signature(metric.update).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            arguments = dict(outputs)
        elif parameter.name in outputs:
            arguments[parameter.name] = outputs[parameter.name]
        elif parameter.default is parameter.empty and parameter.kind is not parameter.VAR_POSITIONAL:
            expected = f"a model output named {parameter.name!r}, which {type(metric).__name__}.update takes"
            exists = f"In eval mode the model returned {', '.join(outputs)}"
            fix = did_you_mean(parameter.name, outputs) or "Return it from the model in eval mode"
            problems.append(Problem(f"metrics.{name}", expected, missing=True, exists=exists, fix=fix))
    if problems:
        raise ConfigError(problems)
    try:
        metric.update(**arguments)
    except Exception as error:
        add_note(error, f"In the metric {name!r}, whose update was given {', '.join(arguments)}.")
        raise


def _computed(name: str, metric: Metric, taken: Mapping[str, float]) -> dict[str, float]:
    """Return what ``metric`` measured over all ranks, flat, and reset it."""
    whole = metric
    if distributed.world_size() > 1 and hasattr(metric, "merge"):
        # On every rank in rank order, so that all compute the same to the bit.
        whole, *others = distributed.gather(metric)
        for other in others:
            whole.merge(other)
    results = dict(_flat(name, whole.compute()))
    metric.reset()
    if double := [key for key in results if key in taken]:
        raise ConfigError([Problem(f"metrics.{name}", "a name that no loss has", double[0], fix="Rename it")])
    return results


def _flat(name: str, value: Any) -> Iterator[tuple[str, float]]:
    """Yield the numbers in ``value`` with their names, those of nested ones joined by ``/``."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(f"{name}/{key}", inner)
    elif isinstance(value, Real) or (
        isinstance(value, Tensor) and value.ndim == 0 and not value.is_complex()
    ):
        yield name, float(value)
    else:
        shape = f" of shape {tuple(value.shape)}" if hasattr(value, "shape") else ""
        expected = "a number, a 0-D tensor or a dict of them from compute()"
        fix = "Return a dict with a name for each number"
        raise ConfigError([Problem(f"metrics.{name}", expected, f"{type(value).__name__}{shape}", fix=fix)])


def check_metrics(metrics: Mapping[str, Metric], precision: str, where: str = "metrics") -> None:
    """Raise if a metric lacks a method, or would count only this rank's share of the data."""
    problems = []
    if precision not in AUTOCAST_DTYPES:
        expected = f"one of {', '.join(AUTOCAST_DTYPES)}"
        problems.append(Problem("evaluate.precision", expected, precision))
    for name, metric in metrics.items():
        at, kind = f"{where}.{name}", type(metric).__name__
        missing = [method for method in ("update", "compute", "reset") if not hasattr(metric, method)]
        if missing or isinstance(metric, type):
            fix = "Give it an instance of a class that has them"
            problems.append(Problem(at, "an object with update, compute and reset", metric, fix=fix))
        elif distributed.world_size() > 1 and not _combines(metric):
            fix = f"Give {kind} a method merge(self, other)"
            expected = f"a metric that can be combined over {distributed.world_size()} ranks"
            problems.append(Problem(at, expected, metric, "It has neither sync nor merge", fix))
    if problems:
        raise ConfigError(problems)


def _combines(metric: Metric) -> bool:
    # A MetricCollection has no sync of its own: its members do.
    parts: Iterable[Any] = metric.modules() if isinstance(metric, nn.Module) else [metric]
    return hasattr(metric, "merge") or any(hasattr(part, "sync") for part in parts)
