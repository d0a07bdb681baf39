"""The page of a study: one file that needs no other, nor a network."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
from markupsafe import Markup

from empool.lab.analyse import comparable, findings
from empool.lab.analyse.comparable import SETTINGS, Record
from empool.lab.analyse.findings import count, label
from empool.lab.report import svg, table
from empool.lab.report.sections import Section, distinct, protocol
from empool.lab.report.svg import Plot
from empool.lab.report.table import Sheet


def render(
    records: Sequence[Record], study: Mapping[str, Any], sections: Sequence[Section], helped: Plot | None = None
) -> str:
    """Write the page: page.html.jinja, filled, with page.css and page.js inside.

    Args:
        records: all runs.
        study: what study.json says.
        sections: the runs in groups that may be compared.
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
        facts=_facts(records),
        helped=helped,
        parts=[part for section in sections for part in _parts(section, study, len(sections) > 1)],
        typeset=_typeset,
        colour=svg.variable,
        label=label,
        inline=lambda drawing: Markup(drawing.inline()),
        machine=_machine(records),
        command="\n".join(one["command"] for one in study.get("commands", [])) or study.get("command"),
        configuration=_flat({**study.get("configuration", {}), **_planned(study)}),
        count=count,
    )


@dataclass(frozen=True)
class _Part:
    """A part of the page with a heading; every field but the first three may be empty.

    Attributes:
        name: what it is.
        anchor: where it is, unique in the page.
        title: its heading.
        entry: what it is called in the contents, if it is there.
        warnings: what to know before anything else.
        sheets: its tables.
        plots: what is drawn in it.
        pairs: names and values.
        assumptions: what the network assumes where the paper is silent.
        folded: what to press to see its tables.
    """

    name: str
    anchor: str
    title: str
    entry: str = ""
    warnings: Sequence[str] = ()
    sheets: Sequence[Sheet | None] = ()
    plots: Sequence[Plot] = ()
    pairs: Sequence[tuple[str, str]] = ()
    assumptions: Sequence[str] = ()
    folded: str = ""


def _parts(section: Section, study: Mapping[str, Any], several: bool) -> list[_Part]:
    """List the parts of a section that have something to show."""
    drawn = {re.sub(r"-\d+$", "", plot.name): plot for plot in section.plots}

    def plots(*stems: str) -> list[Plot]:
        return [drawn[stem] for stem in stems if stem in drawn]

    def part(name: str, title: str, **shown: Any) -> _Part:
        setting = findings.setting(section.records)
        entry = title if not several else setting if name == "results" else ""
        heading = f"{setting}: {title[0].lower()}{title[1:]}" if several else title
        return _Part(name, f"{section.anchor}-{name}", heading, entry, **shown)

    missing = (
        [f"{count(len(section.missing), 'run')} missing: {'; '.join(section.missing)}."] if section.missing else []
    )
    parts = [
        part(
            "results",
            "Test errors",
            warnings=[*section.differing, *missing],
            sheets=[section.errors],
            plots=plots("error", "improvement-against-p"),
        ),
        part("probabilities", "Probabilities", sheets=[section.nll], plots=plots("reliability")),
        part("claims", "The paper's claims", sheets=[section.claims]),
        part("rules", "Testing rules", sheets=[section.rules]),
        part("curves", "Learning curves", plots=plots("learning-curves")),
        part(
            "protocol",
            "Protocol",
            pairs=[*protocol(section), *_recipe_choices(study)],
            assumptions=section.assumptions,
        ),
        part("runs", "Every run", sheets=[_runs(section)], folded=f"Show {count(len(section.records), 'run')}"),
    ]
    return [one for one in parts if any(one.sheets) or one.plots or one.pairs]


def _typeset(cell: str) -> str:
    """Write a number with a sign for minus."""
    return re.sub(r"-(?=\d)", "\N{MINUS SIGN}", cell)


def _facts(records: Sequence[Record]) -> list[tuple[str, str]]:
    seeds = sorted({record["seed"] for record in records})
    return [
        ("Runs", str(len(records))),
        ("Poolings", str(len({record["pooling"] for record in records}))),
        ("Seeds", f"{len(seeds)} ({_range(seeds)})"),
        ("Epochs", ", ".join(map(str, distinct(records, "epochs"))) or "not recorded"),
        ("Device", ", ".join(map(str, distinct(records, "device"))) or "not recorded"),
        ("Time, all runs", _duration(records)),
    ]


def _range(seeds: Sequence[int]) -> str:
    if len(seeds) > 2 and seeds[-1] - seeds[0] == len(seeds) - 1:
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds[:5])) + (", ..." if len(seeds) > 5 else "")


def _duration(records: Sequence[Record]) -> str:
    seconds = sum(record["seconds"] for record in records if _finite(record.get("seconds")))
    return f"{seconds / 60:,.1f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def _machine(records: Sequence[Record]) -> list[tuple[str, str]]:
    versions: dict[str, list[str]] = {}
    for record in records:
        for name, version in (record.get("versions") or {}).items():
            if str(version) not in versions.setdefault(str(name), []):
                versions[str(name)].append(str(version))
    return [
        ("Device", ", ".join(map(str, distinct(records, "device"))) or "not recorded"),
        ("Machine", "; ".join(dict.fromkeys(map(_described, records)))),
        ("Threads", ", ".join(map(str, distinct(records, "threads"))) or "not recorded"),
        ("Commit", ", ".join(map(str, distinct(records, "commit"))) or "not recorded"),
        ("Time, all runs", _duration(records)),
        *((name, ", ".join(found)) for name, found in versions.items()),
    ]


def _described(record: Record) -> str:
    machine = record.get("machine")
    if not machine:
        return "not recorded"
    parts = [
        machine.get("processor"),
        f"{machine['cores']} cores" if machine.get("cores") else None,
        f"{machine['memory'] / 2**30:.0f} GiB" if machine.get("memory") else None,
        *machine.get("gpus", ()),
        machine.get("system"),
    ]
    return ", ".join(part for part in parts if part)


def _planned(study: Mapping[str, Any]) -> dict[str, Any]:
    return {name: study[name] for name in ("poolings", "seeds") if name in study}


def _recipe_choices(study: Mapping[str, Any]) -> list[tuple[str, str]]:
    recipe = study.get("configuration", {}).get("recipe", {})
    choices = _flat({name: value for name, value in recipe.items() if name not in SETTINGS})
    return [(name.replace("_", " ").capitalize(), value) for name, value in choices]


def _runs(section: Section) -> Sheet:
    """Lay out every run of a section."""
    records = section.records

    def numbers(name: str, formerly: str = "") -> list[Any]:
        values = [record.get(name, record.get(formerly)) for record in records]
        return [value if _finite(value) else None for value in values]

    columns: dict[str, tuple[Sequence[Any], Any]] = {
        "Pooling": table.poolings([record["pooling"] for record in records]),
        "Seed": ([record["seed"] for record in records], "d"),
        "Test error %": (numbers("test_error"), ".2f"),
        "Test top-5 error %": (numbers("test_top5_error"), ".2f"),
        "Validation error %": (numbers("validation_error"), ".2f"),
        "Train error %": (numbers("train_error"), ".2f"),
        "Test NLL": (numbers("test_nll", "test_loss"), ".4f"),
        "Test ECE %": (numbers("test_ece"), ".2f"),
        "Train NLL": (numbers("train_loss"), ".4f"),
        "Converged": (["yes" if comparable.converged(record) else "no" for record in records], None),
        "Seconds": (numbers("seconds"), ".1f"),
        "Images per second": (numbers("images_per_second"), ".0f"),
        "Device": ([record.get("device") for record in records], None),
        "Commit": ([str(record.get("commit") or table.NONE)[:10] for record in records], None),
    }
    shown = {name: column for name, column in columns.items() if any(value is not None for value in column[0])}
    return table.sheet(f"Every run of {section.title}", shown)


def _flat(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Flatten a configuration to (dotted name, value as text)."""
    flat: list[tuple[str, str]] = []
    for key, item in value.items():
        if isinstance(item, dict):
            flat += _flat(item, f"{prefix}{key}.")
        elif isinstance(item, list):
            flat.append((prefix + key, ", ".join(map(str, item))))
        else:
            flat.append((prefix + key, table.NONE if item is None else str(item)))
    return flat


def _finite(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
