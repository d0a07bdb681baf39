"""The page of a study: one file that needs no other, nor a network."""

from __future__ import annotations

import re
from collections.abc import Sequence

import jinja2
import pandas as pd
from markupsafe import Markup

from empool import models
from empool.lab.report import sheets, svg
from empool.lab.report.sections import Section
from empool.lab.report.svg import Plot
from empool.lab.report.table import NONE, Sheet


def render(section: Section, plots: Sequence[Plot]) -> str:
    """Write the page: page.html.jinja, filled, with page.css and page.js inside."""
    loader = jinja2.PackageLoader("empool.lab.report", ".")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    drawn = {plot.name: plot for plot in plots}
    parts: list[tuple[str, str, list[Sheet | None], list[str]]] = [  # name, title, tables, names of plots
        ("results", "Test errors", [section.errors], ["error", "improvement-against-p"]),
        ("probabilities", "Probabilities", [section.nll], ["reliability"]),
        ("claims", "The paper's claims", [section.claims], []),
        ("rules", "Inference rules", [section.rules], []),
        ("curves", "Learning curves", [], ["learning-curves"]),
        ("protocol", "Protocol", [], []),
        ("runs", "Every run", [sheets.runs(section.title, section.records)], []),
    ]
    try:
        assumptions = models.network(section.records[0]["model"]).assumptions
    except ValueError:
        assumptions = ()  # a network that this version does not know, in an old study
    versions = pd.DataFrame([record.get("versions") or {} for record in section.records])
    seconds = pd.to_numeric(pd.Series([one.get("seconds") for one in section.records]), "coerce").sum()
    return environment.get_template("page.html.jinja").render(
        section=section,
        assumptions=assumptions,
        parts=[
            (name, title, [*filter(None, tables)], [drawn[plot] for plot in names if plot in drawn])
            for name, title, tables, names in parts
            if name == "protocol" or any(tables) or any(plot in drawn for plot in names)
        ],
        typeset=lambda cell: re.sub(r"-(?=\d)", "\N{MINUS SIGN}", cell),
        colour=svg.variable,
        inline=lambda plot: Markup(plot.inline()),
        versions=[(name, ", ".join(versions[name].dropna().astype(str).unique())) for name in versions],
        time=f"{seconds / 60:,.1f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h",
        configuration=[
            (name, ", ".join(map(str, value)) if isinstance(value, list) else NONE if value is None else str(value))
            for name, value in section.origin.configuration.items()
        ],
    )
