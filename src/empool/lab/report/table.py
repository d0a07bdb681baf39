"""Tables: pandas frames of what was measured, written for the terminal, Markdown, LaTeX and a page."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

import pandas as pd
import rich.box
import rich.table
from rich.text import Text

from empool.lab.analyse.findings import label
from empool.lab.analyse.power import MOST_SEEDS, Outlook
from empool.lab.analyse.statistics import Comparison, Interval, Row, Summary, Verdict
from empool.lab.study import paper

NONE = "-"
POINTS, INTERVAL, VERDICT, NEEDED = "Points", "95 % interval", "Verdict", "Seeds needed"
IMAGES_TOO = "Interval, images too"

Format = str | Callable[[Any], str]


@dataclass(frozen=True)
class Sheet:
    """A table with its title.

    Attributes:
        caption: its title.
        frame: what is in it, a row a line: numbers, `Interval`, or words; a number that is missing is NaN or None.
        formats: by column, how its numbers are written, as `format` takes it; other columns hold words.
        notes: what to know when reading it.
    """

    caption: str
    frame: pd.DataFrame
    formats: Mapping[str, Format] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def cells(self) -> pd.DataFrame:
        """Write every cell as it is shown."""
        columns = {name: [_written(value, self.formats.get(name)) for value in self.frame[name]] for name in self.frame}
        return pd.DataFrame(columns, columns=self.frame.columns, dtype=object)

    def keys(self) -> pd.DataFrame:
        """Give for each cell the number to sort by, an empty string where there is none; None where words do."""
        columns = {name: [_key(value, name in self.formats) for value in self.frame[name]] for name in self.frame}
        return pd.DataFrame(columns, columns=self.frame.columns, dtype=object)

    def without(self, *names: str) -> Sheet:
        """Leave columns out."""
        return replace(self, frame=self.frame.drop(columns=[name for name in names if name in self.frame]))


def sheet(caption: str, columns: Mapping[str, tuple[Sequence[Any], Format | None]], notes: Sequence[str] = ()) -> Sheet:
    """Lay out columns, each with its format or None for words."""
    frame = pd.DataFrame({name: pd.Series(list(values), dtype=object) for name, (values, _) in columns.items()})
    return Sheet(caption, frame, {name: how for name, (_, how) in columns.items() if how is not None}, notes)


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value)


def _written(value: Any, how: Format | None) -> str:
    if _missing(value):
        return NONE
    if isinstance(value, Interval):
        return f"[{value.low:{how}}, {value.high:{how}}]"
    if isinstance(value, Enum):
        return str(value.value)
    if how is None:
        return str(value)
    return how(value) if callable(how) else f"{value:{how}}"


def _key(value: Any, numeric: bool) -> str | None:
    if not numeric:
        return None
    if _missing(value):
        return ""
    number = value.low if isinstance(value, Interval) else value
    if isinstance(number, str):  # such as "> 1,000", or that something did not converge
        return number if number.isdigit() else "1e9"
    return f"{number:.8g}"


def poolings(spellings: Sequence[str]) -> tuple[list[str], None]:
    """Give the column that names the rows."""
    return [label(pooling) for pooling in spellings], None


def errors(caption: str, summary: Summary, beside: paper.Table | None = None, plan: Outlook | None = None) -> Sheet:
    """Lay out the test errors of a study, the paper's beside them where it has such a table.

    Args:
        caption: the table's title.
        summary: what `empool.lab.analyse.statistics.summarise` returned.
        beside: the paper's table, if it may stand beside.
        plan: the seeds that each row needs.
    """
    rows = summary.rows
    columns: dict[str, tuple[Sequence[Any], Format | None]] = {
        "Pooling": poolings([row.pooling for row in rows]),
        "Test error %": ([row.mean for row in rows], ".2f"),
        **_compared([row.error for row in rows], ".2f"),
        VERDICT: ([verdict(row, row.error) for row in rows], None),
        "Improvement %": ([None if row.pooling == summary.baseline else row.improvement for row in rows], "+.1f"),
        "Spread": ([row.spread for row in rows], ".2f"),
        "Runs": ([row.runs for row in rows], "d"),
    }
    if plan is not None:
        needs = {need.pooling: seeds(need.seeds) for need in plan.needs}
        columns[NEEDED] = ([needs.get(row.pooling) for row in rows], str)
    if any(row.sampled for row in rows):
        columns[IMAGES_TOO] = ([row.sampled for row in rows], "+.2f")
    if beside is not None:
        columns["Paper: error %"] = ([_printed(beside.rows.get(row.pooling)) for row in rows], _error)
        columns["Paper: improvement %"] = ([beside.improvement(row.pooling) for row in rows], "+.2f")
    return sheet(caption, columns)


def brief(caption: str, summary: Summary, beside: paper.Table | None = None) -> Sheet:
    """Lay out the results in few columns, for a page that people read."""
    rows = summary.rows
    columns: dict[str, tuple[Sequence[Any], Format | None]] = {
        "Pooling": poolings([row.pooling for row in rows]),
        "Test error %": ([_plus_minus(row) for row in rows], str),
        f"Points against {label(summary.baseline)} [95 % interval]": ([_with_interval(row.error) for row in rows], str),
        VERDICT: ([verdict(row, row.error) for row in rows], None),
        "NLL": ([row.nll for row in rows], ".3f"),
    }
    if beside is not None:
        columns["Paper: error %"] = ([_printed(beside.rows.get(row.pooling)) for row in rows], _error)
    return sheet(caption, columns)


def nlls(caption: str, summary: Summary, notes: Sequence[str] = ()) -> Sheet | None:
    """Lay out negative log-likelihood and calibration error; None where no run says them."""
    rows = summary.rows
    if all(row.nll is None and row.ece is None for row in rows):
        return None
    columns: dict[str, tuple[Sequence[Any], Format | None]] = {
        "Pooling": poolings([row.pooling for row in rows]),
        "Test NLL": ([row.nll for row in rows], ".4f"),
        "Nats": ([row.nll_against.difference for row in rows], "+.4f"),
        INTERVAL: ([row.nll_against.interval for row in rows], "+.4f"),
        VERDICT: ([verdict(row, row.nll_against) for row in rows], None),
    }
    if any(row.ece is not None for row in rows):
        columns["Test ECE %"] = ([row.ece for row in rows], ".2f")
    return sheet(caption, columns, notes)


def _compared(comparisons: Sequence[Comparison], how: str) -> dict[str, tuple[Sequence[Any], Format | None]]:
    return {
        POINTS: ([one.difference for one in comparisons], f"+{how}"),
        INTERVAL: ([one.interval for one in comparisons], f"+{how}"),
    }


def verdict(row: Row, comparison: Comparison) -> str:
    """Write what the runs support, in a few words."""
    if comparison.verdict is Verdict.FAILED:
        return f"{len(row.not_converged)} of {row.runs} did not converge"
    return str(comparison.verdict.value)


def _plus_minus(row: Row) -> str | None:
    if row.mean is None:
        return None
    return f"{row.mean:.2f}" if row.spread is None else f"{row.mean:.2f} \N{PLUS-MINUS SIGN} {row.spread:.2f}"


def _with_interval(comparison: Comparison) -> str | None:
    if comparison.difference is None:
        return None
    interval = comparison.interval
    bounds = f" [{interval.low:+.2f}, {interval.high:+.2f}]" if interval else ""
    return f"{comparison.difference:+.2f}{bounds}"


def seeds(needed: int | None) -> str:
    """Write how many seeds are needed."""
    return f"> {MOST_SEEDS:,}" if needed is None else f"{needed}"


def _printed(figure: paper.Figure | None) -> Any:
    return None if figure is None else "not converged" if figure.error is None else figure.error


def _error(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:.2f}"


def markdown(sheet: Sheet) -> str:
    """Return a table of GitHub-flavoured Markdown."""
    cells = sheet.cells()
    lines = [
        list(cells.columns),
        ["---:" if name in sheet.formats else ":---" for name in cells.columns],
        *cells.to_numpy().tolist(),
    ]
    return "".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |\n" for line in lines)


def latex(sheet: Sheet) -> str:
    """Return a LaTeX tabular; needs the package booktabs."""
    spec = "".join("r" if name in sheet.formats else "l" for name in sheet.frame)
    text: str = sheet.cells().to_latex(index=False, escape=True, column_format=spec)
    return re.sub(r"(?<![\w.-])([+-])(?=\d)", r"$\1$", text)  # A hyphen is no sign.


STYLES = {Verdict.BETTER.value: "green", Verdict.WORSE.value: "red"}
_BRIEF = {
    "Test error %": "Error %",
    "Improvement %": "Better by %",
    "Paper: error %": "Paper %",
}
_LEFT_OUT = ("Runs", NEEDED, IMAGES_TOO, "Paper: improvement %")


def terminal(sheet: Sheet, *, without: Sequence[str] = (), title: str | None = None) -> rich.table.Table:
    """Return a table for the terminal, some columns left out; a row whose name is that above is not named again."""
    shown = rich.table.Table(
        title=title, title_justify="left", box=rich.box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True
    )
    crowded = ("Spread",) if "Paper: error %" in sheet.frame else ()
    cells = sheet.without(*without, *_LEFT_OUT, *crowded).cells()
    for name in cells:
        numeric = name in sheet.formats
        shown.add_column(
            _BRIEF.get(name, name),
            justify="right" if numeric else "left",
            no_wrap=name in ("Pooling", INTERVAL),
            min_width=len(Verdict.UNDECIDED.value) if name == VERDICT else None,
        )
    before = None
    for line in cells.to_dict("records"):
        first, *others = (cell.replace("did not converge", "failed") for cell in line.values())
        shown.add_row("" if first == before else first, *map(Text, others), style=STYLES.get(line.get(VERDICT, ""), ""))
        before = first
    return shown
