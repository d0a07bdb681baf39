"""Tables: columns of what was measured, written for the terminal, Markdown, LaTeX and a page."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import pandas as pd
import rich.box
import rich.table
from rich.text import Text

from empool.lab.analyse.statistics import Interval, Verdict

NONE = "-"
POINTS, INTERVAL, VERDICT, NEEDED = "Points", "95 % interval", "Verdict", "Seeds needed"
IMAGES_TOO = "Interval, images too"

Format = str | Callable[[Any], str]
Columns = dict[str, tuple[Sequence[Any], Format | None]]


@dataclass(frozen=True)
class Sheet:
    """A table with its title."""

    caption: str  # its title
    # By name: numbers, `Interval` or words, where what is missing is NaN or None; and how numbers are written, as
    # `format` takes it, or None for words.
    columns: Mapping[str, tuple[Sequence[Any], Format | None]]
    notes: Sequence[str] = ()  # what to know when reading it

    @property
    def numbers(self) -> list[str]:
        """Names of the columns that hold numbers."""
        return [name for name, (_, how) in self.columns.items() if how is not None]

    def cells(self) -> pd.DataFrame:
        """Write every cell as it is shown."""
        written = {name: [_written(value, how) for value in values] for name, (values, how) in self.columns.items()}
        return pd.DataFrame(written, dtype=object)


def _written(value: Any, how: Format | None) -> str:
    if value is None or value != value:
        return NONE
    if isinstance(value, Interval):
        return f"[{value.low:{how}}, {value.high:{how}}]"
    if isinstance(value, Enum):
        return str(value.value)
    return str(value) if how is None else how(value) if callable(how) else f"{value:{how}}"


def markdown(sheet: Sheet) -> str:
    """Return a table of GitHub-flavoured Markdown."""
    cells = sheet.cells()
    rule = ["---:" if name in sheet.numbers else ":---" for name in cells]
    lines = [list(cells), rule, *cells.to_numpy().tolist()]
    return "".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |\n" for line in lines)


def latex(sheet: Sheet) -> str:
    """Return a LaTeX tabular; needs the package booktabs."""
    spec = "".join("r" if name in sheet.numbers else "l" for name in sheet.columns)
    text: str = sheet.cells().to_latex(index=False, escape=True, column_format=spec)
    return re.sub(r"(?<![\w.-])([+-])(?=\d)", r"$\1$", text)  # A hyphen is no sign.


_STYLES = {Verdict.BETTER.value: "green", Verdict.WORSE.value: "red"}
_BRIEF = {"Test error %": "Error %", "Improvement %": "Gain %", "Paper: error %": "Paper %"}


def terminal(sheet: Sheet, title: str | None = None, without: Sequence[str] = ()) -> rich.table.Table:
    """Return a table for the terminal, some columns left out; a row whose name is that above is not named again."""
    shown = rich.table.Table(
        title=title, title_justify="left", box=rich.box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True
    )
    cells = sheet.cells().drop(columns=list(without), errors="ignore")
    cells = cells.replace({"did not converge|not converged": "failed", "@": "\n@"}, regex=True)
    for name in cells:
        heading = _BRIEF.get(name, name)
        words = [*heading.split(), *(line for cell in cells[name] for line in cell.split("\n"))]
        # Headings are folded where it is narrow, never numbers or words.
        whole, side = name in ("Pooling", INTERVAL, VERDICT), "right" if name in sheet.numbers else "left"
        shown.add_column(heading, justify=side, no_wrap=whole, min_width=max(map(len, words)))  # type: ignore[arg-type]
    first = cells.columns[0]
    cells[first] = cells[first].mask(cells[first] == cells[first].shift(), "")
    for line in cells.to_dict("records"):
        told = (Text(cell) for cell in line.values())
        shown.add_row(*told, style=_STYLES.get(line.get(VERDICT, ""), ""))
    return shown
