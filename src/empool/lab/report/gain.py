"""When does it help? Gain over the baseline against the baseline's own generalisation gap."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from empool.lab.analyse.findings import label, method, setting
from empool.lab.analyse.records import Record
from empool.lab.analyse.statistics import Interval, Summary, Verdict
from empool.lab.report.svg import INK, STYLE, WIDTH, Plot, render, style
from empool.lab.report.table import INTERVAL, VERDICT, Sheet

_APART = 0.012  # of the axis, between the poolings of a setting
_WIDEST = 0.065  # of the axis, that a setting takes
_WRAPPED = 66  # letters in a line of the legend


def points(summary: Summary, records: Sequence[Record]) -> list[dict[str, Any]]:
    """Give a point for each pooling that was tested, but not for the network without pooling.

    Studies whose error is that of held-out training images chose something; they give none. The gap is the
    baseline's mean test error less its training error, the gain its test error less the pooling's, in points.
    """
    gaps = [
        record["test_error"] - record["train_error"]
        for record in records
        if record["pooling"] == summary.baseline and record["converged"] and record.get("train_error") is not None
    ]
    if not gaps or (records[0].get("validation_images") and not records[0]["test_images"]):
        return []
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
        if row.error.interval is not None and row.error.difference is not None and row.pooling != "none"
    ]


@mpl.rc_context(fname=STYLE)
def plot(points: Sequence[dict[str, Any]], baseline: str) -> Plot:
    """Draw the points, of which there is one or more."""
    frame = pd.DataFrame(sorted(points, key=lambda point: point["gap"]))
    columns = list(frame.groupby(["gap", "setting"], sort=False))
    baseline = label(baseline)
    title = f"When does it help? Gain over {baseline} against its generalisation gap"
    numbered = {key: f"{number}. {key[1]}" for number, (key, _) in enumerate(columns, start=1)}
    told = [textwrap.fill(words, _WRAPPED, subsequent_indent="    ") for words in numbered.values()]
    figure = Figure(figsize=(WIDTH, 3.2 + 0.145 * ("\n".join(told).count("\n") + 1)))
    axes = figure.add_subplot()
    gaps = [gap for (gap, _), _ in columns]
    low, high = min(0.0, gaps[0]), gaps[-1]
    high += 0.06 * (high - low) or 1.0
    widths = [min(_APART * (len(column) - 1), _WIDEST) * (high - low) for _, column in columns]
    centres: list[float] = []
    for gap, width, before in zip(gaps, widths, [0.0, *widths], strict=False):  # to the right of the column before
        beside = (width + before) / 2 + 0.02 * (high - low)
        centres.append(max(gap, centres[-1] + beside) if centres else gap)
    for number, ((_, column), centre, width) in enumerate(zip(columns, centres, widths, strict=True), start=1):
        places = np.linspace(-width / 2, width / 2, len(column)) + centre
        for x, point in zip(places, column.itertuples(), strict=True):
            colour, marker = style(point.pooling)
            axes.plot([x, x], [point.interval.low, point.interval.high], color=colour, linewidth=1.2, alpha=0.6)
            decided = point.verdict in (Verdict.BETTER, Verdict.WORSE)
            axes.plot([x], [point.gain], marker, color=colour, markerfacecolor=colour if decided else "none")
        for text, up in [(str(number), 10), *([("aug.", 2)] if column.augmented.all() else [])]:
            axes.annotate(text, (centre, 1), (0, up), xycoords=("data", "axes fraction"), ha="center",
                          fontsize=8 if up == 10 else 7, textcoords="offset points")  # fmt: skip
    axes.axhline(0, color=INK, linewidth=1)
    axes.set_xlim(low - 0.06 * (high - low), high + 0.04 * (high - low))
    axes.set_xlabel(f"generalisation gap of {baseline}: test less training error, points")
    axes.set_ylabel(f"gain over {baseline}, points of test error")
    looks = {method(pooling): style(pooling) for pooling in frame.pooling}
    handles = [Line2D([], [], color=ink, marker=mark, linestyle="", label=name) for name, (ink, mark) in looks.items()]
    figure.legend(handles=handles, loc="outside upper left", ncols=4, columnspacing=1.0, handletextpad=0.2)
    named = [Line2D([], [], linestyle="", label=words) for words in told]
    figure.legend(handles=named, loc="outside lower left", handlelength=0, handletextpad=0, labelspacing=0.3)
    ordered = pd.concat(column for _, column in columns)
    sheet = Sheet(
        title,
        {
            "Setting": ([numbered[key] for key in zip(ordered.gap, ordered.setting, strict=True)], None),
            "Gap, points": (ordered.gap, ".1f"),
            "Pooling": (ordered.pooling.map(label), None),
            "Gain, points": (ordered.gain, "+.2f"),
            INTERVAL: (ordered.interval, "+.2f"),
            VERDICT: (ordered.verdict, None),
        },
    )
    caption = (
        f"Up: fewer test errors than {baseline}. A column is a setting, numbered below; a mark is a pooling with its "
        "95 % interval, simultaneous over the setting. Filled: decided; aug.: augmented. Marks that would lie on each "
        "other are moved sideways; the table has the gaps."
    )
    return Plot("gain", render(figure, title), title, caption, (sheet,))
