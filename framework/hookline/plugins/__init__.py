"""Names in a config become registered plugins: discover, choose, load, check, register, order, call."""

from hookline.plugins.discovery import HOOKS, WRITERS, LoadedPlugin, find, installed, load
from hookline.plugins.lint import lint, lint_writer
from hookline.plugins.manager import HookManager
from hookline.plugins.order import call_order

__all__ = [
    "HOOKS",
    "WRITERS",
    "HookManager",
    "LoadedPlugin",
    "call_order",
    "find",
    "installed",
    "lint",
    "lint_writer",
    "load",
]
