"""When does it help? Gain over the baseline against the baseline's own generalisation gap."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from empool.lab.analyse.findings import label, method, setting
from empool.lab.analyse.records import Record
from empool.lab.analyse.statistics import Interval, Summary, Verdict
from empool.lab.report.svg import INK, STYLE, WIDTH, Plot, drawn, style
from empool.lab.report.table import INTERVAL, VERDICT, Columns, Sheet

_NARROWEST, _BETWEEN = 5, 2  # width of a setting and room between two, in poolings side by side
_WRAPPED = 66  # letters in a line of the legend


def points(summary: Summary, records: Sequence[Record]) -> list[dict[str, Any]]:
    """Give a point for each pooling that was tested, but not for the network without pooling.

    The gap is the baseline's mean test error less its training error, the gain its test error less the pooling's, in
    points.
    """
    gaps = [
        record["test_error"] - record["train_error"]
        for record in records
        if record["pooling"] == summary.baseline and record["converged"] and record.get("train_error") is not None
    ]
    return [
        {
            "setting": setting(records),
            "augmented": records[0]["augment"] != "none",
            "pooling": row.pooling,
            "gap": float(np.mean(gaps)),
            "gain": -row.error.difference,
            "interval": Interval(-row.error.interval.high, -row.error.interval.low),
            "verdict": row.error.verdict,
        }
        for row in summary.rows
        if gaps and row.error.interval and row.error.difference is not None and row.pooling != "none"
    ]


@mpl.rc_context(fname=STYLE)
def plot(points: Sequence[dict[str, Any]], baseline: str) -> Plot:
    """Draw the points, of which there is one or more: a column a setting, in the order of their gaps."""
    frame = pd.DataFrame(sorted(points, key=lambda point: point["gap"]))
    settings = frame.groupby(["gap", "setting"], sort=False)
    frame["named"] = settings.ngroup().add(1).astype(str) + ". " + frame.setting
    baseline = label(baseline)
    title = f"When does it help? Gain over {baseline} against its generalisation gap"
    told = [textwrap.fill(name, _WRAPPED, subsequent_indent="    ") for name in frame.named.unique()]
    figure = Figure(figsize=(WIDTH, 3.2 + 0.145 * ("\n".join(told).count("\n") + 1)))
    axes = figure.add_subplot()
    ends = (settings.size().clip(lower=_NARROWEST) + _BETWEEN).cumsum()  # on the right, a space included
    centres = (ends + ends.shift(fill_value=0) - _BETWEEN) / 2
    ticks = []
    for number, (((gap, _), column), centre) in enumerate(zip(settings, centres, strict=True), start=1):
        _column(axes, column, centre)
        ticks.append(f"{gap:.1f}\n({number})" + ("\naug." if column.augmented.all() else ""))
    axes.axhline(0, color=INK, linewidth=1)
    axes.grid(axis="x", visible=False)
    axes.set_xlim(-_BETWEEN, ends.iloc[-1])
    axes.set_xticks(centres, ticks)
    axes.set_xlabel(f"test minus training error of {baseline}, points; not to scale")
    axes.set_ylabel(f"gain over {baseline}, points of test error")
    looks = {method(pooling): style(pooling) for pooling in frame.pooling}
    marks = [Line2D([], [], color=colour, marker=marker, linestyle="") for colour, marker in looks.values()]
    figure.legend(marks, looks, loc="outside upper left", ncols=4, columnspacing=1.0, handletextpad=0.2)
    none = [Line2D([], [], linestyle="")] * len(told)
    figure.legend(none, told, loc="outside lower left", handlelength=0, handletextpad=0, labelspacing=0.3)
    columns: Columns = {
        "Setting": (frame.named, None),
        "Gap, points": (frame.gap, ".1f"),
        "Pooling": (frame.pooling.map(label), None),
        "Gain, points": (frame.gain, "+.2f"),
        INTERVAL: (frame.interval, "+.2f"),
        VERDICT: (frame.verdict, None),
    }
    caption = (
        f"Up: lower test error than {baseline}. A column is a setting, and below it are the gap (test minus training "
        f"error of {baseline}) and its number; a mark is a pooling with its 95 % interval, simultaneous over the "
        "setting. Filled: decided; aug.: augmented."
    )
    return drawn("gain", title, caption, figure, (Sheet(title, columns),))


def _column(axes: Axes, column: pd.DataFrame, centre: float) -> None:
    """Draw the points of a setting side by side."""
    for place, point in enumerate(column.itertuples()):
        x = centre + place - (len(column) - 1) / 2
        colour, marker = style(point.pooling)
        axes.plot([x, x], point.interval, color=colour, linewidth=1.2, alpha=0.6)
        decided = point.verdict in (Verdict.BETTER, Verdict.WORSE)
        axes.plot([x], [point.gain], marker, color=colour, markerfacecolor=colour if decided else "none")
