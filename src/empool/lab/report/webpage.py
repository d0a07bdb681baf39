"""The page of a study: one file that needs no other, nor a network."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup

from empool import models
from empool.lab.analyse.records import Record, distinct
from empool.lab.report import sheets, svg
from empool.lab.report.sections import Section
from empool.lab.report.svg import Plot
from empool.lab.report.table import NONE, Sheet


def render(study: Mapping[str, Any], section: Section, plots: Sequence[Plot]) -> str:
    """Write the page: page.html.jinja, filled, with page.css and page.js inside."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("empool.lab.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    try:
        assumptions = models.network(section.records[0]["model"]).assumptions
    except ValueError:
        assumptions = ()  # a network that this version does not know, in an old study
    configuration = pd.json_normalize(dict(study.get("configuration", {}))).iloc[0].to_dict()
    configuration |= {name: study[name] for name in ("poolings", "seeds") if name in study}
    return environment.get_template("page.html.jinja").render(
        section=section,
        assumptions=assumptions,
        parts=_parts(section, {plot.name: plot for plot in plots}),
        typeset=lambda cell: re.sub(r"-(?=\d)", "\N{MINUS SIGN}", cell),
        colour=svg.variable,
        inline=lambda plot: Markup(plot.inline()),
        machine=_machine(section.records),
        command="\n".join(one["command"] for one in study.get("commands", [])) or study.get("command"),
        configuration=[
            (name, ", ".join(map(str, value)) if isinstance(value, list) else NONE if value is None else str(value))
            for name, value in configuration.items()
        ],
    )


def _parts(section: Section, drawn: Mapping[str, Plot]) -> list[dict[str, Any]]:
    """List the parts of the page that have something to show, as the template takes them."""
    parts: list[tuple[str, str, list[Sheet | None], list[str]]] = [  # name, title, tables, names of plots
        ("results", "Test errors", [section.errors], ["error", "improvement-against-p"]),
        ("probabilities", "Probabilities", [section.nll], ["reliability"]),
        ("claims", "The paper's claims", [section.claims], []),
        ("rules", "Inference rules", [section.rules], []),
        ("curves", "Learning curves", [], ["learning-curves"]),
        ("protocol", "Protocol", [], []),
        ("runs", "Every run", [sheets.runs(section.title, section.records)], []),
    ]
    return [
        {
            "name": name,
            "title": title,
            "sheets": [table for table in tables if table],
            "plots": [drawn[plot] for plot in plots if plot in drawn],
        }
        for name, title, tables, plots in parts
        if name == "protocol" or any(tables) or any(plot in drawn for plot in plots)
    ]


def _machine(records: Sequence[Record]) -> list[tuple[str, str]]:
    seconds = np.nansum(pd.to_numeric(pd.Series([one.get("seconds") for one in records]), errors="coerce"))
    versions = [record.get("versions") or {} for record in records]
    packages = dict.fromkeys(name for one in versions for name in one)
    named = [(name, ", ".join(map(str, distinct(records, name)))) for name in ("device", "threads", "commit")]
    return [
        *((name.capitalize(), found or "not recorded") for name, found in named),
        ("Machine", "; ".join(dict.fromkeys(map(_described, records)))),
        ("Time, all runs", f"{seconds / 60:,.1f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"),
        *((name, ", ".join(distinct(versions, name))) for name in packages),
    ]


def _described(record: Record) -> str:
    machine = record.get("machine") or {}
    parts = [
        machine.get("processor"),
        f"{machine['cores']} cores" if machine.get("cores") else None,
        f"{machine['memory'] / 2**30:.0f} GiB" if machine.get("memory") else None,
        *machine.get("gpus", ()),
        machine.get("system"),
    ]
    return ", ".join(filter(None, parts)) or "not recorded"
