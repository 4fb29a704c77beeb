"""The plugin that is checked, as something that new ones can be made of."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from hookline.errors import Fault
from hookline.events import EventWriter
from hookline.testing.conformance.settings import kept_settings

__all__ = ["Subject", "refused"]

_TAKEN = ("checkpoint", "evaluate", "writers")  # by the other plugins of the runs


@dataclass(frozen=True)
class Subject:
    """A plugin and its options.

    Args:
        plugin: A class, a function that makes the plugin, a module, or an object to copy.
        options: As its factory is to be given them.
        name: What its instance is called.
    """

    plugin: Any
    options: Mapping[str, Any]
    name: str

    @classmethod
    def of(cls, plugin: Any, options: Mapping[str, Any]) -> Subject:
        """Return the subject that ``plugin`` means, with ``options`` as a config gives them.

        Raises:
            TypeError: If ``plugin`` is a name, or nothing.
        """
        if plugin is None or isinstance(plugin, str):
            raise TypeError(
                "assert_plugin_conforms: expected a class, a function, a module or an object, got "
                f"{plugin!r}. Import the plugin."
            )
        name = getattr(plugin, "__name__", type(plugin).__name__).rpartition(".")[2]
        name = re.sub(r"[^\w-]", "", name)  # of <lambda>
        return cls(plugin, dict(options), f"my-{name}" if name in _TAKEN else name)

    @property
    def is_module(self) -> bool:
        """True for a module: there is only one of it."""
        return isinstance(self.plugin, ModuleType)

    @property
    def is_writer(self) -> bool:
        """True for an event writer."""
        if inspect.isclass(self.plugin):
            return issubclass(self.plugin, EventWriter)
        return isinstance(self.sample(), EventWriter)

    @property
    def options_of(self) -> Callable[..., Any]:
        """What the parameters of are its options; a module or an object has none."""
        return self.plugin if callable(self.plugin) else _no_options

    def new(self) -> Any:
        """Return a new plugin, but of a module the module itself."""
        if self.is_module:
            return self.plugin
        return self.plugin(**self.options) if callable(self.plugin) else copy.deepcopy(self.plugin)

    def sample(self) -> Any:
        """Return a new plugin to look at, not to run: what making it sets in torch is set back."""
        with kept_settings():
            return self.new()


def refused(where: str, expected: str, got: str, mend: str) -> AssertionError:
    """Return the error of a check that failed."""
    return AssertionError(str(Fault(where, expected, got, mend)))


def _no_options() -> None:
    """Take nothing."""
