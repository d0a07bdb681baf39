"""The report of a study: a page that stands alone, the tables in Markdown and LaTeX, and the plots."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import rich.console

from empool.lab.analyse.findings import seeds_each, sentence
from empool.lab.analyse.records import Record, checked, read_records
from empool.lab.errors import LabError
from empool.lab.files import marked, put_marked, write_text
from empool.lab.report import gain, sections, sheets, table, webpage
from empool.lab.report.plots import errors, plots, read_curves
from empool.lab.report.sections import Origin, Section
from empool.lab.report.svg import Plot
from empool.lab.report.table import IMAGES_TOO, NEEDED, POINTS, VERDICT, Sheet
from empool.lab.study.run import BASELINE

__all__ = ["figure", "frame", "power", "read_records", "rules", "terminal", "verdict", "write_gain", "write_report"]

_MADE_OF = {"nll": "test_nll in its records", "claims": "claims of the paper", "rules": "an empool evaluate"}


def write_report(directory: Path, baseline: str = BASELINE) -> Path:
    """Write report.html, table.md, table.tex and the plots into a study's folder; LabError names a damaged file."""
    made = sections.read(directory, baseline)
    drawn = plots(made.summary, made.records, read_curves(directory, made.records), made.beside)
    files = {f"{plot.name}.svg": plot.svg for plot in drawn}
    files |= {"table.md": _markdown(made), "table.tex": _latex(made), "report.html": webpage.render(made, drawn)}
    for name, text in files.items():
        write_text(directory / name, text)
    return directory / "report.html"


def write_table(directory: Path, target: Path, baseline: str = BASELINE) -> list[str]:
    """Put a study's tables into a page, each between its marks ``<!-- KIND:NAME -->``, NAME being the folder's name.

    The kinds are study (test errors and the protocol), nll, claims and rules; those that the page has are returned. A
    page without marks is refused, and so is one with a mark for which the study has no table.
    """
    made, name = sections.read(directory, baseline), directory.resolve().name
    found = {kind: getattr(made, kind) for kind in _MADE_OF}
    texts = {"study": _in_page(made)} | {kind: table.markdown(sheet) for kind, sheet in found.items() if sheet}
    kinds = [kind for kind in ("study", *_MADE_OF) if marked(target, f"{kind}:{name}")] or ["study"]
    for kind in kinds:
        if kind not in texts:
            made_of = f"it takes {_MADE_OF[kind]}; take the mark out"
            raise LabError(f"{target} has a mark {kind}:{name}, and {directory} has no such table: {made_of}")
    for kind in kinds:
        put_marked(target, f"{kind}:{name}", texts[kind])
    return kinds


def write_gain(directories: Sequence[Path], out: Path, baseline: str = BASELINE) -> Path:
    """Draw gain over the baseline against its generalisation gap into gain.svg, with gain.md for the numbers.

    The directories are of studies, or hold some; every study is a column.
    """
    points = []
    for directory in directories:
        for study in [path.parent for path in sorted(directory.rglob("results.json"))] or [directory]:
            if all(record["pooling"] != baseline for record in read_records(study)):
                continue
            made = sections.read(study, baseline)
            points += gain.points(made.summary, made.records)
    if not points:
        expected = f"expected studies with {baseline}, its training error, and two runs or more of another pooling"
        raise LabError(f"no gain to draw: {expected}")
    plot, path = gain.plot(points, baseline), out / "gain.svg"
    out.mkdir(parents=True, exist_ok=True)
    write_text(path, plot.svg)
    write_text(path.with_suffix(".md"), f"{plot.caption}\n\n{table.markdown(plot.sheets[0])}")
    return path


def terminal(directory: Path, baseline: str = BASELINE) -> rich.console.Group:
    """Return a study's tables for the terminal, and beneath them what its runs say to the paper's claims."""
    made = sections.read(directory, baseline)
    wide = made.beside or any(len(part) > 17 for row in made.summary.rows for part in row.pooling.split("@"))
    without = ["Runs", NEEDED, IMAGES_TOO, "Paper: improvement %", *(["Spread"] if wide else [])]
    shown: list[Any] = [*made.warnings, table.terminal(made.errors, made.title, without)]
    if made.nll:
        shown.append(table.terminal(made.nll))
    if made.claims:
        claims = made.claims.cells().iloc[:, :2].to_numpy().tolist()
        shown += [f"{made.claims.caption}:", *(f"- {claim}: {judged}" for claim, judged in claims)]
    return rich.console.Group(*shown)


def frame(study: str | Path | Iterable[Mapping[str, Any]], baseline: str = BASELINE) -> pd.DataFrame:
    """Return the table of test errors, a row a pooling, of a study's folder or of the records of its runs."""
    if isinstance(study, str | Path):
        made = sections.read(Path(study), baseline)
    else:
        rows = study.to_dict("records") if isinstance(study, pd.DataFrame) else study
        if isinstance(rows, Mapping) or not isinstance(rows, Iterable):
            raise LabError(f"table: expected a list of records, one a run, got a {type(rows).__name__}")
        own = [{"data": "own", "model": "own", "converged": one.get("test_error", 0) is not None,
                **{name: value.item() if getattr(value, "ndim", 1) == 0 else value for name, value in one.items()}}
               if isinstance(one, Mapping) else one for one in rows]  # fmt: skip
        made = Section(checked(own, "table"), "table", baseline, Origin(), [])
    columns = {name: list(values) for name, (values, _) in made.errors.columns.items()}
    return pd.DataFrame(columns, dtype=object).set_index("Pooling")


def verdict(directory: Path, baseline: str = BASELINE) -> str:
    """Say in a sentence what the runs of a study decide."""
    return sentence(sections.read(directory, baseline).summary)


def figure(directory: Path, baseline: str = BASELINE) -> Plot:
    """Return the figure of a study's test errors; raise LabError if no run converged."""
    plot = errors(sections.read(directory, baseline).summary)
    if plot is None:
        raise LabError(f"{directory} holds no run that converged")
    return plot


def power(directory: Path, baseline: str = BASELINE) -> rich.console.Group:
    """Return for the terminal how many seeds each row of a study needs, and what its seeds can show."""
    made = sections.read(directory, baseline)
    if not made.power:
        raise LabError(f"{directory} tells no spread: expected two runs of {baseline} and of another that differ")
    columns = {name: made.errors.columns[name] for name in ("Pooling", POINTS, VERDICT, NEEDED)}
    return rich.console.Group(table.terminal(Sheet("", columns), made.title), *made.power)


def rules(evaluated: Sequence[Record]) -> rich.console.Group:
    """Return the table of the inference rules for the terminal, of one record of an evaluation or more."""
    sheet = sheets.rules(evaluated)
    assert sheet is not None
    return rich.console.Group(table.terminal(sheet, without=["Runs"]), *sheet.notes)


def _markdown(section: Section) -> str:
    parts = [f"# {section.title}", " ".join(section.answer), *section.warnings]
    for sheet in filter(None, (section.errors, section.nll, section.claims, section.rules)):
        parts += [f"{sheet.caption}:", table.markdown(sheet).rstrip(), "\n".join(f"- {note}" for note in sheet.notes)]
    return "\n\n".join(parts) + "\n"


def _in_page(section: Section) -> str:
    how = section.summary.error.rule
    protocol = [f"{name.lower()}: {value}" for name, value in section.protocol()]
    said = "; ".join([seeds_each(section.summary.rows), *protocol, *([how.value] if how else [])])
    return "\n\n".join([f"{said}.", *section.warnings, table.markdown(sheets.brief(section.errors, section.summary))])


def _latex(section: Section) -> str:
    comments = [section.title, *section.answer, *section.warnings, *section.errors.notes]
    tables = map(table.latex, filter(None, (section.errors, section.nll)))
    return "".join(f"% {comment}\n" for comment in comments) + "\n".join(tables)
