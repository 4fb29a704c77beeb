"""Which plugins are installed, read from the metadata of distributions alone: nothing is imported.

Whatever is wrong with one distribution, the others are found.
"""

from hookline.catalog.installed import (
    GROUPS,
    HOOKS,
    WRITERS,
    InstalledPlugin,
    find,
    hides,
    installed,
    installed_plugins,
    local_plugin,
    means,
    plugin_of,
    qualified_name,
)
from hookline.catalog.metadata import Metadata, all_metadata, normalized
from hookline.catalog.modules import defined_summary, is_of_python, module_spec
from hookline.catalog.requirements import Unmet, unmet

__all__ = [
    "GROUPS",
    "HOOKS",
    "WRITERS",
    "InstalledPlugin",
    "Metadata",
    "Unmet",
    "all_metadata",
    "defined_summary",
    "find",
    "hides",
    "installed",
    "installed_plugins",
    "is_of_python",
    "local_plugin",
    "means",
    "module_spec",
    "normalized",
    "plugin_of",
    "qualified_name",
    "unmet",
]
