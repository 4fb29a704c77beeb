"""The state of plugins in a checkpoint: one entry by instance name, with the version of its meaning."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

from hookline.errors import CheckpointError, HooklineError, PluginError, add_note
from hookline.plugins.manager import HookManager

__all__ = ["is_stateful", "load_states", "state_version", "states"]

_log = logging.getLogger(__name__)


def is_stateful(plugin: Any) -> bool:
    """Return whether the state of ``plugin`` is part of checkpoints."""
    return hasattr(plugin, "state_dict") and hasattr(plugin, "load_state_dict")


def state_version(plugin: Any) -> int:
    """Return the version of the meaning of its state, a trait of ``plugin``."""
    version: int = getattr(plugin, "state_version", 1)
    return version


def states(hooks: HookManager) -> dict[str, Any]:
    """Return version and state of every plugin that has one, by instance name, and how often which failed.

    Raises:
        PluginError: If what a plugin returns is no mapping.
    """
    found = {}
    for name, plugin in _stateful(hooks):
        try:
            state = plugin.state_dict()
        except Exception as error:
            add_note(error, f"Raised by plugin {name!r} ({hooks.sources[name]}), state_dict")
            raise
        if not isinstance(state, Mapping):
            raise PluginError(
                f"{name} ({hooks.sources[name]}): expected a mapping from state_dict, got {state!r}. "
                "Return what load_state_dict takes."
            )
        found[name] = {"version": state_version(plugin), "state": state}
    for name, failures in hooks.failures.items():
        found.setdefault(name, {})["failures"] = failures
    return found


def load_states(hooks: HookManager, saved: Mapping[str, Any]) -> None:
    """Give every plugin its state from ``saved``, as `states` returned it; who was switched off is again.

    A plugin whose entry is None starts anew, and whoever put None there has said so. A state that is
    missing, or that nobody takes, is told in a warning.

    Raises:
        CheckpointError: If a state is of another version than its plugin, or its plugin cannot take it.
    """
    for name, entry in saved.items():
        if entry is not None and "failures" in entry and hooks.has_plugin(name):
            hooks.load_failures(name, entry["failures"])
    saved = {name: entry for name, entry in saved.items() if entry is None or "state" in entry}
    plugins = dict(_stateful(hooks))
    for name in saved.keys() - plugins.keys():
        _log.warning("The checkpoint holds the state of plugin %r, which is not enabled now.", name)
    for name, plugin in plugins.items():
        if name not in saved:
            _log.warning("The checkpoint holds no state of plugin %r: it starts anew.", name)
        elif saved[name] is not None:
            _load(plugin, name, hooks.sources[name], saved[name])


def _load(plugin: Any, name: str, source: str, saved: Mapping[str, Any]) -> None:
    version = state_version(plugin)
    if saved["version"] != version:
        raise CheckpointError(
            f"{name}: expected state of version {version}, got version {saved['version']}. "
            f"It was saved by another version of {source}. Install that one."
        )
    try:
        plugin.load_state_dict(saved["state"])
    except HooklineError:
        raise
    except Exception as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        raise CheckpointError(
            f"{name} ({source}): expected its load_state_dict to take what its state_dict returned, got "
            f"{type(error).__name__}: {error}. It was raised at {at.filename}:{at.lineno}. Mend it; "
            "where the state means something else now, raise state_version."
        ) from error


def _stateful(hooks: HookManager) -> Iterator[tuple[str, Any]]:
    for name in hooks.names():
        plugin = hooks.get_plugin(name)
        if is_stateful(plugin):
            yield name, plugin
