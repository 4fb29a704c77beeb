"""A new plugin from a template: a distribution that installs, passes its tests and can be published."""

from __future__ import annotations

from hookline.scaffold.names import Names, plugin_name
from hookline.scaffold.write import new_plugin

__all__ = ["Names", "new_plugin", "plugin_name"]
