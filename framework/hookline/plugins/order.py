"""The order in which plugins are called: the order given, refined by what each declares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hookline.errors import PluginError

__all__ = ["call_order"]


def call_order(
    names: Sequence[str], before: Mapping[str, Sequence[str]], after: Mapping[str, Sequence[str]]
) -> list[str]:
    """Return ``names`` in call order: as given, moved only as far as the declarations demand.

    Args:
        names: Instance names in the order given.
        before: For a name, the names that must come after it.
        after: For a name, the names that must come before it. Names that are absent are ignored.

    Raises:
        PluginError: If the declarations contradict each other.
    """
    present = set(names)
    earlier: dict[str, set[str]] = {name: set(after.get(name, ())) & present for name in names}
    for name in names:
        for later in set(before.get(name, ())) & present:
            earlier[later].add(name)

    ordered: list[str] = []
    waiting = list(names)
    while waiting:
        ready = next((name for name in waiting if earlier[name] <= set(ordered)), None)
        if ready is None:
            raise PluginError(
                f"hooks: expected an order that every plugin's before and after allow, got a cycle: "
                f"{' must come before '.join(_cycle(earlier, waiting))}. Remove one of the declarations."
            )
        ordered.append(ready)
        waiting.remove(ready)
    return ordered


def _cycle(earlier: Mapping[str, set[str]], waiting: Sequence[str]) -> list[str]:
    """Return one cycle among ``waiting`` in call order, its first name repeated at its end."""
    path = [waiting[0]]
    while path[-1] not in path[:-1]:
        path.append(next(name for name in waiting if name in earlier[path[-1]]))
    return path[path.index(path[-1]) :][::-1]
