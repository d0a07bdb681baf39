"""The report of a study: a page that stands alone, the table in Markdown and LaTeX, and the plots."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from empool import models
from empool.lab import deck, pages, plots, statistics, svg, table
from empool.lab.errors import LabError
from empool.lab.files import read_json, write_text
from empool.lab.findings import Record, answer, count, data_name, images_tested, remarks
from empool.lab.run import RunConfig, folder_name
from empool.lab.statistics import Row

# What runs must share to be compared; records that differ in one of these get a section of their own.
SETTINGS = ("data", "model", "epochs", "batch_size", "train_limit", "test_limit", "augment")
# Fields without which a record says nothing, and their types.
REQUIRED: Mapping[str, type | tuple[type, ...]] = {
    "data": str,
    "model": str,
    "pooling": str,
    "seed": int,
    "converged": bool,
    "test_error": (int, float, type(None)),
}


@dataclass(frozen=True)
class Section:
    """The runs of one network on one data set with one recipe.

    Attributes:
        anchor: a short name, unique in the page.
        records: its runs.
        rows: their summary.
        beside: the deck's table of the same data and network, if there is one.
        answer: sentences that say what was compared and what the seeds support.
        remarks: what to know when reading the table.
        missing: runs that were planned or have a counterpart, and are not there, in words.
        plots: the drawn plots.
        assumptions: what the network assumes where the deck is silent.
    """

    anchor: str
    records: Sequence[Record]
    rows: Sequence[Row]
    beside: deck.Table | None
    answer: Sequence[str]
    remarks: Sequence[str]
    missing: Sequence[str]
    plots: Sequence[svg.Plot]
    assumptions: Sequence[str]

    @property
    def title(self) -> str:
        """Network and data set."""
        return f"{self.records[0]['model']} on {data_name(self.records[0])}"


def write_report(directory: Path) -> Path:
    """Write report.html, table.md, table.tex and the plots of a study's folder; return the page's path.

    Every file is complete or not there: it is written beside its place and renamed.

    Args:
        directory: holds results.json, and where they exist study.json and the runs' folders.

    Raises:
        LabError: if results.json, study.json or a run's metrics.csv is missing what it should hold.
    """
    directory = Path(directory)
    records, study = read_records(directory), _read_study(directory)
    sections = [
        _section(index, runs, study, [curve for run in runs if (curve := _read_curve(directory, run)) is not None])
        for index, runs in enumerate(group(records))
    ]
    for section in sections:
        for plot in section.plots:
            write_text(directory / f"{plot.name}.svg", plot.svg)
    write_text(directory / "table.md", "\n".join(_markdown(section) for section in sections))
    write_text(directory / "table.tex", "\n".join(_latex(section) for section in sections))
    path = directory / "report.html"
    write_text(path, _page(directory, records, study, sections))
    return path


def write_table(directory: Path, page: Path) -> None:
    """Put a study's table and protocol into a page, between the marks ``<!-- study:NAME -->``, NAME the folder's name.

    Raises:
        LabError: as `write_report`, and if the page has no such marks.
    """
    directory = Path(directory)
    records, study = read_records(directory), _read_study(directory)
    sections = [_section(index, runs, study, []) for index, runs in enumerate(group(records))]
    pages.put(page, f"study:{directory.resolve().name}", "\n".join(_in_page(section) for section in sections))


def read_records(directory: Path) -> list[Record]:
    """Read the records of a study.

    Raises:
        LabError: if results.json is missing, is no JSON, or holds something else than records.
    """
    path = Path(directory) / "results.json"
    if not path.is_file():
        raise LabError(f"{path} is missing: expected the folder of a study, as empool compare --out names it")
    records = read_json(path)
    if not isinstance(records, list) or not records:
        raise LabError(f"{path} holds no runs: expected a list of records, one a run")
    for number, record in enumerate(records, start=1):
        for field, kinds in REQUIRED.items():
            if not isinstance(record, dict) or field not in record or not isinstance(record[field], kinds):
                raise LabError(f"{path}: run {number} has no valid {field}")
    return records


def group(records: Sequence[Record]) -> list[list[Record]]:
    """Split records into lists of runs that may be compared, in the order of their first appearance."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        settings = [*(record.get(name) for name in SETTINGS), _p_schedule(record)]
        groups.setdefault(json.dumps(settings), []).append(record)
    return list(groups.values())


def _section(index: int, runs: Sequence[Record], study: Mapping[str, Any], curves: Sequence[plots.Curve]) -> Section:
    try:
        rows = statistics.summarise(runs)
    except ValueError as error:
        raise LabError(f"results.json: {error}") from None
    beside = deck.comparable(runs[0]["data"], runs[0]["model"])
    drawn = plots.plots(rows, curves, beside)
    suffix = f"-{index + 1}" if index else ""
    return Section(
        anchor=f"study{suffix}",
        records=runs,
        rows=rows,
        beside=beside,
        answer=answer(rows, runs),
        remarks=remarks(rows, runs, beside),
        missing=_missing(runs, study),
        plots=[replace(plot, name=plot.name + suffix) for plot in drawn],
        assumptions=_assumptions(runs[0]["model"]),
    )


def _page(directory: Path, records: Sequence[Record], study: Mapping[str, Any], sections: Sequence[Section]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("empool.lab", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.jinja").render(
        title=", ".join(section.title for section in sections),
        sections=sections,
        columns=table.columns,
        protocol=lambda section: _protocol(section) + _recipe_choices(study),
        runs=_runs,
        verdict_class=lambda row: row.verdict.partition(" ")[0],
        colour=lambda row: svg.style(row.method)[0].replace(svg.INK, "currentColor"),
        inline=lambda plot: Markup(plot.inline()),
        machine=_machine(records),
        command=study.get("command"),
        configuration=_flat({**study.get("configuration", {}), **_planned(study)}),
        count=count,
    )


def _protocol(section: Section) -> list[tuple[str, str]]:
    first = section.records[0]
    images = images_tested(first)
    return [
        ("Data", data_name(first)),
        ("Training images", f"{first['train_limit']:,}, as many of each class" if first.get("train_limit") else "all"),
        ("Test images", f"{images:,}" if images else "all"),
        ("Network", first["model"]),
        (
            "Parameters",
            ", ".join(f"{number:,}" for number in _distinct(section.records, "parameters")) or "not recorded",
        ),
        ("Epochs", str(first.get("epochs", "not recorded"))),
        ("Batch size", str(first.get("batch_size", "not recorded"))),
        ("Augmentation", str(first.get("augment") or "none")),
        ("Schedule of p", _p_schedule(first)),
    ]


def _p_schedule(record: Record) -> str:
    return str(record.get("p_schedule", RunConfig.p_schedule))


def _planned(study: Mapping[str, Any]) -> dict[str, Any]:
    return {name: study[name] for name in ("poolings", "seeds") if name in study}


def _recipe_choices(study: Mapping[str, Any]) -> list[tuple[str, str]]:
    recipe = study.get("configuration", {}).get("recipe", {})
    choices = _flat({name: value for name, value in recipe.items() if name not in SETTINGS})
    return [(name.replace("_", " ").capitalize(), value) for name, value in choices]


def _machine(records: Sequence[Record]) -> list[tuple[str, str]]:
    versions: dict[str, list[str]] = {}
    for record in records:
        for name, version in (record.get("versions") or {}).items():
            if str(version) not in versions.setdefault(str(name), []):
                versions[str(name)].append(str(version))
    seconds = sum(record["seconds"] for record in records if isinstance(record.get("seconds"), (int, float)))
    return [
        ("Device", ", ".join(map(str, _distinct(records, "device"))) or "not recorded"),
        ("Threads", ", ".join(map(str, _distinct(records, "threads"))) or "not recorded"),
        ("Commit", ", ".join(map(str, _distinct(records, "commit"))) or "not recorded"),
        ("Time, all runs", f"{seconds / 60:,.1f} min"),
        *((name, ", ".join(found)) for name, found in versions.items()),
    ]


def _runs(section: Section) -> list[table.Column]:
    """Lay out every run of a section as columns."""

    def numbers(field: str, places: int, formerly: str = "") -> list[str]:
        values = [record.get(field, record.get(formerly)) for record in section.records]
        return [table.decimals(value, places) if _finite(value) else table.NONE for value in values]

    top5 = any(record.get("test_top5_error") is not None for record in section.records)
    return [
        table.Column("Pooling", [record["pooling"] for record in section.records], numeric=False),
        table.Column("Seed", [str(record["seed"]) for record in section.records]),
        table.Column("Test error %", numbers("test_error", 2)),
        *([table.Column("Test top-5 error %", numbers("test_top5_error", 2))] if top5 else []),
        table.Column("Train error %", numbers("train_error", 2)),
        table.Column("Test NLL", numbers("test_nll", 4, "test_loss")),
        table.Column("Test ECE %", numbers("test_ece", 2)),
        table.Column("Train NLL", numbers("train_loss", 4)),
        table.Column(
            "Converged", ["yes" if record["converged"] else "no" for record in section.records], numeric=False
        ),
        table.Column("Seconds", numbers("seconds", 1)),
        table.Column("Images per second", numbers("images_per_second", 0)),
        table.Column("Device", [str(record.get("device", table.NONE)) for record in section.records], numeric=False),
        table.Column(
            "Commit", [str(record.get("commit") or table.NONE)[:10] for record in section.records], numeric=False
        ),
    ]


def _missing(runs: Sequence[Record], study: Mapping[str, Any]) -> list[str]:
    """Name the runs that the study plans, or that another pooling has, and that are not there."""
    there = {(record["pooling"], record["seed"]) for record in runs}
    poolings = list(dict.fromkeys([*study.get("poolings", []), *(pooling for pooling, _ in sorted(there))]))
    seeds = sorted({*study.get("seeds", []), *(seed for _, seed in there)})
    return [f"{pooling}, seed {seed}" for pooling in poolings for seed in seeds if (pooling, seed) not in there]


def _assumptions(model: str) -> tuple[str, ...]:
    try:
        return models.network(model).assumptions
    except ValueError:
        return ()  # a network that this version does not know, in an old study


def _read_study(directory: Path) -> Mapping[str, Any]:
    """Read study.json; a study without one has no planned runs and no command to show."""
    path = directory / "study.json"
    study = read_json(path) if path.exists() else {}
    if not isinstance(study, dict):
        raise LabError(f"{path} holds no configuration: expected an object")
    return study


def _read_curve(directory: Path, record: Record) -> plots.Curve | None:
    """Read the learning curve of a run, if its metrics are there."""
    pooling, seed = record["pooling"], record["seed"]
    path = directory / folder_name(pooling) / str(seed) / "metrics.csv"
    if not path.is_file():
        return None
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file))
        columns = [tuple(_number(line[name]) for line in lines) for name in ("epoch", "train_error", "test_error")]
    except (ValueError, KeyError) as error:
        raise LabError(f"{path} is damaged ({error!r}); delete it to do without this learning curve") from None
    return plots.Curve(pooling, seed, *columns)


def _number(text: str | None) -> float:
    return float(text) if text else math.nan


def _markdown(section: Section) -> str:
    lines = [f"# {section.title}", "", " ".join(section.answer), "", table.markdown(section.rows, section.beside)]
    lines += [f"- {remark}" for remark in section.remarks]
    if section.missing:
        lines.append(f"- Missing runs: {'; '.join(section.missing)}.")
    return "\n".join(lines) + "\n"


def _in_page(section: Section) -> str:
    protocol = "; ".join(f"{name.lower()}: {value}" for name, value in _protocol(section))
    seeds = count(max(row.runs for row in section.rows), "seed")
    return f"{seeds} each; {protocol}.\n\n{table.markdown(section.rows, section.beside)}"


def _latex(section: Section) -> str:
    comments = [section.title, *section.answer, *section.remarks]
    return "".join(f"% {comment}\n" for comment in comments) + table.latex(section.rows, section.beside)


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


def _distinct(records: Sequence[Record], field: str) -> list[Any]:
    return list(dict.fromkeys(record[field] for record in records if record.get(field) is not None))


def _finite(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
