"""Fills the table of the README and of docs/results.md from the studies' records: `python docs/readme.py`."""

from __future__ import annotations

from pathlib import Path

from empool.lab import pages
from empool.lab.analyse.statistics import Verdict, mean, summarise
from empool.lab.files import read_json

ROOT = Path(__file__).parents[1]
STUDIES = {  # of results/: what is trained, on what
    "airbench/stage2/50000-published": ("airbench, 50,000 images, augmented", "ensemble:0.1"),
    "airbench/stage2/50000-none": ("airbench, 50,000 images", "ensemble:0.1"),
    "airbench/stage2/5000-published": ("airbench, 5,000 images, augmented", "ensemble:0.1"),
    "airbench/stage2/5000-none": ("airbench, 5,000 images", "ensemble:0.5"),
    "table1-cuda": ("plain CNN, 10,000 images", "ensemble:0.5"),
}


def table() -> str:
    """Write a row for each study, as Markdown."""
    lines = ["| CIFAR-10 | max-pooling | sampling | fewer errors, points [95 %] |", "|---|---:|---:|---:|"]
    for study, (what, pooling) in STUDIES.items():
        rows = {row.pooling: row for row in summarise(read_json(ROOT / "results" / study / "results.json")).rows}
        row = rows[pooling]
        assert row.error.interval is not None
        assert row.error.difference is not None
        gain = f"{-row.error.difference:+.2f} [{-row.error.interval.high:+.2f}, {-row.error.interval.low:+.2f}]"
        gain = gain if row.error.verdict is Verdict.UNDECIDED else f"**{gain}**"
        lines.append(f"| {what} | {mean(rows['max'].errors):.2f} % | `{pooling}` {mean(row.errors):.2f} % | {gain} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    for page in ("README.md", "docs/results.md"):
        pages.put(ROOT / page, "readme:studies", table())
