"""The report of a study: a page that stands alone, the table in Markdown and LaTeX, and the plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import rich.console

from empool.lab import pages
from empool.lab.analyse.findings import Record, seeds_each
from empool.lab.errors import LabError
from empool.lab.files import read_json, write_text
from empool.lab.report import rules, sections, table, webpage
from empool.lab.report.curves import read_curve
from empool.lab.report.sections import Section

# Fields without which a record says nothing, and their types.
REQUIRED: Mapping[str, type | tuple[type, ...]] = {
    "data": str,
    "model": str,
    "pooling": str,
    "seed": int,
    "converged": bool,
    "test_error": (int, float, type(None)),
}

_REMEDIES = {
    "claims": "the deck claims nothing of these data, this network or these poolings; take the mark out",
    "rules": "run empool evaluate first, or take the mark out",
}


def write_report(directory: Path) -> Path:
    """Write report.html, table.md, table.tex and the plots of a study's folder; return the page's path.

    Every file is complete or not there: it is written beside its place and renamed.

    Args:
        directory: holds results.json, and where they exist study.json, evaluation.json and the runs' folders.

    Raises:
        LabError: if results.json, study.json, evaluation.json or a run's metrics.csv is missing what it should hold.
    """
    records, study, made = _read(Path(directory), drawn=True)
    for section in made:
        for plot in section.plots:
            write_text(directory / f"{plot.name}.svg", plot.svg)
    write_text(directory / "table.md", "\n".join(_markdown(section) for section in made))
    write_text(directory / "table.tex", "\n".join(_latex(section) for section in made))
    path = directory / "report.html"
    write_text(path, webpage.render(records, study, made))
    return path


def write_table(directory: Path, target: Path) -> None:
    """Put a study's tables into a page, each between its marks ``<!-- KIND:NAME -->``, NAME being the folder's name.

    The kinds are study (the table and the protocol), claims and rules; a page may have any of them.

    Raises:
        LabError: as `write_report`, and if the page has no such marks, or one for which the study has no table.
    """
    directory = Path(directory)
    _, _, made = _read(directory, drawn=False)
    name = directory.resolve().name
    texts = {
        "study": "\n".join(_in_page(section) for section in made),
        "claims": "\n".join(table.markdown(section.claims.columns) for section in made if section.claims),
        "rules": "\n".join(table.markdown(section.rules.columns) for section in made if section.rules),
    }
    marked = [kind for kind in texts if pages.has(target, f"{kind}:{name}")]
    for kind in marked:
        if not texts[kind]:
            raise LabError(f"{target} has a mark {kind}:{name}, and {directory} has no such table: {_REMEDIES[kind]}")
    for kind in marked or ["study"]:
        pages.put(target, f"{kind}:{name}", texts[kind])


def terminal(directory: Path) -> rich.console.Group:
    """Return a study's table for the terminal, and beneath it what its runs say to the deck's claims.

    Raises:
        LabError: as `write_report`.
    """
    _, _, made = _read(Path(directory), drawn=False)
    shown: list[rich.console.RenderableType] = []
    for section in made:
        shown.append(table.terminal(section.rows, section.beside, title=section.title))
        if section.claims:
            claims, verdicts, *_ = section.claims.columns
            shown += [section.claims.caption + ":"]
            shown += [f"- {claim}: {verdict}" for claim, verdict in zip(claims.cells, verdicts.cells, strict=True)]
    return rich.console.Group(*shown)


def _read(directory: Path, *, drawn: bool) -> tuple[list[Record], Mapping[str, Any], list[Section]]:
    """Read a study's folder: its records, what study.json says, and its sections, with plots if they are wanted."""
    path = directory / "evaluation.json"
    evaluated = rules.read_evaluation(path) if path.exists() else []
    records, study = _with_bins(read_records(directory), evaluated), _read_study(directory)
    made = []
    for index, runs in enumerate(sections.group(records)):
        curves = [curve for run in runs if (curve := read_curve(directory, run)) is not None] if drawn else []
        made.append(sections.make(index, runs, study, curves, _of(runs, evaluated), drawn=drawn))
    return records, study, made


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


def _with_bins(records: Sequence[Record], evaluated: Sequence[Record]) -> list[Record]:
    """Take the bins of the calibration error from an evaluation for runs that recorded none, where it has them."""
    bins = {(run["pooling"], run["seed"]): run.get("calibration") for run in evaluated}
    return [
        {**record, "calibration": record.get("calibration") or bins.get((record["pooling"], record["seed"]))}
        for record in records
    ]


def _of(runs: Sequence[Record], evaluated: Sequence[Record]) -> list[Record]:
    """Choose the evaluations of some runs."""
    chosen = {(run["model"], run["pooling"], run["seed"]) for run in runs}
    return [record for record in evaluated if (record.get("model"), record["pooling"], record["seed"]) in chosen]


def _read_study(directory: Path) -> Mapping[str, Any]:
    """Read study.json; a study without one has no planned runs and no command to show."""
    path = directory / "study.json"
    study = read_json(path) if path.exists() else {}
    if not isinstance(study, dict):
        raise LabError(f"{path} holds no configuration: expected an object")
    return study


def _markdown(section: Section) -> str:
    lines = [f"# {section.title}", "", " ".join(section.answer), "", _table(section)]
    lines += _listed(section.remarks)
    if section.missing:
        lines.append(f"- Missing runs: {'; '.join(section.missing)}.")
    for sheet in (section.claims, section.rules):
        if sheet:
            lines += ["", f"{sheet.caption}:", "", table.markdown(sheet.columns), *_listed(sheet.notes)]
    return "\n".join(lines) + "\n"


def _listed(sentences: Sequence[str]) -> list[str]:
    return [f"- {sentence}" for sentence in sentences]


def _in_page(section: Section) -> str:
    protocol = "; ".join(f"{name.lower()}: {value}" for name, value in sections.protocol(section))
    return f"{seeds_each(section.rows)}; {protocol}.\n\n{_table(section)}"


def _table(section: Section) -> str:
    return table.markdown(table.columns(section.rows, section.beside))


def _latex(section: Section) -> str:
    comments = [section.title, *section.answer, *section.remarks]
    return "".join(f"% {comment}\n" for comment in comments) + table.latex(section.rows, section.beside)
