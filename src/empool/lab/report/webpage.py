"""The page of a study: one file that needs no other, nor a network."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from markupsafe import Markup

from empool.lab.analyse import findings
from empool.lab.analyse.findings import count
from empool.lab.analyse.records import Record, distinct, finite
from empool.lab.report import sheets, svg
from empool.lab.report.sections import Section, protocol
from empool.lab.report.svg import Plot
from empool.lab.report.table import NONE


def render(
    study: Mapping[str, Any], sections: Sequence[Section], plots: Sequence[Sequence[Plot]], helped: Plot | None = None
) -> str:
    """Write the page: page.html.jinja, filled, with page.css and page.js inside.

    Args:
        study: what study.json says.
        sections: the runs in groups that may be compared.
        plots: those of each section.
        helped: gain against the generalisation gap, where the sections are several settings.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("empool.lab.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.jinja").render(
        title=", ".join(dict.fromkeys(section.title for section in sections)),
        answers=[section.answer for section in sections],
        helped=helped,
        parts=[
            part
            for section, drawn in zip(sections, plots, strict=True)
            for part in _parts(section, drawn, several=len(sections) > 1)
        ],
        typeset=lambda cell: re.sub(r"-(?=\d)", "\N{MINUS SIGN}", cell),
        colour=svg.variable,
        inline=lambda plot: Markup(plot.inline()),
        machine=_machine([record for section in sections for record in section.records]),
        command="\n".join(one["command"] for one in study.get("commands", [])) or study.get("command"),
        configuration=_flat(
            {**study.get("configuration", {}), **{name: study[name] for name in ("poolings", "seeds") if name in study}}
        ),
    )


def _parts(section: Section, plots: Sequence[Plot], *, several: bool) -> list[dict[str, Any]]:
    """List the parts of a section that have something to show, as the template takes them.

    A part has a name, an anchor, a title, what it is called in the contents, warnings, tables, plots, names with
    values, what the network assumes, and what to press to see its tables where these are folded.
    """
    drawn = {re.sub(r"-\d+$", "", plot.name): plot for plot in plots}
    setting = findings.setting(section.records)
    warnings = [*section.differing]
    if section.missing:
        warnings.append(f"{count(len(section.missing), 'run')} missing: {'; '.join(section.missing)}.")
    parts = []

    def add(name: str, title: str, *stems: str, **shown: Any) -> None:
        part: dict[str, Any] = {"warnings": [], "sheets": [], "pairs": [], "assumptions": [], "folded": "", **shown}
        part["sheets"] = [sheet for sheet in part["sheets"] if sheet]
        part["plots"] = [drawn[stem] for stem in stems if stem in drawn]
        part |= {"name": name, "anchor": f"{section.anchor}-{name}", "title": title, "entry": title}
        if several:
            part |= {
                "title": f"{setting}: {title[0].lower()}{title[1:]}",
                "entry": setting if name == "results" else "",
            }
        if part["sheets"] or part["plots"] or part["pairs"]:
            parts.append(part)

    add("results", "Test errors", "error", "improvement-against-p", warnings=warnings, sheets=[section.errors])
    add("probabilities", "Probabilities", "reliability", sheets=[section.nll])
    add("claims", "The paper's claims", sheets=[section.claims])
    add("rules", "Inference rules", sheets=[section.rules])
    add("curves", "Learning curves", "learning-curves")
    add("protocol", "Protocol", pairs=protocol(section), assumptions=section.assumptions())
    runs = sheets.runs(section.title, section.records)
    add("runs", "Every run", sheets=[runs], folded=f"Show {count(len(section.records), 'run')}")
    return parts


def _machine(records: Sequence[Record]) -> list[tuple[str, str]]:
    seconds = sum(record["seconds"] for record in records if finite(record.get("seconds")))
    versions = [record.get("versions") or {} for record in records]
    named = [
        (name.capitalize(), ", ".join(map(str, distinct(records, name)))) for name in ("device", "threads", "commit")
    ]
    return [
        *((name, found or "not recorded") for name, found in named),
        ("Machine", "; ".join(dict.fromkeys(map(_described, records)))),
        ("Time, all runs", f"{seconds / 60:,.1f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"),
        *(
            (name, ", ".join(distinct(versions, name)))
            for name in dict.fromkeys(name for one in versions for name in one)
        ),
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
    return ", ".join(part for part in parts if part) or "not recorded"


def _flat(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Flatten a configuration to (dotted name, value as text)."""
    flat: list[tuple[str, str]] = []
    for key, item in value.items():
        if isinstance(item, dict):
            flat += _flat(item, f"{prefix}{key}.")
        else:
            written = ", ".join(map(str, item)) if isinstance(item, list) else NONE if item is None else str(item)
            flat.append((prefix + key, written))
    return flat
