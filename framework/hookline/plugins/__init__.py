"""Names in a config become registered plugins: discover, choose, load, check, register, order, call."""

from hookline.plugins.discovery import HOOKS, WRITERS, LoadedPlugin, find, installed, load
from hookline.plugins.implementation import HookCall
from hookline.plugins.lint import lint, lint_writer
from hookline.plugins.manager import HookManager
from hookline.plugins.order import Place, call_order
from hookline.plugins.state import is_stateful, load_states, state_version, states
from hookline.plugins.trace import Trace

__all__ = [
    "HOOKS",
    "WRITERS",
    "HookCall",
    "HookManager",
    "LoadedPlugin",
    "Place",
    "Trace",
    "call_order",
    "find",
    "installed",
    "is_stateful",
    "lint",
    "lint_writer",
    "load",
    "load_states",
    "state_version",
    "states",
]
