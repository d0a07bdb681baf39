"""The table of a study, from the same rows for the terminal, Markdown and LaTeX."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import rich.box
import rich.console
import rich.table
from rich.text import Text

from empool.lab.analyse.statistics import BASELINE, Interval, Row
from empool.lab.study import deck

NONE = "-"
PROBABILISTIC = ("Test NLL", "Test ECE %")


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        header: its heading.
        cells: one string a row.
        numeric: whether to align right.
        values: what to sort the rows by, where the cells do not say it exactly; None comes last in either order.
    """

    header: str
    cells: list[str]
    numeric: bool = True
    values: Sequence[float | None] | None = None


@dataclass(frozen=True)
class Sheet:
    """A table with its title, and what to know when reading it."""

    caption: str
    columns: Sequence[Column]
    notes: Sequence[str] = ()


def numbers(header: str, values: Sequence[float | None], places: int, *, sign: bool = False) -> Column:
    """Lay out numbers as a column, rounded to look at and exact to sort by."""
    return Column(header, [decimals(value, places, sign=sign) for value in values], values=values)


def bounds(intervals: Sequence[Interval | None], places: int, *, sign: bool = False) -> list[Column]:
    """Lay out 95 % intervals as two columns."""
    return [
        numbers("95 % from", [interval.low if interval else None for interval in intervals], places, sign=sign),
        numbers("to", [interval.high if interval else None for interval in intervals], places, sign=sign),
    ]


def bounded(header: str, intervals: Sequence[Interval | None], places: int) -> Column:
    """Lay out 95 % intervals as one column; they sort by their lower ends."""
    return Column(
        header,
        [bracketed(interval, places) for interval in intervals],
        values=[interval.low if interval else None for interval in intervals],
    )


def poolings(spellings: Sequence[str]) -> Column:
    """Lay out the poolings of a table's rows; they sort by method, and then by what is dropped."""
    places = sorted({*spellings}, key=_order)
    return Column("Pooling", list(spellings), numeric=False, values=[places.index(spelling) for spelling in spellings])


def _order(pooling: str) -> tuple[str, float, str]:
    method, _, rest = pooling.partition(":")
    try:
        return method, float(rest), rest
    except ValueError:
        return method, 0.0, rest


def columns(rows: Sequence[Row], beside: deck.Table | None = None) -> list[Column]:
    """Lay out rows as columns of strings.

    Args:
        rows: what `empool.lab.analyse.statistics.summarise` returned.
        beside: the deck's table to show beside ours, if it is of the same data and network.
    """
    laid_out = [
        poolings([row.pooling for row in rows]),
        Column("Runs", [str(row.runs) for row in rows]),
        numbers("Test error %", [row.mean for row in rows], 2),
        numbers("Spread", [row.spread for row in rows], 2),
        Column("Best to worst", [_span(row) for row in rows], values=[row.best for row in rows]),
        Column(
            "Improvement over max %",
            [decimals(row.improvement, 1, sign=True) for row in rows],
            values=[0.0 if row.pooling == BASELINE else row.improvement for row in rows],
        ),
        bounded("95 % interval", [row.interval for row in rows], 1),
        Column("What the seeds support", [row.verdict for row in rows], numeric=False, values=[*map(_support, rows)]),
    ]
    # Left out where no run says them.
    probabilistic = [[row.nll for row in rows], [row.ece for row in rows]]
    for header, values, places in zip(PROBABILISTIC, probabilistic, (4, 2), strict=True):
        if {*values} != {None}:
            laid_out.append(numbers(header, values, places))
    if beside is not None:
        figures = [beside.rows.get(row.pooling) for row in rows]
        errors = [beside.error(row.pooling) for row in rows]
        improvements = [beside.improvement(row.pooling) for row in rows]
        laid_out += [
            Column("Deck error %", [printed_error(figure) for figure in figures], values=errors),
            Column("Deck improvement %", [printed_improvement(figure) for figure in figures], values=improvements),
        ]
    return laid_out


def _span(row: Row) -> str:
    return f"{row.best:.2f}\N{EN DASH}{row.worst:.2f}" if row.runs > 1 and row.errors else NONE


def _support(row: Row) -> float | None:
    """Put what the seeds support in an order: better, baseline, undecided, worse; what is not tested has none."""
    if row.not_converged or row.max_failed:
        return None
    return {"better": 0, "baseline": 1, "worse": 3}.get(row.verdict.partition(" ")[0], 2)


def decimals(value: float | None, places: int, *, sign: bool = False) -> str:
    """Write a number with this many decimals, None as a dash."""
    return NONE if value is None else f"{value:{'+' if sign else ''}.{places}f}"


def bracketed(interval: Interval | None, places: int) -> str:
    """Write an interval with this many decimals, None as a dash."""
    return NONE if interval is None else f"[{interval.low:+.{places}f}, {interval.high:+.{places}f}]"


def printed_error(figure: deck.Figure | None) -> str:
    """Write the deck's error as it is printed there."""
    if figure is None:
        return NONE
    return "not converged" if figure.error is None else f"{figure.error:.2f}"


def printed_improvement(figure: deck.Figure | None) -> str:
    """Write the deck's improvement as it is printed there."""
    return NONE if figure is None or figure.improvement is None else f"{figure.improvement:+.2f}"


def terminal(rows: Sequence[Row], beside: deck.Table | None = None, *, title: str | None = None) -> rich.console.Group:
    """Return the table as a rich renderable of 80 characters: what fits, and NLL and ECE in a second table below."""
    laid_out = columns(rows, beside)
    left_out = {"Runs", "Best to worst", *(("Spread", "Deck improvement %") if beside is not None else ())}
    brief = {
        "Test error %": "Error %",
        "Improvement over max %": "Better by %",
        "What the seeds support": "Verdict",
        "Deck error %": "Deck %",
    }
    laid_out = [replace(column, cells=[*map(_briefly, column.cells)]) for column in laid_out]
    below = [column for column in laid_out if column.header in PROBABILISTIC]
    first = [column for column in laid_out if column.header not in left_out and column not in below]
    tables = [
        rich.table.Table(
            title=title, title_justify="left", box=rich.box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True
        )
    ]
    if below:
        tables.append(rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True))
    styles = {"better": "green", "worse": "red"}
    for table, shown in zip(tables, (first, [first[0], *below]), strict=False):
        for column in shown:
            justify: Literal["left", "right"] = "right" if column.numeric else "left"
            table.add_column(
                brief.get(column.header, column.header),
                justify=justify,
                no_wrap=column.header in ("Pooling", "95 % interval"),
            )
        for row, cells in zip(rows, zip(*(column.cells for column in shown), strict=True), strict=True):
            table.add_row(*(Text(cell) for cell in cells), style=styles.get(row.verdict.partition(" ")[0], ""))
    return rich.console.Group(*tables)


def _briefly(cell: str) -> str:
    """Shorten a verdict: the seeds are counted above the table, and it is always max that others are held against."""
    shorter = re.sub(r"not decided by \d+ seeds?", "undecided", cell).removesuffix(f" than {BASELINE}")
    return shorter.partition(":")[0] if shorter.startswith("not tested:") else shorter


def plain(sheet: Sheet, without: Sequence[str] = ()) -> rich.table.Table:
    """Return a sheet as a table for the terminal, some columns left out; a pooling of several lines is named once."""
    shown = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    first, *others = (column for column in sheet.columns if column.header not in without)
    for column in (first, *others):
        shown.add_column(column.header, justify="right" if column.numeric else "left", no_wrap=not column.numeric)
    for i, name in enumerate(first.cells):
        again = i > 0 and name == first.cells[i - 1]
        shown.add_row("" if again else name, *(Text(column.cells[i]) for column in others))
    return shown


def markdown(laid_out: Sequence[Column]) -> str:
    """Return columns as a table of GitHub-flavoured Markdown."""
    lines = [
        [column.header for column in laid_out],
        ["---:" if column.numeric else ":---" for column in laid_out],
        *zip(*(column.cells for column in laid_out), strict=True),
    ]
    return "".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |\n" for line in lines)


def latex(rows: Sequence[Row], beside: deck.Table | None = None) -> str:
    """Return the table as a LaTeX tabular; needs the package booktabs."""
    laid_out = columns(rows, beside)
    head = " & ".join(latex_escape(column.header) for column in laid_out)
    body = "".join(
        " & ".join(latex_escape(cell) for cell in cells) + " \\\\\n"
        for cells in zip(*(column.cells for column in laid_out), strict=True)
    )
    spec = "".join("r" if column.numeric else "l" for column in laid_out)
    return f"\\begin{{tabular}}{{{spec}}}\n\\toprule\n{head} \\\\\n\\midrule\n{body}\\bottomrule\n\\end{{tabular}}\n"


def latex_escape(text: str) -> str:
    """Escape text for LaTeX: signs become mathematical ones, and a leading bracket is no argument of the row's end."""
    special = {"\N{EN DASH}": "--", "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    escaped = "".join(special.get(c, "\\" + c if c in "&%$#_{}" else c) for c in text)
    escaped = re.sub(r"(?<![\w.-])([+-])(?=\d)", r"$\1$", escaped)
    return "{" + escaped + "}" if escaped.startswith("[") else escaped
