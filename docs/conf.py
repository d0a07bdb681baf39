"""How the pages are built: `make docs`."""

import inspect
import re
import shutil
from importlib.metadata import version as installed
from pathlib import Path

import click
import typer.main
from docutils import nodes
from sphinx.addnodes import download_reference

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
autodoc_default_options = {"members": True}
python_display_short_literal_types = True

ROOT = Path(__file__).parents[1]


def _sections(app, what, name, obj, options, lines):
    """Part a docstring's short sections, which follow each other without a blank line; shorten it in 1d and 3d."""
    if "Alias for field number" in "".join(lines):
        lines.clear()
    if twin := re.fullmatch(r"empool\.(?:functional\.)?(\w+)([13])d", name):
        sizes = "L" if twin[2] == "1" else "D, H, W"
        lines[:] = [f"`{twin[1]}2d` in {twin[2]}d, of inputs ``(N, C, {sizes})`` or ``(C, {sizes})``.", ""]
    for number, line in reversed(list(enumerate(lines))):
        if line.startswith(("Source: ", "Example:")):
            lines[number:number] = [""]


def _is_hidden(app, what, name, obj, skip, options):
    """Leave out the fields of named tuples, which their class describes."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def _commands(app, docname, source):
    """Write the page of the command line from the commands themselves."""
    if docname != "cli":
        return
    from empool.lab.cli.commands import app as commands

    group = typer.main.get_command(commands)
    parts = [_command(name, command) for name, command in group.commands.items() if not command.hidden]
    source[0] = source[0].replace("<!-- commands -->", "\n".join(parts))


def _command(name, command):
    context = click.Context(command, info_name=name)
    lines = [f"## empool {name}\n", inspect.cleandoc(command.help or "") + "\n"]
    for parameter in command.get_params(context):
        if parameter.name == "help" or getattr(parameter, "hidden", False):
            continue
        record = parameter.get_help_record(context)
        spelled, meaning = record or (parameter.human_readable_name, getattr(parameter, "help", "") or "")
        meaning = re.sub("(<!.*?>)", r"`\1`", " ".join(meaning.split()))  # A comment of HTML isn't one here.
        lines.append(f"- `{spelled}`: {meaning}")
    return "\n".join(lines) + "\n"


def _returns(app, what, name, obj, options, signature, return_annotation):
    """Say what a pooling function returns, which depends on its `return_indices`."""
    if name.startswith("empool.functional.") and str(return_annotation).endswith("Any"):
        return signature, "Tensor | tuple[Tensor, Tensor]"
    return None


def _reports(app, doctree):
    """Open the reports of studies as pages, where they would be downloads."""
    for node in list(doctree.findall(download_reference)):
        target = node["reftarget"]
        if target.endswith("report.html"):
            path = (Path(app.srcdir) / app.env.docname).parent.joinpath(target).resolve().relative_to(ROOT)
            up = "../" * app.env.docname.count("/")
            node.replace_self(nodes.reference("", "", *node.children, refuri=f"{up}{path.as_posix()}", internal=False))


def _copy_reports(app, exception):
    for report in ROOT.glob("results/*/report.html"):
        copy = Path(app.outdir) / report.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(report, copy)


def setup(app):
    app.connect("autodoc-process-docstring", _sections, priority=400)  # before napoleon, at 500
    app.connect("autodoc-process-signature", _returns)
    app.connect("autodoc-skip-member", _is_hidden)
    app.connect("source-read", _commands)
    app.connect("doctree-read", _reports)
    app.connect("build-finished", _copy_reports)
