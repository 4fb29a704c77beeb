"""The plugins a run was made with, recorded in its directory and its checkpoints, and compared on resume."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hookline import distributed
from hookline.catalog import HOOKS, WRITERS, find, normalized, plugin_of
from hookline.config import Config, PluginSpec
from hookline.config.instances import name_in, own
from hookline.delivery import can_go_on
from hookline.errors import PluginError
from hookline.events import EventWriter
from hookline.plugins import HookManager, is_stateful, state_version

__all__ = ["Change", "agreed", "changes", "record"]

Record = Mapping[str, Any]

_KINDS = {"hooks": "hook", "writers": "writer"}
_MAX_SHOWN = 60

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Change:
    """One difference between the plugins of a checkpoint and those of now.

    Args:
        text: What differs, in one line.
        loses_state: True when a state that the checkpoint holds cannot be used, or not for now.
    """

    text: str
    loses_state: bool = False


def record(config: Config, hooks: HookManager, writers: Mapping[str, EventWriter]) -> dict[str, Any]:
    """Return what ``plugins.json`` and a checkpoint keep of a run's plugins, in list and in call order."""
    plugins = dict(hooks.list_name_plugin())
    return {
        "hooks": [
            _entry(name, plugin, config.hooks, HOOKS, hooks.sources[name], is_stateful(plugin))
            for name, plugin in plugins.items()
        ]
        + [
            _entry(name, plugin, config.hooks, HOOKS, hooks.sources[name], False) | {"switched_off": True}
            for name, plugin in hooks.plugins_off.items()
        ],
        "writers": [
            _entry(name, writer, config.writers, WRITERS, type(writer).__module__, _has_position(writer))
            | {"journal": writer.journal}
            for name, writer in writers.items()
        ],
        "call_order": hooks.names(),
    }


def agreed(state: Mapping[str, Any], now: Record, where: str, policy: str | None) -> dict[str, Any]:
    """Return ``state`` with the plugins' states that can be loaded now; what differs is told, or refused.

    A plugin without a state to load has the entry None, see `load_states`.

    Args:
        state: All of a checkpoint.
        now: The plugins there are now, as `record` returns them.
        where: The key that decides, with its origin.
        policy: ``error``, ``warn`` or ``ignore``; None is ``error`` where a state would be lost, and else
            ``warn``.

    Raises:
        PluginError: If the policy is against a difference.
    """
    saved = state.get("plugins") or _before_locks(state["hooks"], now)
    hooks = dict(_states(state["hooks"], _by_name(saved["hooks"]), now["hooks"]))
    positions = hooks.get("writers") or {"state": {}}
    found = changes(saved, now, positions["state"])
    if policy is None:
        policy = "error" if any(change.loses_state for change in found) else "warn"
    if policy == "error" and found:
        lines = "".join(f"\n  {change.text}" for change in found)
        raise PluginError(
            f"{where}: expected the plugins that the run was saved with, got others:{lines}\n"
            "Put them back as they were, or go on without what cannot be kept: plugins.on_change=warn."
        )
    if policy == "warn" and found and distributed.is_main():
        _log.warning("The plugins differ from those that the run was saved with:")
        for change in found:
            _log.warning("  %s", change.text)
    return {**state, "hooks": hooks}


def changes(saved: Record, now: Record, positions: Record | None = None) -> list[Change]:
    """Return every difference between two records, those that matter most first.

    Args:
        saved: The plugins of a checkpoint.
        now: Those of now.
        positions: What is kept of writers by name, also of those that the checkpoint was saved without.
    """
    found: list[Change] = []
    for section in _KINDS:
        before, after = _by_name(saved[section]), _by_name(now[section])
        found += _gone_or_new(section, before, after, positions or {})
        for name in [name for name in before if name in after]:
            found += _changed(section, before[name], after[name])
    found += _updates([*saved["hooks"], *saved["writers"]], [*now["hooks"], *now["writers"]])
    found += _moves(saved["call_order"], now["call_order"])
    return sorted(found, key=lambda change: not change.loses_state)


def _entry(
    name: str, plugin: Any, specs: Sequence[PluginSpec], group: str, source: str, stateful: bool
) -> dict[str, Any]:
    spec = next((spec for spec in specs if spec.name == name), None)
    entry = {
        "name": name,
        "kind": "hook" if group == HOOKS else "writer",
        "use": type(plugin).__name__ if spec is None else name_in(spec.use),
        "source": source,
        "distribution": None,
        "version": None,
        "options": {} if spec is None else dict(spec.options),
        "state_version": state_version(plugin),
        "stateful": stateful,
    }
    if spec is not None and ".py:" in spec.use:
        entry["source"] = spec.use.rpartition(":")[0]
    elif spec is not None:
        found = plugin_of(find(own(spec.use, group.rpartition(".")[2]), group, name))
        entry |= {"source": found.source, "distribution": found.distribution, "version": found.version}
    return entry


def _has_position(writer: EventWriter) -> bool:
    return type(writer).state_dict is not EventWriter.state_dict


def _by_name(entries: Sequence[Record]) -> dict[str, Record]:
    return {entry["name"]: entry for entry in entries}


def _before_locks(states: Mapping[str, Any], now: Record) -> dict[str, Any]:
    """Return the record of a checkpoint that has none: as far as its states tell, the rest as it is now."""
    hooks: dict[str, dict[str, Any]] = {
        name: {
            "name": name,
            "kind": "hook",
            "use": None,
            "source": "unknown",
            "stateful": True,
            "options": {},
        }
        for name in states
    }
    for hook in now["hooks"]:
        if hook["name"] in states or not hook["stateful"]:
            hooks[hook["name"]] = dict(hook)
    for name, saved in states.items():
        hooks[name] |= {"state_version": saved["version"], "stateful": True}
    return {**now, "hooks": list(hooks.values())}


def _gone_or_new(
    section: str, before: Mapping[str, Record], after: Mapping[str, Record], positions: Record
) -> Iterator[Change]:
    kind = _KINDS[section]
    for name in [name for name in before if name not in after]:
        loses = before[name]["stateful"]
        is_kept = kind == "writer" and name in positions
        kept = "it misses what follows, its position is kept" if is_kept else "its state is dropped"
        end = f", {kept}" if loses else ""
        yield Change(f"{kind} {name!r} ({before[name]['source']}): gone{end}", loses)
    for name in [name for name in after if name not in before]:
        is_back = kind == "writer" and name in positions and _can_go_on(positions[name], after[name])
        how = "back, it goes on after what it has" if is_back else "new, it starts anew"
        text = how if after[name]["stateful"] else how.partition(",")[0]
        yield Change(f"{kind} {name!r} ({after[name]['source']}): {text}")


def _can_go_on(position: Record, entry: Record) -> bool:
    """Return whether the writer of ``entry`` is the one that ``position`` is of."""
    use = f"{entry['distribution']}:{entry['use']}" if entry["distribution"] else entry["use"]
    return can_go_on(position, use, entry["state_version"])


def _changed(section: str, before: Record, after: Record) -> Iterator[Change]:
    """Yield what differs between two entries of one name."""
    name, kind = before["name"], _KINDS[section]
    if not _is_same(before, after):
        loses = before["stateful"]
        end = ", the state of the first is dropped" if loses else ""
        was, now = (f"{entry['use']} ({entry['source']})" for entry in (before, after))
        yield Change(f"{kind} {name!r}: {was} → {now}{end}", loses)
        return
    if before.get("switched_off"):
        if _is_changed(before, after):
            yield Change(f"{kind} {name!r}: was switched off, is on again")
    elif before["stateful"] and not after["stateful"]:
        yield Change(f"{kind} {name!r}: has no state any more, what was saved is dropped", True)
    elif after["stateful"] and not before["stateful"]:
        yield Change(f"{kind} {name!r}: has a state now, it starts anew")
    elif after["stateful"] and before["state_version"] != after["state_version"]:
        versions = f"{before['state_version']} → {after['state_version']}"
        yield Change(f"{kind} {name!r}: state version {versions}, it starts anew", True)
    was, now = before["options"], after["options"]
    for key in [*was, *(key for key in now if key not in was)]:
        if not _are_equal(was.get(key, _UNSET), now.get(key, _UNSET)):
            yield Change(f"{section}.{name}.{key}: {_shown(was, key)} → {_shown(now, key)}")


def _is_same(before: Record, after: Record) -> bool:
    """Return whether two entries of one name are one plugin, maybe of another release or in another file."""
    was, now = (entry.get("distribution") for entry in (before, after))
    is_elsewhere = was and now and normalized(was) != normalized(now)
    return before["use"] == after["use"] and not is_elsewhere


def _is_changed(before: Record, after: Record) -> bool:
    """Return whether a plugin has another release or other options, so that its failures say nothing now."""
    return before["source"] != after["source"] or not _are_equal(before["options"], after["options"])


def _are_equal(one: Any, other: Any) -> bool:
    """Return whether two options are equal, as NaN is to NaN here."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_are_equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_are_equal, one, other))
    return bool(one == other or (one != one and other != other))


def _updates(before: Sequence[Record], after: Sequence[Record]) -> Iterator[Change]:
    """Yield each distribution or file that took the place of another, with the plugins it is about."""
    known = {(entry["kind"], entry["name"]): entry for entry in before}
    names: dict[str, list[str]] = {}
    for entry in after:
        was = known.get((entry["kind"], entry["name"]), entry)
        if _is_same(was, entry) and was["source"] != entry["source"]:
            names.setdefault(f"{was['source']} → {entry['source']}", []).append(entry["name"])
    for update, plugins in names.items():
        yield Change(f"{update}: {', '.join(plugins)}")


def _moves(before: Sequence[str], after: Sequence[str]) -> Iterator[Change]:
    was, now = ([name for name in order if name in set(before) & set(after)] for order in (before, after))
    if was != now:
        yield Change(f"call order: {', '.join(was)} → {', '.join(now)}")


def _states(
    saved: Mapping[str, Any], before: Mapping[str, Record], now: Sequence[Record]
) -> Iterator[tuple[str, Any]]:
    """Yield the state and the failures, or None, of each plugin that has a state or failed."""
    for hook in now:
        name = hook["name"]
        was, entry = before.get(name, {}), saved.get(name) or {}
        kept = []
        if was and _is_same(was, hook):
            kept += ["version", "state"] * (
                hook["stateful"] and was["state_version"] == hook["state_version"]
            )
            kept += ["failures"] * (not _is_changed(was, hook))
        usable = {key: entry[key] for key in kept if key in entry}
        if usable or hook["stateful"]:
            yield name, usable or None


_UNSET = object()


def _shown(options: Mapping[str, Any], key: str) -> str:
    if key not in options:
        return "not set"
    text = repr(options[key])
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 1]}…"
