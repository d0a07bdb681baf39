"""The page of a study: one file that needs no other, nor a network."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
from markupsafe import Markup

from empool.lab.analyse.findings import Record, count
from empool.lab.report import svg, table
from empool.lab.report.sections import SETTINGS, Section, distinct, protocol


def render(records: Sequence[Record], study: Mapping[str, Any], sections: Sequence[Section]) -> str:
    """Write the page: page.html.jinja, filled, with page.css and page.js inside.

    Args:
        records: all runs.
        study: what study.json says.
        sections: the runs in groups that may be compared.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("empool.lab.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.jinja").render(
        title=", ".join(section.title for section in sections),
        sections=sections,
        facts=_facts(records),
        parts=lambda section: _parts(section, len(sections) > 1),
        columns=_results,
        remarks=_remarks,
        exact=_exact,
        typeset=_typeset,
        protocol=lambda section: protocol(section) + _recipe_choices(study),
        runs=_runs,
        verdict_class=lambda row: row.verdict.partition(" ")[0],
        colour=lambda of: svg.variable(of.pooling.partition(":")[0]),
        inline=lambda drawing: Markup(drawing.inline()),
        machine=_machine(records),
        command="\n".join(one["command"] for one in study.get("commands", [])) or study.get("command"),
        configuration=_flat({**study.get("configuration", {}), **_planned(study)}),
        count=count,
    )


@dataclass(frozen=True)
class _Part:
    """A part of a section with a heading.

    Attributes:
        name: what it is.
        anchor: where it is, unique in the page.
        title: its heading.
        plots: what is drawn in it.
    """

    name: str
    anchor: str
    title: str
    plots: Sequence[svg.Plot] = ()


# Each part with its heading and its plots; one that has nothing to show is left out.
_PARTS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "results": ("Results", ("error", "improvement")),
    "claims": ("The deck's claims", ()),
    "p": ("Error against p", ("error-against-p", "improvement-against-p")),
    "curves": ("Learning curves", ("learning-curves",)),
    "calibration": ("Calibration", ("reliability",)),
    "rules": ("Testing rules", ()),
    "protocol": ("Protocol", ()),
    "runs": ("Every run", ()),
}


def _parts(section: Section, several: bool) -> list[_Part]:
    lead = f"{section.title}: " if several else ""
    stems = {re.sub(r"-\d+$", "", plot.name): plot for plot in section.plots}
    parts = []
    for name, (title, names) in _PARTS.items():
        drawn = [stems[stem] for stem in names if stem in stems]
        tables = {
            "results": True,
            "claims": section.claims,
            "calibration": section.calibration,
            "rules": section.rules,
        }
        if drawn or tables.get(name, not names):
            parts.append(_Part(name, f"{section.anchor}-{name}", lead + title, drawn))
    return parts


def _results(section: Section) -> list[table.Column]:
    """Lay out the results, without what the part on calibration has."""
    return [
        column for column in table.columns(section.rows, section.beside) if column.header not in table.PROBABILISTIC
    ]


def _remarks(section: Section, part: str) -> list[str]:
    """Give the remarks that belong to a part."""
    about = [remark for remark in section.remarks if remark.startswith(("NLL", "ECE"))]
    return about if part == "calibration" else [remark for remark in section.remarks if remark not in about]


def _exact(column: table.Column, row: int) -> Markup:
    """Give a cell's attribute with the number to sort by, empty where there is none."""
    if column.values is None:
        return Markup("")
    value = column.values[row]
    return Markup(' data-value="{}"').format("" if value is None else f"{value:.8g}")


def _typeset(column: table.Column, row: int) -> str:
    """Write a cell with signs for minus where it holds numbers."""
    cell = column.cells[row]
    return re.sub(r"-(?=\d)", "\N{MINUS SIGN}", cell) if column.numeric else cell


def _facts(records: Sequence[Record]) -> list[tuple[str, str]]:
    seeds = sorted({record["seed"] for record in records})
    return [
        ("Runs", str(len(records))),
        ("Poolings", str(len({record["pooling"] for record in records}))),
        ("Seeds", f"{len(seeds)} ({', '.join(map(str, seeds[:5]))}{', ...' if len(seeds) > 5 else ''})"),
        ("Epochs", ", ".join(map(str, distinct(records, "epochs"))) or "not recorded"),
        ("Device", ", ".join(map(str, distinct(records, "device"))) or "not recorded"),
        ("Time, all runs", _duration(records)),
    ]


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
    memory = f", {machine['memory'] / 2**30:.0f} GiB" if machine["memory"] else ""
    gpus = "".join(f", {gpu}" for gpu in machine["gpus"])
    return f"{machine['processor']}, {machine['cores']} cores{memory}{gpus}, {machine['system']}"


def _planned(study: Mapping[str, Any]) -> dict[str, Any]:
    return {name: study[name] for name in ("poolings", "seeds") if name in study}


def _recipe_choices(study: Mapping[str, Any]) -> list[tuple[str, str]]:
    recipe = study.get("configuration", {}).get("recipe", {})
    choices = _flat({name: value for name, value in recipe.items() if name not in SETTINGS})
    return [(name.replace("_", " ").capitalize(), value) for name, value in choices]


def _runs(section: Section) -> list[table.Column]:
    """Lay out every run of a section as columns."""

    def numbers(header: str, field: str, places: int, formerly: str = "") -> table.Column:
        values = [record.get(field, record.get(formerly)) for record in section.records]
        return table.numbers(header, [value if _finite(value) else None for value in values], places)

    def words(header: str, cells: Sequence[str]) -> table.Column:
        return table.Column(header, list(cells), numeric=False)

    records = section.records
    top5 = any(record.get("test_top5_error") is not None for record in records)
    return [
        table.poolings([record["pooling"] for record in records]),
        table.Column("Seed", [str(record["seed"]) for record in records]),
        numbers("Test error %", "test_error", 2),
        *([numbers("Test top-5 error %", "test_top5_error", 2)] if top5 else []),
        numbers("Train error %", "train_error", 2),
        numbers("Test NLL", "test_nll", 4, "test_loss"),
        numbers("Test ECE %", "test_ece", 2),
        numbers("Train NLL", "train_loss", 4),
        words("Converged", ["yes" if record["converged"] else "no" for record in records]),
        numbers("Seconds", "seconds", 1),
        numbers("Images per second", "images_per_second", 0),
        words("Device", [str(record.get("device", table.NONE)) for record in records]),
        words("Commit", [str(record.get("commit") or table.NONE)[:10] for record in records]),
    ]


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
