"""Improvement over the baseline against p, beside the paper's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from empool.lab.analyse.findings import label
from empool.lab.analyse.statistics import Interval, Row, Summary
from empool.lab.report import table
from empool.lab.report.svg import INK, WIDTH, Plot, render, style
from empool.lab.study import paper

HEIGHT = 3.0  # inches
Figures = list[tuple[float, float | None]]  # p, and the improvement in percent; None: did not converge


def improvement_against_p(summary: Summary, beside: paper.Table | None) -> Plot | None:
    """Draw improvement against p for each method with several p, ours and the paper's, each over its own."""
    level = next((row.mean for row in summary.rows if row.pooling == summary.baseline), None)
    methods = _swept(summary.rows)
    if not methods or not level:
        return None
    theirs = {method: _printed(beside, method, summary.baseline) for method in methods}
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    grid = figure.subplots(1, len(methods), sharex=True, sharey=True, squeeze=False)[0]
    low, high = _limits(methods, theirs, level)
    for axes, (method, rows) in zip(grid, methods.items(), strict=True):
        colour, marker = style(method)
        axes.set_title(method, loc="left", color=colour, fontweight="bold")
        axes.axhline(0, color=INK, linestyle=":", linewidth=1.3)
        printed = [(p, value) for p, value in theirs[method] if value is not None]
        look: dict[str, Any] = {
            "color": INK,
            "marker": "d",
            "markerfacecolor": "none",
            "linestyle": (0, (4, 2)),
            "linewidth": 1.1,
        }
        axes.plot([p for p, _ in printed], [value for _, value in printed], **look)
        ours = [(row.number, row.improvement) for row in rows if row.improvement is not None]
        axes.plot([p for p, _ in ours], [value for _, value in ours], color=colour, marker=marker)
        banded = [(row.number, interval) for row in rows if (interval := _relative(row, level)) is not None]
        ends = [interval.low for _, interval in banded], [interval.high for _, interval in banded]
        axes.fill_between([p for p, _ in banded], *ends, color=colour, alpha=0.2, linewidth=0)
        _beyond(axes, rows, theirs[method], low)
    grid[0].set_ylim(low, high)
    most = max(
        [p for method in methods for p, _ in theirs[method]] + [row.number or 0 for r in methods.values() for row in r]
    )
    grid[0].set_xlim(0, 1.06 * most)
    figure.supylabel(f"improvement over {label(summary.baseline)}, %", fontsize=8.5)
    figure.supxlabel("p" if {*methods} <= {"ensemble", "max-dropout"} else "p, or share dropped", fontsize=8.5)
    handles: list[Line2D | Patch] = [
        Line2D([], [], color=INK, linewidth=1.8, label="ours"),
        Patch(color=INK, alpha=0.25, linewidth=0, label="95 % interval"),
    ]
    if any(theirs.values()):
        handles.append(Line2D([], [], label="Zhang and Wu (2017)", **look))
    figure.legend(handles=handles, loc="outside upper left", ncols=len(handles), columnspacing=1.2, handlelength=1.7)
    title = f"Improvement over {label(summary.baseline)} against p"
    said = "; ".join(
        f"{method}: " + ", ".join(f"{row.improvement:+.1f} % at {row.number:g}" for row in rows if row.improvement)
        for method, rows in methods.items()
    )
    return Plot(
        "improvement-against-p",
        render(figure, title, f"{said}."),
        title,
        "Up is better. Band: 95 % interval, simultaneous over all poolings of the table."
        + (" Dashed: the paper's errors against its own max, so that the shapes can be compared." if beside else ""),
        (_sheet(methods, theirs, level),),
    )


def _swept(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Give the rows of each method that has several p, by p."""
    methods: dict[str, list[Row]] = {}
    for row in sorted((row for row in rows if row.number is not None), key=lambda row: row.number or 0.0):
        methods.setdefault(row.method, []).append(row)
    order = dict.fromkeys(row.method for row in rows)
    return {m: methods[m] for m in order if len(methods.get(m, ())) > 1 and any(row.errors for row in methods[m])}


def _printed(beside: paper.Table | None, method: str, baseline: str) -> Figures:
    """Give the paper's improvements of a method."""
    if beside is None or beside.error(baseline) is None:
        return []
    named = [(pooling, pooling.partition(":")) for pooling in beside.rows]
    return [
        (float(p), beside.improvement_over(baseline, pooling))
        for pooling, (name, _, p) in named
        if name == method and p
    ]


def _relative(row: Row, level: float) -> Interval | None:
    """Give the interval of an improvement in percent: that of the difference, relative to the baseline's mean."""
    interval = row.error.interval
    return Interval(-100 * interval.high / level, -100 * interval.low / level) if interval else None


def _limits(methods: dict[str, list[Row]], theirs: dict[str, Figures], level: float) -> tuple[float, float]:
    """Return limits that hold our means and, as far as these do not dwarf them, intervals and the paper's figures."""
    ours = [row.improvement for rows in methods.values() for row in rows if row.improvement is not None] + [0.0]
    intervals = [interval for rows in methods.values() for row in rows if (interval := _relative(row, level))]
    others = [value for figures in theirs.values() for _, value in figures if value is not None]
    others += [end for interval in intervals for end in (interval.low, interval.high)]
    first, third = np.percentile(ours, [25, 75])
    reach = 3 * max(third - first, 1.0)
    near = [value for value in ours if value >= first - reach]
    room = 1.5 * max(max(near) - min(near), 1.0)
    near += [value for value in others if value >= min(near) - room]
    margin = 0.08 * (max(near) - min(near)) or 1.0
    return min(near) - margin, max(near) + margin


def _beyond(axes: Axes, rows: Sequence[Row], printed: Figures, low: float) -> None:
    """Write at the lower end what did not converge or lies below it, in one line a p: ours, then the paper's."""
    said: dict[float, list[tuple[str, str]]] = {}
    for row in rows:
        if row.improvement is None or row.improvement < low:
            text = "failed" if row.improvement is None else f"{row.improvement:+.0f} \N{DOWNWARDS ARROW}"
            said.setdefault(row.number or 0.0, []).append((text, style(row.method)[0]))
    for p, value in printed:
        if value is None or value < low:
            text = "paper: failed" if value is None else f"paper: {value:+.0f} \N{DOWNWARDS ARROW}"
            said.setdefault(p, []).append((text, INK))
    for p, texts in said.items():
        axes.annotate(
            ", ".join(text for text, _ in texts),
            (p, low),
            (0, 2),
            textcoords="offset points",
            ha="center",
            va="bottom",
            rotation=90,
            color=texts[0][1],
            fontsize=7,
            in_layout=False,
        )


def _sheet(methods: dict[str, list[Row]], theirs: dict[str, Figures], level: float) -> table.Sheet:
    """Lay out the points as a table, the paper's beside ours."""
    found = {(method, row.number or 0.0): row for method, rows in methods.items() for row in rows}
    printed = {(method, p): value for method, figures in theirs.items() for p, value in figures}
    order = list(methods)
    keys = sorted({*found, *printed}, key=lambda key: (order.index(key[0]), key[1]))
    rows = [found.get(key) for key in keys]
    columns: dict[str, tuple[Sequence[Any], Any]] = {
        "Method": ([method for method, _ in keys], None),
        "p": ([p for _, p in keys], "g"),
        "Ours": ([row and row.improvement for row in rows], "+.1f"),
        table.INTERVAL: ([row and _relative(row, level) for row in rows], "+.1f"),
    }
    if printed:
        columns["Paper"] = ([printed.get(key) for key in keys], "+.2f")
    return table.sheet("Improvement against p, %", columns)
