"""Tables: pandas frames of what was measured, written for the terminal, Markdown, LaTeX and a page."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
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
Columns = dict[str, tuple[Sequence[Any], Format | None]]  # values, and their format or None for words


@dataclass(frozen=True)
class Sheet:
    """A table with its title."""

    caption: str  # its title
    # What is in it, a row a line: numbers, `Interval`, or words; a number that is missing is NaN or None.
    frame: pd.DataFrame
    # By column, how its numbers are written, as `format` takes it; other columns hold words.
    formats: Mapping[str, Format] = field(default_factory=dict)
    notes: Sequence[str] = ()  # what to know when reading it

    def cells(self) -> pd.DataFrame:
        """Write every cell as it is shown."""
        columns = {name: [_written(value, self.formats.get(name)) for value in self.frame[name]] for name in self.frame}
        return pd.DataFrame(columns, columns=self.frame.columns, dtype=object)


def sheet(caption: str, columns: Columns, notes: Sequence[str] = ()) -> Sheet:
    """Lay out columns."""
    frame = pd.DataFrame({name: pd.Series(list(values), dtype=object) for name, (values, _) in columns.items()})
    return Sheet(caption, frame, {name: how for name, (_, how) in columns.items() if how is not None}, notes)


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
    rule = ["---:" if name in sheet.formats else ":---" for name in cells]
    lines = [list(cells), rule, *cells.to_numpy().tolist()]
    return "".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |\n" for line in lines)


def latex(sheet: Sheet) -> str:
    """Return a LaTeX tabular; needs the package booktabs."""
    spec = "".join("r" if name in sheet.formats else "l" for name in sheet.frame)
    text: str = sheet.cells().to_latex(index=False, escape=True, column_format=spec)
    return re.sub(r"(?<![\w.-])([+-])(?=\d)", r"$\1$", text)  # A hyphen is no sign.


_STYLES = {Verdict.BETTER.value: "green", Verdict.WORSE.value: "red"}
_BRIEF = {"Test error %": "Error %", "Improvement %": "Better by %", "Paper: error %": "Paper %"}
_LEFT_OUT = ("Runs", NEEDED, IMAGES_TOO, "Paper: improvement %")


def terminal(sheet: Sheet, title: str | None = None) -> rich.table.Table:
    """Return a table for the terminal, some columns left out; a row whose name is that above is not named again."""
    shown = rich.table.Table(
        title=title, title_justify="left", box=rich.box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True
    )
    crowded = ("Spread",) if "Paper: error %" in sheet.frame else ()
    cells = sheet.cells().drop(columns=[*_LEFT_OUT, *crowded], errors="ignore")
    for name in cells:
        shown.add_column(
            _BRIEF.get(name, name),
            justify="right" if name in sheet.formats else "left",
            no_wrap=name in ("Pooling", INTERVAL),
            min_width=len(Verdict.UNDECIDED.value) if name == VERDICT else None,
        )
    before = None
    for line in cells.to_dict("records"):
        first, *others = (cell.replace("did not converge", "failed") for cell in line.values())
        style = _STYLES.get(line.get(VERDICT, ""), "")
        shown.add_row("" if first == before else first, *map(Text, others), style=style)
        before = first
    return shown
