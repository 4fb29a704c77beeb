"""The options of a plugin as its author declared them: what no config could set, or could not write down."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from hookline.config import Option, check_options, describe_options
from hookline.config.options import annotations_of
from hookline.errors import Fault
from hookline.plugins.lint.place import fault

__all__ = ["option_faults"]

_RESERVED = {"hook": ("use", "on_error"), "writer": ("use", "on_error", "period")}


def option_faults(factory: Any, name: str, kind: str) -> Iterator[Fault]:
    """Yield the options of ``factory`` that no config could set, or that would not be checked.

    Takes milliseconds for each option, for its annotation is made a validator: too long for a registration.

    Args:
        factory: A class or a function; anything else has no options.
        name: What it is called in the faults.
        kind: ``hook`` or ``writer``.
    """
    if not callable(factory):
        return
    annotations, _ = annotations_of(factory)
    for option in describe_options(factory):
        where = f"{name}.{option.name}"
        if option.name in _RESERVED[kind]:
            mend = "Give the parameter another name"
            if option.name == "period":
                mend += "; the period of a writer is run.period in open(run)"
            yield fault(where, f"a name that a config leaves to {kind}s", option.name, mend, factory)
        elif unread := _unread(factory, option, annotations[option.name]):
            got = f"{unread}, which names what there is not"
            mend = "Import it, and not for type checkers only"
            yield fault(where, "an annotation that can be read", got, mend, factory)
        elif expected := _refused_default(factory, option):
            rule = f"a default that its annotation allows ({expected})"
            mend = "Mend the default or the annotation: a config could not write down what is the default"
            yield fault(where, rule, repr(option.default), mend, factory)


def _unread(factory: Any, option: Option, annotation: Any) -> str:
    """Return an annotation that cannot be evaluated, as it was written; nothing for one that can."""
    written = inspect.signature(factory).parameters[option.name].annotation
    is_lost = annotation is inspect.Parameter.empty and written is not annotation
    return str(written) if is_lost or isinstance(annotation, str) else ""


def _refused_default(factory: Any, option: Option) -> str:
    """Return the rule that the default breaks, an empty string if it breaks none; None is always right."""
    if option.required:
        return ""
    _, problems = check_options(factory, {option.name: option.default}, "")
    return next((problem.expected for problem in problems if not problem.missing), "")
