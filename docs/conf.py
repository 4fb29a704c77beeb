"""How Sphinx builds these pages: Markdown by MyST, reference generated from the code, no network."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "hookline"
author = copyright = "The hookline authors"
html_title = "hookline"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "generated"]
exclude_patterns = ["_build", "_ext"]
html_theme = "furo"
html_show_sphinx = False
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["wrap.css"]

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3

# In docstrings `Name` is a name of the code: a link where there is one, else code.
default_role = "py:obj"
add_module_names = False
toc_object_entries_show_parents = "hide"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
