"""The report of a study: a page that stands alone, the tables in Markdown and LaTeX, and the plots."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import rich.console

from empool.lab import pages
from empool.lab.analyse import records as recorded
from empool.lab.analyse.findings import seeds_each, sentence
from empool.lab.analyse.records import Record, read_evaluation, read_records
from empool.lab.analyse.statistics import BASELINE
from empool.lab.errors import LabError
from empool.lab.files import read_json, write_text
from empool.lab.report import gain, sections, sheets, table, webpage
from empool.lab.report.plots import errors
from empool.lab.report.sections import Section

__all__ = ["figure", "frame", "power", "read_records", "rules", "terminal", "verdicts", "write_gain", "write_report"]

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
    study, made = _study(directory), _sections(directory, baseline)
    plots = [section.plots(directory) for section in made]
    helped = gain.plot([point for section in made for point in section.gains])
    page = directory / "report.html"
    for plot in [plot for drawn in plots for plot in drawn] + ([helped] if helped else []):
        write_text(directory / f"{plot.name}.svg", plot.svg)
    write_text(directory / "table.md", "\n".join(_markdown(section) for section in made))
    write_text(directory / "table.tex", "\n".join(_latex(section) for section in made))
    write_text(page, webpage.render(study, made, plots, helped))
    return page


def write_table(directory: Path, target: Path, baseline: str = BASELINE) -> list[str]:
    """Put a study's tables into a page, each between its marks ``<!-- KIND:NAME -->``, NAME being the folder's name.

    The kinds are study (test errors and the protocol), nll, claims and rules; a page may have any of them.

    Returns:
        The kinds that the page has.

    Raises:
        LabError: as `write_report`, and if the page has no such marks, or one for which the study has no table.
    """
    directory = Path(directory)
    made, name = _sections(directory, baseline), directory.resolve().name
    texts = {"study": "\n".join(_in_page(section) for section in made)}
    for kind in _REMEDIES:
        texts[kind] = "\n".join(table.markdown(sheet) for section in made if (sheet := getattr(section, kind)))
    marked = [kind for kind in texts if pages.has(target, f"{kind}:{name}")] or ["study"]
    for kind in marked:
        if not texts[kind]:
            raise LabError(f"{target} has a mark {kind}:{name}, and {directory} has no such table: {_REMEDIES[kind]}")
    for kind in marked:
        pages.put(target, f"{kind}:{name}", texts[kind])
    return marked


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
    for directory in map(Path, directories):
        alone = (directory / "results.json").exists()
        studies = [] if alone else [path.parent for path in sorted(directory.rglob("results.json"))]
        for study in studies or [directory]:
            points += [point for section in _sections(study, baseline) for point in section.gains]
    plot = gain.plot(points, least=1)
    if plot is None:
        raise LabError(
            f"no gain to draw: expected studies with {baseline}, its training error, and two runs or more of another "
            "pooling"
        )
    path = Path(out) / "gain.svg"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, plot.svg)
    write_text(path.with_suffix(".md"), f"{plot.caption}\n\n{table.markdown(plot.sheets[0])}")
    return path


def terminal(directory: Path, baseline: str = BASELINE) -> rich.console.Group:
    """Return a study's tables for the terminal, and beneath them what its runs say to the paper's claims.

    Raises:
        LabError: as `write_report`.
    """
    shown: list[rich.console.RenderableType] = []
    for section in _sections(directory, baseline):
        shown += [*section.differing, table.terminal(section.errors, title=section.title)]
        if section.nll:
            shown.append(table.terminal(section.nll))
        if section.claims:
            claims = section.claims.cells().iloc[:, :2].to_numpy().tolist()
            shown += [f"{section.claims.caption}:", *(f"- {claim}: {verdict}" for claim, verdict in claims)]
    return rich.console.Group(*shown)


def frame(study: Path | Iterable[Mapping[str, Any]], baseline: str = BASELINE) -> pd.DataFrame:
    """Return the table of test errors of one network and data set, a row a pooling.

    Args:
        study: its folder, or the records of its runs, with at least "pooling", "seed" and "test_error" in percent.
        baseline: spelling of the pooling that the others are compared with.

    Raises:
        LabError: as `write_report` does, for a record that lacks something, or for several studies.
    """
    made = _sections(study, baseline) if isinstance(study, (str, Path)) else _split(_completed(study), {}, baseline)
    if len(made) != 1:
        raise LabError(f"expected runs of one network, data set and recipe, got {len(made)} kinds")
    rows: pd.DataFrame = made[0].errors.frame.set_index("Pooling")
    return rows


def _completed(records: Iterable[Mapping[str, Any]]) -> list[Record]:
    """Fill in what records of one's own need not say."""
    whole = []
    for number, record in enumerate(records):
        if lacking := [name for name in ("pooling", "seed", "test_error") if name not in record]:
            raise LabError(f"table: record {number} lacks {', '.join(lacking)}")
        whole.append({"data": "data", "model": "model", "converged": record["test_error"] is not None, **record})
    return recorded.checked(whole, "table")


def verdicts(directory: Path, baseline: str = BASELINE) -> list[str]:
    """Say in a sentence what the runs of a study decide, one a network, data set and recipe."""
    return [sentence(section.summary) for section in _sections(directory, baseline)]


def figure(directory: Path, baseline: str = BASELINE) -> str:
    """Return the figure of a study's test errors, as SVG.

    Raises:
        LabError: as `write_report` does, or if no run converged.
    """
    drawn = [plot.svg for section in _sections(directory, baseline) if (plot := errors(section.summary))]
    if not drawn:
        raise LabError(f"{directory} holds no run that converged")
    return drawn[0]


def power(directory: Path, baseline: str = BASELINE) -> rich.console.Group:
    """Return for the terminal how many seeds each row of a study needs, and what its seeds can show.

    Raises:
        LabError: as `write_report`, and if nothing in the study can be tested.
    """
    shown: list[rich.console.RenderableType] = []
    for section in _sections(directory, baseline):
        if section.power:
            shown += [table.terminal(section.power, title=section.title), *section.power.notes]
    if not shown:
        raise LabError(
            f"{directory} tells no spread: expected two runs or more of {baseline} and of another pooling that "
            "converged and differ"
        )
    return rich.console.Group(*shown)


def rules(evaluated: Sequence[Record]) -> rich.console.Group:
    """Return the table of the inference rules for the terminal.

    Args:
        evaluated: one record or more, as `empool.lab.analyse.evaluate.evaluate` returns them.
    """
    sheet = sheets.rules(evaluated)
    assert sheet is not None
    return rich.console.Group(table.terminal(sheet), *sheet.notes)


def _sections(directory: str | Path, baseline: str) -> list[Section]:
    """Read a study's folder, and put its sections together."""
    directory = Path(directory)
    path = directory / "evaluation.json"
    evaluated = read_evaluation(path) if path.exists() else []
    return _split(read_records(directory), _study(directory), baseline, evaluated)


def _split(
    records: Sequence[Record], study: Mapping[str, Any], baseline: str, evaluated: Sequence[Record] = ()
) -> list[Section]:
    groups = enumerate(recorded.group(records))
    return [sections.make(index, runs, study, baseline, evaluated) for index, runs in groups]


def _study(directory: Path) -> Mapping[str, Any]:
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
    brief = sheets.brief(section.title, section.summary, section.beside)
    how = section.summary.error.rule
    tested = f"; {how.value}" if how else ""
    return f"{seeds_each(section.summary.rows)}; {protocol}{tested}.\n\n{differing}{table.markdown(brief)}"


def _latex(section: Section) -> str:
    comments = [section.title, *section.answer, *section.differing, *section.errors.notes]
    tables = [section.errors, *([section.nll] if section.nll else [])]
    return "".join(f"% {comment}\n" for comment in comments) + "\n".join(table.latex(sheet) for sheet in tables)
