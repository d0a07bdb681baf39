"""The report of a study: a page that stands alone, the tables in Markdown and LaTeX, and the plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import rich.console

from empool.lab import pages
from empool.lab.analyse import comparable
from empool.lab.analyse.comparable import Record
from empool.lab.analyse.findings import seeds_each, sentence
from empool.lab.analyse.rules import read_evaluation
from empool.lab.analyse.statistics import BASELINE
from empool.lab.errors import LabError
from empool.lab.files import read_json, write_text
from empool.lab.report import gain, sections, table, webpage
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
    "nll": "its runs did not record a negative log-likelihood; take the mark out",
    "claims": "the paper claims nothing of these data, this network or these poolings; take the mark out",
    "rules": "run empool evaluate first, or take the mark out",
}


def write_report(directory: Path, baseline: str = BASELINE) -> Path:
    """Write report.html, table.md, table.tex and the plots of a study's folder; return the page's path.

    Every file is complete or not there: it is written beside its place and renamed.

    Args:
        directory: holds results.json, and where they exist study.json, evaluation.json and the runs' folders.
        baseline: spelling of the pooling that the others are compared with.

    Raises:
        LabError: if results.json, study.json, evaluation.json or a run's metrics.csv is missing what it should hold.
    """
    directory = Path(directory)
    records, study, made = _read(directory, baseline, drawn=True)
    helped = gain.plot([point for section in made for point in section.gains])
    for plot in [*(plot for section in made for plot in section.plots), *([helped] if helped else [])]:
        write_text(directory / f"{plot.name}.svg", plot.svg)
    write_text(directory / "table.md", "\n".join(_markdown(section) for section in made))
    write_text(directory / "table.tex", "\n".join(_latex(section) for section in made))
    path = directory / "report.html"
    write_text(path, webpage.render(records, study, made, helped))
    return path


def write_table(directory: Path, target: Path, baseline: str = BASELINE) -> None:
    """Put a study's tables into a page, each between its marks ``<!-- KIND:NAME -->``, NAME being the folder's name.

    The kinds are study (test errors and the protocol), nll, claims and rules; a page may have any of them.

    Raises:
        LabError: as `write_report`, and if the page has no such marks, or one for which the study has no table.
    """
    directory = Path(directory)
    _, _, made = _read(directory, baseline, drawn=False)
    name = directory.resolve().name
    texts = {"study": "\n".join(_in_page(section) for section in made)}
    for kind in _REMEDIES:
        texts[kind] = "\n".join(table.markdown(sheet) for section in made if (sheet := getattr(section, kind)))
    marked = [kind for kind in texts if pages.has(target, f"{kind}:{name}")]
    for kind in marked:
        if not texts[kind]:
            raise LabError(f"{target} has a mark {kind}:{name}, and {directory} has no such table: {_REMEDIES[kind]}")
    for kind in marked or ["study"]:
        pages.put(target, f"{kind}:{name}", texts[kind])


def write_gain(directories: Sequence[Path], out: Path, baseline: str = BASELINE) -> Path:
    """Draw gain over the baseline against its generalisation gap, every setting of every study a point.

    Args:
        directories: folders of studies, or of folders that hold some.
        out: folder for gain.svg and gain.md, its numbers.
        baseline: spelling of the pooling that the others are compared with.

    Returns:
        The drawing's path.

    Raises:
        LabError: as `write_report`, and if no study has a gap and something to compare with the baseline.
    """
    points = []
    for directory in _studies(directories):
        _, _, made = _read(directory, baseline, drawn=False)
        points += [point for section in made for point in section.gains]
    plot = gain.plot(points, least=1)
    if plot is None:
        raise LabError(
            f"no gain to draw: expected studies with {baseline}, its training error, and two runs or more of another "
            "pooling"
        )
    path = Path(out) / "gain.svg"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, plot.svg)
    (sheet,) = plot.sheets
    write_text(path.with_suffix(".md"), f"{plot.caption}\n\n{table.markdown(sheet)}")
    return path


def _studies(directories: Sequence[Path]) -> list[Path]:
    """List the folders of studies; a folder that is none stands for those beneath it."""
    found: list[Path] = []
    for directory in map(Path, directories):
        beneath = [] if (directory / "results.json").exists() else sorted(directory.rglob("results.json"))
        found += [path.parent for path in beneath] or [directory]
    return found


def terminal(directory: Path, baseline: str = BASELINE) -> rich.console.Group:
    """Return a study's tables for the terminal, and beneath them what its runs say to the paper's claims.

    Raises:
        LabError: as `write_report`.
    """
    _, _, made = _read(Path(directory), baseline, drawn=False)
    shown: list[rich.console.RenderableType] = []
    for section in made:
        shown += [*section.differing, table.terminal(section.errors, title=section.title)]
        if section.nll:
            shown.append(table.terminal(section.nll))
        if section.claims:
            claims = section.claims.cells()
            shown.append(f"{section.claims.caption}:")
            shown += [f"- {line[0]}: {line[1]}" for line in claims.to_numpy().tolist()]
    return rich.console.Group(*shown)


def frame(directory: Path, baseline: str = BASELINE) -> pd.DataFrame:
    """Return the table of test errors of a study of one network and data set, a row a pooling.

    Raises:
        LabError: as `write_report` does, or if the folder holds several that can't be compared.
    """
    _, _, made = _read(Path(directory), baseline, drawn=False)
    if len(made) != 1:
        raise LabError(f"expected runs of one network, data set and recipe, got {len(made)} kinds")
    rows: pd.DataFrame = made[0].errors.frame.set_index("Pooling")
    return rows


def verdicts(directory: Path, baseline: str = BASELINE) -> list[str]:
    """Say in a sentence what the runs of a study decide, one a network, data set and recipe."""
    _, _, made = _read(Path(directory), baseline, drawn=False)
    return [sentence(section.summary) for section in made]


def figure(directory: Path, baseline: str = BASELINE) -> str:
    """Return the figure of a study's test errors, as SVG.

    Raises:
        LabError: as `write_report` does, or if no run converged.
    """
    _, _, made = _read(Path(directory), baseline, drawn=True)
    drawn = [plot.svg for section in made for plot in section.plots if plot.name.startswith("error")]
    if not drawn:
        raise LabError(f"{directory} holds no run that converged")
    return drawn[0]


def power(directory: Path, baseline: str = BASELINE) -> rich.console.Group:
    """Return for the terminal how many seeds each row of a study needs, and what its seeds can show.

    Raises:
        LabError: as `write_report`, and if nothing in the study can be tested.
    """
    _, _, made = _read(Path(directory), baseline, drawn=False)
    shown: list[rich.console.RenderableType] = []
    for section in made:
        if section.power:
            shown += [table.terminal(section.power, title=section.title), *section.power.notes]
    if not shown:
        raise LabError(
            f"{directory} tells no spread: expected two runs or more of {baseline} and of another pooling that "
            "converged and differ"
        )
    return rich.console.Group(*shown)


def _read(directory: Path, baseline: str, *, drawn: bool) -> tuple[list[Record], Mapping[str, Any], list[Section]]:
    """Read a study's folder: its records, what study.json says, and its sections, with plots if they are wanted."""
    path = directory / "evaluation.json"
    evaluated = read_evaluation(path) if path.exists() else []
    records, study = read_records(directory), _read_study(directory)
    made = []
    for index, runs in enumerate(comparable.group(records)):
        curves = [curve for run in runs if (curve := read_curve(directory, run)) is not None] if drawn else []
        made.append(sections.make(index, runs, study, baseline, curves, _of(runs, evaluated), drawn=drawn))
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
        for name, kinds in REQUIRED.items():
            if not isinstance(record, dict) or name not in record or not isinstance(record[name], kinds):
                raise LabError(f"{path}: run {number} has no valid {name}")
    return records


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
    lines = [f"# {section.title}", "", " ".join(section.answer), ""]
    if section.differing:
        lines += [*section.differing, ""]
    if section.missing:
        lines += [f"Missing runs: {'; '.join(section.missing)}.", ""]
    for sheet in (section.errors, section.nll, section.claims, section.rules):
        if sheet:
            lines += [f"{sheet.caption}:", "", table.markdown(sheet), *(f"- {note}" for note in sheet.notes), ""]
    return "\n".join(lines).rstrip() + "\n"


def _in_page(section: Section) -> str:
    protocol = "; ".join(f"{name.lower()}: {value}" for name, value in sections.protocol(section))
    differing = "".join(f"{line}\n\n" for line in section.differing)
    brief = table.brief(section.title, section.summary, section.beside)
    how = section.summary.error.rule
    tested = f"; {how.value}" if how else ""
    return f"{seeds_each(section.summary.rows)}; {protocol}{tested}.\n\n{differing}{table.markdown(brief)}"


def _latex(section: Section) -> str:
    comments = [section.title, *section.answer, *section.differing, *section.errors.notes]
    sheets = [section.errors, *([section.nll] if section.nll else [])]
    return "".join(f"% {comment}\n" for comment in comments) + "\n".join(table.latex(sheet) for sheet in sheets)
