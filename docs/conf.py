"""How the pages are built: `make docs`."""

from importlib.metadata import version as installed

project = "empool"
author = "The empool developers"
project_copyright = author
version = release = installed("empool")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
html_theme = "furo"
html_title = f"empool {version}"
exclude_patterns = ["_build"]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

# Docstrings write names of Python between single backticks; those that are documented here become links.
default_role = "py:obj"
napoleon_custom_sections = ["Source", "Shape"]
napoleon_use_rtype = False
napoleon_use_ivar = True
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "show-inheritance": False}
python_display_short_literal_types = True
