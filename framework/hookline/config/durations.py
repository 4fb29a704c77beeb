"""Lengths of time as people write them: ``3h50m``, ``90s``, and ``1-12:00:00`` as SLURM does."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, TypeAlias

from hookline.config.rules import Rule

__all__ = ["RULE", "TimeLimit", "duration_text", "seconds"]

RULE = "a time > 0 such as 3h50m or 90s, 1-12:00:00 as SLURM writes it, or a number of seconds"

_UNITS_S = {"d": 86400, "h": 3600, "m": 60, "s": 1}
# The largest unit may be any number, those after it stay below the next larger one.
_WORDS = (
    r"(?P<d>\d+)d( *(?P<dh>1?\d|2[0-3])h)?( *(?P<dm>[1-5]?\d)m)?( *(?P<ds>[1-5]?\d)s)?",
    r"(?P<h>\d+)h( *(?P<hm>[1-5]?\d)m)?( *(?P<hs>[1-5]?\d)s)?",
    r"(?P<m>\d+)m( *(?P<ms>[1-5]?\d)s)?",
    r"(?P<s>\d+)s?",
)
_SLURM = (
    r"(?P<D>\d+)-(?P<Dh>[01]?\d|2[0-3])(:(?P<Dm>[0-5]?\d)(:(?P<Ds>[0-5]?\d))?)?",
    r"((?P<H>\d+):(?P<Hm>[0-5]?\d)|(?P<M>\d+)):(?P<Hs>[0-5]?\d)",
)
_FORMS = re.compile("|".join((*_WORDS, *_SLURM)), re.ASCII)


def seconds(value: Any) -> float:
    """Return the seconds that ``value`` says: a number of them, or a text of the forms above.

    Raises:
        ValueError: If it is none, or not above 0.
    """
    if isinstance(value, str):
        match = _FORMS.fullmatch(value.strip())
        parts = match.groupdict() if match else {}
        value = sum(_UNITS_S[name[-1].lower()] * int(part) for name, part in parts.items() if part)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError
    return value


def duration_text(length_s: float) -> str:
    """Return ``length_s`` as `seconds` reads it, to the second from a minute on: ``3h50m``, ``2.5s``."""
    if length_s < _UNITS_S["m"]:
        return f"{length_s:g}s"
    rest, text = round(length_s), ""
    for unit, size in _UNITS_S.items():
        amount, rest = divmod(rest, size)
        text += f"{amount}{unit}" if amount else ""
    return text


_SCHEMA = {
    "anyOf": [
        {"type": "number", "exclusiveMinimum": 0},
        {
            "type": "string",
            "pattern": rf"^(?=.*[1-9])\s*({re.sub('[?]P<[A-Za-z]+>', '', _FORMS.pattern)})\s*$",
        },
    ]
}

TimeLimit: TypeAlias = Annotated[float, Rule(RULE, seconds, _SCHEMA)]
"""Annotation of a length of time in seconds, which a config may write in other units, too."""
