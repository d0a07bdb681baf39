"""When does it help? Gain over the baseline against the baseline's own generalisation gap."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from empool.lab.analyse import records as recorded
from empool.lab.analyse.findings import label, setting
from empool.lab.analyse.records import Record
from empool.lab.analyse.statistics import Interval, Summary, Verdict, mean, method
from empool.lab.report import table
from empool.lab.report.svg import INK, SETTINGS, WIDTH, Plot, render, style

_APART = 0.012  # of the axis, between the poolings of a setting
_WIDEST = 0.065  # of the axis, that a setting takes
_WRAPPED = 66  # letters in a line of the legend


@dataclass(frozen=True)
class Point:
    """One pooling in one setting."""

    setting: str  # network, data and recipe, in words
    augmented: bool  # whether the training images were
    baseline: str  # spelling of the baseline
    pooling: str  # its spelling
    gap: float  # test less training error of the baseline, mean over runs, in points
    gain: float  # test error of the baseline less that of the pooling, in points
    interval: Interval  # its 95 % interval, simultaneous over the poolings of the setting
    verdict: Verdict  # what the runs support


def points(summary: Summary, records: Sequence[Record]) -> list[Point]:
    """Give a point for each pooling that was tested, but not for the network without pooling.

    Studies whose error is that of held-out training images chose something; they give none.
    """
    if records[0].get("validation_images") and not records[0].get("test_images"):
        return []
    gap = mean(
        [
            record["test_error"] - record["train_error"]
            for record in records
            if record["pooling"] == summary.baseline
            and recorded.converged(record)
            and record.get("train_error") is not None
        ]
    )
    if gap is None:
        return []
    return [
        Point(
            setting(records),
            recorded.augmented(records[0]),
            summary.baseline,
            row.pooling,
            gap,
            -row.error.difference,
            Interval(-row.error.interval.high, -row.error.interval.low),
            row.verdict,
        )
        for row in summary.rows
        if row.error.interval is not None and row.error.difference is not None and row.pooling != "none"
    ]


def _apart(gaps: Sequence[float], widths: Sequence[float], margin: float) -> list[float]:
    """Move columns sideways, as little as it takes, until none lies on another; gaps ascend."""
    centres = list(gaps)
    for _ in range(200):
        for i in range(len(centres) - 1):
            excess = (widths[i] + widths[i + 1]) / 2 + margin - (centres[i + 1] - centres[i])
            if excess > 1e-9:
                centres[i] -= excess / 2
                centres[i + 1] += excess / 2
    return centres


def plot(points: Sequence[Point], least: int = 2) -> Plot | None:
    """Draw the points; None where they are of fewer settings than `least`."""
    columns: dict[tuple[float, str], list[Point]] = {}  # by gap and setting
    for point in sorted(points, key=lambda point: point.gap):
        columns.setdefault((point.gap, point.setting), []).append(point)
    if len(columns) < max(least, 1):
        return None
    baseline = label(points[0].baseline)
    title = f"When does it help? Gain over {baseline} against its generalisation gap"
    numbered = {key: f"{number}. {key[1]}" for number, key in enumerate(columns, start=1)}
    told = [textwrap.fill(words, _WRAPPED, subsequent_indent="    ") for words in numbered.values()]
    lines = "\n".join(told).count("\n") + 1
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(WIDTH, 3.2 + 0.145 * lines), layout="constrained")
        axes = figure.add_subplot()
        gaps = [gap for gap, _ in columns]
        low, high = min(0.0, gaps[0]), gaps[-1]
        high += 0.06 * (high - low) or 1.0
        widths = [min(_APART * (len(column) - 1), _WIDEST) * (high - low) for column in columns.values()]
        centres = _apart(gaps, widths, 0.02 * (high - low))
        for number, (column, centre, width) in enumerate(zip(columns.values(), centres, widths, strict=True), start=1):
            for point, x in zip(column, np.linspace(-width / 2, width / 2, len(column)) + centre, strict=True):
                colour, marker = style(point.pooling)
                axes.plot([x, x], [point.interval.low, point.interval.high], color=colour, linewidth=1.2, alpha=0.6)
                decided = point.verdict in (Verdict.BETTER, Verdict.WORSE)
                axes.plot([x], [point.gain], marker, color=colour, markerfacecolor=colour if decided else "none")
            for text, up in [(str(number), 10), *([("aug.", 2)] if column[0].augmented else [])]:
                axes.annotate(text, (centre, 1), (0, up), xycoords=("data", "axes fraction"), ha="center",
                              fontsize=8 if up == 10 else 7, textcoords="offset points")  # fmt: skip
        axes.axhline(0, color=INK, linewidth=1)
        axes.set_xlim(low - 0.06 * (high - low), high + 0.04 * (high - low))
        axes.set_xlabel(f"generalisation gap of {baseline}: test less training error, points")
        axes.set_ylabel(f"gain over {baseline}, points of test error")
        looks = {method(point.pooling): style(point.pooling) for point in points}
        handles = [
            Line2D([], [], color=colour, marker=mark, linestyle="", label=name)
            for name, (colour, mark) in looks.items()
        ]
        figure.legend(handles=handles, loc="outside upper left", ncols=4, columnspacing=1.0, handletextpad=0.2)
        named = [Line2D([], [], linestyle="", label=words) for words in told]
        figure.legend(handles=named, loc="outside lower left", handlelength=0, handletextpad=0, labelspacing=0.3)
        said = "; ".join(f"{point.pooling} {point.gain:+.2f} at a gap of {point.gap:.1f}" for point in points)
        drawn = render(figure, title, f"Gains in points: {said}.")
    ordered = [point for column in columns.values() for point in column]
    sheet = table.sheet(
        title,
        {
            "Setting": ([numbered[point.gap, point.setting] for point in ordered], None),
            "Gap, points": ([point.gap for point in ordered], ".1f"),
            "Pooling": ([label(point.pooling) for point in ordered], None),
            "Gain, points": ([point.gain for point in ordered], "+.2f"),
            table.INTERVAL: ([point.interval for point in ordered], "+.2f"),
            table.VERDICT: ([point.verdict for point in ordered], None),
        },
    )
    caption = (
        f"Up: fewer test errors than {baseline}. A column is a setting, numbered below; a mark is a pooling with its "
        "95 % interval, simultaneous over the setting. Filled: decided; aug.: augmented. Marks that would lie on each "
        "other are moved sideways; the table has the gaps."
    )
    return Plot("gain", drawn, title, caption, (sheet,))
