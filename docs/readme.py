"""Fills the table of the README from a study's records: `python docs/readme.py`."""

from __future__ import annotations

from pathlib import Path

from empool.lab import pages
from empool.lab.analyse.statistics import Row, Verdict, mean, summarise
from empool.lab.files import read_json

ROOT = Path(__file__).parents[1]
STUDY = "table1"
POOLINGS = ("max", "average", "ensemble:0.4", "max-dropout:0.5", "stochastic-max:0.5")


def table(study: str = STUDY, poolings: tuple[str, ...] = POOLINGS) -> str:
    """Write five rows of a study as Markdown."""
    rows = {row.pooling: row for row in summarise(read_json(ROOT / "results" / study / "results.json")).rows}
    lines = ["| pooling | test error % | points against max [95 % interval] | NLL |", "|---|---:|---:|---:|"]
    lines += [_line(rows[pooling]) for pooling in poolings]
    return "\n".join(lines) + "\n"


def _line(row: Row) -> str:
    against = "-"
    if row.error.interval:
        against = f"{row.error.difference:+.2f} [{row.error.interval.low:+.2f}, {row.error.interval.high:+.2f}]"
        against = f"**{against}**" if row.error.verdict is Verdict.BETTER else against
    return f"| `{row.pooling}` | {mean(row.errors):.2f} | {against} | {mean(row.nlls):.3f} |"


if __name__ == "__main__":
    pages.put(ROOT / "README.md", f"readme:{STUDY}", table())
