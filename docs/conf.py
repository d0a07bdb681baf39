"""How the pages are built: `make docs`."""

from importlib.metadata import version as installed

project = "empool"
author = "The empool developers"
project_copyright = author
version = release = installed("empool")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
html_theme = "furo"
html_title = f"empool {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
exclude_patterns = ["_build"]

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


def _sections(app, what, name, obj, options, lines):
    """Part a docstring's short sections, which follow each other without a blank line."""
    for number, line in reversed(list(enumerate(lines))):
        if line.startswith(("Source: ", "Example:")):
            lines[number:number] = [""]


def setup(app):
    app.connect("autodoc-process-docstring", _sections, priority=400)  # before napoleon, at 500
