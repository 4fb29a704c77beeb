"""The order in which plugins are called: the order given, refined by what each declares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hookline.errors import PluginError

__all__ = ["Place", "call_order", "place_reasons"]

_Declared = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Place:
    """The place of one plugin among those that implement a hook.

    Args:
        plugin: Its instance name.
        reason: Why it is called there, in words; what weighs most comes first.
        source: Where it came from: distribution and version, or module.
    """

    plugin: str
    reason: str
    source: str


def call_order(names: Sequence[str], before: _Declared, after: _Declared) -> list[str]:
    """Return ``names`` in call order: as given, moved only as far as the declarations demand.

    Args:
        names: Instance names in the order given.
        before: For a name, the names that must come after it.
        after: For a name, the names that must come before it. Names that are absent are ignored.

    Raises:
        PluginError: If the declarations contradict each other.
    """
    return list(_arranged(names, before, after))


def place_reasons(names: Sequence[str], before: _Declared, after: _Declared) -> dict[str, list[str]]:
    """Return why each name is where `call_order` puts it: the declarations that moved it, then its place.

    A declaration that agrees with the order given moves nothing, and is no reason.
    """
    waited_for = _arranged(names, before, after)
    reasons: dict[str, list[str]] = {name: [] for name in names}
    for name in names:
        overtaken = [other for other in names if name in waited_for[other] and other in before.get(name, ())]
        if overtaken:
            reasons[name].append(f"declares before={_tuple(overtaken)}")
        own = [other for other in waited_for[name] if other in after.get(name, ())]
        if own:
            reasons[name].append(f"declares after={_tuple(own)}")
        reasons[name] += [
            f"after {other!r}, which declares before={_tuple([name])}"
            for other in waited_for[name]
            if other not in own
        ]
        reasons[name].append(f"place {names.index(name) + 1} in the list")
    return reasons


def _arranged(names: Sequence[str], before: _Declared, after: _Declared) -> dict[str, list[str]]:
    """Return, in call order, each name with those it had to wait for when its turn came."""
    present = set(names)
    earlier: dict[str, set[str]] = {name: set(after.get(name, ())) & present for name in names}
    for name in names:
        for later in set(before.get(name, ())) & present:
            earlier[later].add(name)

    ordered: dict[str, list[str]] = {}
    waited_for: dict[str, list[str]] = {}
    waiting = list(names)
    while waiting:
        for name in waiting:
            missing = [other for other in names if other in earlier[name] and other not in ordered]
            waited_for.setdefault(name, missing)
            if not missing:
                ordered[name] = waited_for[name]
                waiting.remove(name)
                break
        else:
            raise PluginError(
                f"hooks: expected an order that every plugin's before and after allow, got a cycle: "
                f"{' must come before '.join(_cycle(earlier, waiting))}. Remove one of the declarations."
            )
    return ordered


def _tuple(names: Sequence[str]) -> str:
    return repr(tuple(names))


def _cycle(earlier: Mapping[str, set[str]], waiting: Sequence[str]) -> list[str]:
    """Return one cycle among ``waiting`` in call order, its first name repeated at its end."""
    path = [waiting[0]]
    while path[-1] not in path[:-1]:
        path.append(next(name for name in waiting if name in earlier[path[-1]]))
    return path[path.index(path[-1]) :][::-1]
