"""The plots of a section: all of them, and that of test errors."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from empool.lab.analyse.comparable import Record
from empool.lab.analyse.findings import label
from empool.lab.analyse.statistics import Row, Summary
from empool.lab.report import calibration, curves, sweeps
from empool.lab.report.curves import Curve
from empool.lab.report.svg import INK, SETTINGS, WIDTH, Plot, render, style
from empool.lab.study import paper

_FAR = 6  # times the range of the others that an outlier may stretch the axis


def plots(
    summary: Summary, records: Sequence[Record], learned: Sequence[Curve], beside: paper.Table | None
) -> list[Plot]:
    """Draw every plot that the runs give.

    Args:
        summary: what `empool.lab.analyse.statistics.summarise` returned.
        records: the runs.
        learned: learning curves of the runs that have one.
        beside: the paper's table, if it may stand beside.
    """
    with mpl.rc_context(SETTINGS):
        drawn = [
            errors(summary),
            sweeps.improvement_against_p(summary, beside),
            curves.learning_curves(learned, [row.pooling for row in summary.rows], summary.baseline),
            calibration.reliability(summary, records),
        ]
    return [plot for plot in drawn if plot is not None]


def errors(summary: Summary) -> Plot | None:
    """Draw the test error of each pooling: a mark a run, the mean, and the interval of its difference."""
    rows, baseline = summary.rows, summary.row(summary.baseline)
    reached = [row for row in rows if row.errors]
    if not reached:
        return None
    level = baseline.mean if baseline else None
    figure = Figure(figsize=(WIDTH, 0.8 + 0.28 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    axes.set_yticks(range(len(rows)), [label(row.pooling) for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    low, high = _limits(reached, level)
    for y, row in enumerate(rows):
        colour, marker = style(row.method)
        failed = f"{len(row.not_converged)} of {row.runs} did not converge" if row.not_converged else ""
        if row.mean is None or row.mean > high:
            beyond = "" if row.mean is None else f"mean {row.mean:.1f} \N{RIGHTWARDS ARROW}"
            _note(axes, ", ".join(part for part in (failed, beyond) if part), y, high, colour)
            continue
        if failed:
            _note(axes, failed, y, high, colour)
        if row.error.interval and level is not None:
            ends = [level + row.error.interval.low, level + row.error.interval.high]
            axes.plot(np.clip(ends, low, high), [y, y], color=colour, alpha=0.35, linewidth=5, solid_capstyle="butt")
        axes.plot(row.errors, [y] * len(row.errors), marker, color=colour, alpha=0.8, markeredgewidth=0)
        axes.plot([row.mean], [y], "|", color=colour, markersize=12, markeredgewidth=2)
    if level is not None:
        axes.axvline(level, color=INK, linestyle=":", linewidth=1)
    axes.set_xlim(low, high)
    axes.set_xlabel("test error, %")
    said = "; ".join(f"{label(row.pooling)} {row.mean:.2f} %" for row in rows if row.mean is not None)
    of = label(summary.baseline)
    return Plot(
        "error",
        render(figure, "Test error by pooling", f"Mean test errors: {said}."),
        "Test error by pooling",
        f"A mark is a run, a bar a mean. Band: the 95 % interval of the difference from {of}, drawn from its mean "
        "(dotted); the bands hold all at once. A band that crosses the dotted line decides nothing.",
        (),
    )


def _limits(rows: Sequence[Row], level: float | None) -> tuple[float, float]:
    """Return axis limits that hold every run and band, but for means so far up that they would squeeze the rest."""
    means = sorted(row.mean for row in rows if row.mean is not None)
    kept = means[: max(1, len(means) // 2 + 1)]
    for mean in means[len(kept) :]:
        if mean - kept[0] <= _FAR * max(kept[-1] - kept[0], 0.02 * kept[-1]):
            kept.append(mean)
    shown = [row for row in rows if row.mean is not None and row.mean <= kept[-1]]
    values = [error for row in shown for error in row.errors]
    room = max(values) - min(values)
    if level is not None:
        values.append(level)
        values += [
            level + end
            for row in shown
            if row.error.interval
            for end in (row.error.interval.low, row.error.interval.high)
            if min(values) - room <= level + end <= max(values) + room  # A wide one would squeeze the rest.
        ]
    margin = 0.05 * (max(values) - min(values)) or 0.5
    return min(values) - margin, max(values) + margin


def _note(axes: Axes, text: str, y: float, end: float, colour: str) -> None:
    """Write at the right end of a row's line, above it."""
    axes.annotate(
        text, (end, y - 0.28), (-2, 0), textcoords="offset points", ha="right", va="center", color=colour, fontsize=7
    )
