"""The plots of a report: all of them, and those with a line for each pooling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from empool.lab.analyse.statistics import BASELINE, Row
from empool.lab.report import calibration, curves, sweeps, table
from empool.lab.report.calibration import Bins
from empool.lab.report.curves import Curve
from empool.lab.report.limits import limits, mean_intervals
from empool.lab.report.svg import INK, SETTINGS, WIDTH, Plot, render, style
from empool.lab.report.table import Column, Sheet
from empool.lab.study import deck


def plots(
    rows: Sequence[Row], runs: Sequence[Curve], bins: Mapping[str, Bins], beside: deck.Table | None = None
) -> list[Plot]:
    """Draw every plot that the runs give.

    Args:
        rows: what `empool.lab.analyse.statistics.summarise` returned.
        runs: learning curves of the runs that have one.
        bins: what `empool.lab.report.calibration.pooled` returned.
        beside: the deck's table, if it is of the same data and network.
    """
    with mpl.rc_context(SETTINGS):
        drawn = [
            errors(rows),
            improvements(rows, beside),
            sweeps.error_against_p(rows, beside),
            sweeps.improvement_against_p(rows, beside),
            curves.learning_curves(runs, [row.pooling for row in rows]),
            calibration.reliability(rows, bins),
        ]
    return [plot for plot in drawn if plot is not None]


def errors(rows: Sequence[Row]) -> Plot | None:
    """Draw the test error of each pooling: a dot a seed, the mean, and its 95 % interval."""
    if not any(row.errors for row in rows):
        return None
    figure, axes = _rows_figure(rows)
    low, high = limits([row.errors for row in rows if row.errors], mean_intervals(rows), "low")
    for y, row in enumerate(rows):
        colour, marker = style(row.method)
        failed = f"{len(row.not_converged)} of {row.runs} did not converge" if row.not_converged else ""
        if row.mean is not None and not low <= row.mean <= high:
            text = f"mean {row.mean:.1f}" if len(row.errors) > 1 else f"{row.mean:.1f}"
            text = f"{text}, {failed}" if failed else text
            _note(axes, text, y - 0.25, (low, high), row.mean < low, colour, arrow=True)
            continue
        if failed:
            _note(axes, failed, y - 0.25, (low, high), row.mean is not None and row.mean > (low + high) / 2, colour)
        if row.mean_interval:
            axes.plot([row.mean_interval.low, row.mean_interval.high], [y, y], color=colour, alpha=0.45, linewidth=4.5)
        axes.plot(row.errors, [y] * len(row.errors), marker, color=colour, alpha=0.8, markeredgewidth=0)
        if row.mean is not None and len(row.errors) > 1:
            axes.plot([row.mean], [y], "|", color=colour, markersize=13, markeredgewidth=2)
    baseline = next((row.mean for row in rows if row.pooling == BASELINE), None)
    if baseline is not None:
        axes.axvline(baseline, color=INK, linestyle=":", linewidth=1)
    axes.set_xlim(low, high)
    axes.set_xlabel("test error, %")
    said = "; ".join(f"{row.pooling} {row.mean:.2f} %" for row in rows if row.mean is not None)
    return Plot(
        "error",
        render(figure, "Test error by pooling", f"Mean test errors: {said}."),
        "Test error by pooling",
        "A mark is a run. Where there are several: bar, their mean; band, its 95 % interval. Dotted: the mean of max.",
        (_errors_sheet(rows),),
    )


def improvements(rows: Sequence[Row], beside: deck.Table | None) -> Plot | None:
    """Draw the improvement over max of each pooling with its interval, and the deck's figure."""
    shown = [row for row in rows if row.improvement is not None]
    if not shown:
        return None
    figure, axes = _rows_figure(shown)
    points = [[row.improvement] for row in shown if row.improvement is not None]
    intervals = [(row.improvement, row.interval) for row in shown if row.improvement is not None and row.interval]
    printed = {} if beside is None else {pooling: figure.improvement for pooling, figure in beside.rows.items()}
    theirs = [[value] for row in shown if (value := printed.get(row.pooling)) is not None]
    low, high = limits([*points, *theirs, [0.0]], intervals, "high")
    for y, row in enumerate(shown):
        colour, marker = style(row.method)
        ours, deck_value = row.improvement, printed.get(row.pooling)
        if ours is None:
            continue
        if low <= ours <= high:
            if row.interval:
                axes.plot([row.interval.low, row.interval.high], [y, y], color=colour, alpha=0.45, linewidth=4.5)
            axes.plot([ours], [y], marker, color=colour, markersize=6, markeredgewidth=0)
        else:
            _note(axes, f"{ours:+.1f}", y - 0.22, (low, high), ours < low, colour, arrow=True)
        if deck_value is not None and low <= deck_value <= high:
            axes.plot([deck_value], [y + 0.3], "d", color=INK, markerfacecolor="none", markersize=5)
        elif deck_value is not None:
            _note(axes, f"deck {deck_value:+.1f}", y + 0.3, (low, high), deck_value < low, INK, arrow=True)
    axes.axvline(0, color=INK, linewidth=1)
    axes.set_xlim(low, high)
    axes.set_xlabel("improvement over max, % (right: better)")
    if theirs:
        deck_mark = Line2D(
            [], [], color=INK, marker="d", markerfacecolor="none", linestyle="", label="the deck's figure"
        )
        ours_mark = Line2D([], [], color=INK, marker="o", linestyle="-", alpha=0.8, label="ours, 95 % interval")
        figure.legend(handles=[ours_mark, deck_mark], loc="outside upper left", ncols=2)
    said = "; ".join(
        f"{row.pooling} {row.improvement:+.1f} %"
        + (f", 95 % interval {row.interval.low:+.1f} to {row.interval.high:+.1f}" if row.interval else ", no interval")
        for row in shown
    )
    return Plot(
        "improvement",
        render(figure, "Improvement over max", f"Relative to max: {said}."),
        "Improvement over max",
        "Paired by seed. Band: 95 % interval; one that contains 0 decides nothing.",
        (_improvements_sheet(shown, beside),),
    )


def _errors_sheet(rows: Sequence[Row]) -> Sheet:
    return Sheet(
        "Test error by pooling, %",
        [
            table.poolings([row.pooling for row in rows]),
            table.numbers("Mean", [row.mean for row in rows], 2),
            *table.bounds([row.mean_interval for row in rows], 2),
            Column(
                "Runs",
                [", ".join(f"{error:.2f}" for error in row.errors) or table.NONE for row in rows],
                numeric=False,
                values=[row.best for row in rows],
            ),
        ],
    )


def _improvements_sheet(rows: Sequence[Row], beside: deck.Table | None) -> Sheet:
    columns = [
        table.poolings([row.pooling for row in rows]),
        table.numbers("Improvement", [row.improvement for row in rows], 1, sign=True),
        *table.bounds([row.interval for row in rows], 1, sign=True),
    ]
    if beside is not None:
        printed = [beside.improvement(row.pooling) for row in rows]
        columns.append(table.numbers("Deck", printed, 2, sign=True))
    return Sheet("Improvement over max, %", columns)


def _rows_figure(rows: Sequence[Row]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, 0.8 + 0.3 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    axes.set_yticks(range(len(rows)), [row.pooling for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    return figure, axes


def _note(
    axes: Axes, text: str, y: float, limits: tuple[float, float], left: bool, colour: str, *, arrow: bool = False
) -> None:
    """Write beside an end of the axis; with an arrow, what lies beyond it."""
    if arrow:
        text = f"\N{LEFTWARDS ARROW} {text}" if left else f"{text} \N{RIGHTWARDS ARROW}"
    axes.annotate(
        text,
        (limits[0] if left else limits[1], y),
        (2 if left else -2, 0),
        textcoords="offset points",
        ha="left" if left else "right",
        va="center",
        color=colour,
        fontsize=7,
    )
