"""The plots of a report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from empool.lab import deck
from empool.lab.statistics import BASELINE, Interval, Row
from empool.lab.svg import INK, SETTINGS, Plot, render, style

WIDTH = 4.6  # inches: drawn at its natural size on a laptop, and legible when a phone shrinks it


@dataclass(frozen=True)
class Curve:
    """The learning curve of one run.

    Attributes:
        pooling: spelling of its pooling.
        seed: its seed.
        epochs: epoch numbers.
        train_errors: train error in percent at each; NaN where there is none.
        test_errors: test error in percent at each; NaN where there is none.
    """

    pooling: str
    seed: int
    epochs: tuple[float, ...]
    train_errors: tuple[float, ...]
    test_errors: tuple[float, ...]


def plots(rows: Sequence[Row], curves: Sequence[Curve], beside: deck.Table | None = None) -> list[Plot]:
    """Draw every plot that the runs give.

    Args:
        rows: what `empool.lab.statistics.summarise` returned.
        curves: learning curves of the runs that have one.
        beside: the deck's table, if it is of the same data and network.
    """
    with mpl.rc_context(SETTINGS):
        drawn = [
            errors(rows),
            improvements(rows, beside),
            error_against_p(rows, beside),
            learning_curves(curves, [row.pooling for row in rows]),
        ]
    return [plot for plot in drawn if plot is not None]


def errors(rows: Sequence[Row]) -> Plot | None:
    """Draw the test error of each pooling: a dot a seed, the mean, and its 95 % interval."""
    if not any(row.errors for row in rows):
        return None
    figure, axes = _rows_figure(rows)
    low, high = _limits([row.errors for row in rows if row.errors], _mean_intervals(rows))
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
        "Test error by pooling",
        "A mark is a run. Where there are several: bar, their mean; band, its 95 % interval. Dotted: the mean of max.",
        f"Mean test errors: {said}.",
        render(figure, "Test error by pooling"),
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
    low, high = _limits([*points, *theirs, [0.0]], intervals)
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
    axes.set_xlabel("improvement over max, % of its error (right: better)")
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
        "Improvement over max",
        "Paired by seed. Band: 95 % interval; one that contains 0 decides nothing.",
        f"Relative to max: {said}.",
        render(figure, "Improvement over max"),
    )


def error_against_p(rows: Sequence[Row], beside: deck.Table | None) -> Plot | None:
    """Draw test error against p for each method that has several p, with the deck's curves in a panel beside."""
    methods = [
        method
        for method in dict.fromkeys(row.method for row in rows)
        if sum(row.method == method and row.dropped is not None for row in rows) > 1
    ]
    if not methods or not any(row.errors for row in rows if row.method in methods):
        return None
    theirs = [] if beside is None else [_printed_row(pooling, figure) for pooling, figure in beside.rows.items()]
    theirs = [row for row in theirs if row.method in methods or row.pooling == BASELINE]
    panels = [("ours", rows), ("the deck, its protocol", theirs)] if len(theirs) > 1 else [("", rows)]
    figure = Figure(figsize=(WIDTH, 2.7), layout="constrained")
    for position, (title, shown) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), position + 1)
        _panel_against_p(axes, shown, methods)
        axes.set_title(title, loc="left")
        axes.set_xlabel("p" if set(methods) <= {"ensemble", "max-dropout"} else "p, or share dropped")
        if position == 0:
            axes.set_ylabel("test error, %")
    handles = [Line2D([], [], color=style(method)[0], marker=style(method)[1], label=method) for method in methods]
    handles.append(Line2D([], [], color=INK, linestyle=":", label=BASELINE))
    figure.legend(handles=handles, loc="outside upper left", ncols=3)
    said = "; ".join(
        f"{method}: " + ", ".join(f"{row.mean:.2f} % at {p:g}" for p, row in _sweep(rows, method) if row.errors)
        for method in methods
    )
    return Plot(
        "error-against-p",
        "Test error against p",
        "Small dots: runs. Line: means over seeds. Band: their 95 % intervals."
        + (" The panels have scales of their own." if len(panels) > 1 else ""),
        f"Means over seeds: {said}.",
        render(figure, "Test error against p"),
    )


def learning_curves(curves: Sequence[Curve], order: Sequence[str]) -> Plot | None:
    """Draw train and test error by epoch, a panel a pooling, with the mean test error of max in each.

    Args:
        curves: one a run.
        order: spellings in the order of the panels.
    """
    shown = [pooling for pooling in order if any(curve.pooling == pooling for curve in curves)]
    values = [v for curve in curves for v in (*curve.train_errors, *curve.test_errors) if math.isfinite(v)]
    if not shown or not values:
        return None
    across = min(2, len(shown))
    down = math.ceil(len(shown) / across)
    figure = Figure(figsize=(WIDTH, 0.6 + 1.3 * down), layout="constrained")
    grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    reference = _mean_curve([curve for curve in curves if curve.pooling == BASELINE])
    for position, axes in enumerate(grid.flat):
        if position >= len(shown):
            axes.set_visible(False)
            continue
        pooling = shown[position]
        colour, _ = style(pooling.partition(":")[0])
        if pooling != BASELINE:
            axes.plot(*reference, color=INK, linestyle=":", linewidth=1.2)
        for curve in curves:
            if curve.pooling == pooling:
                few = {"marker": ".", "markersize": 4} if len(curve.epochs) <= 10 else {}
                axes.plot(*_finite(curve.epochs, curve.train_errors), color=colour, alpha=0.7, linestyle="--", **few)
                axes.plot(*_finite(curve.epochs, curve.test_errors), color=colour, alpha=0.9, **few)
        axes.set_title(pooling, loc="left")
        if min(values) > 0:
            # Late epochs differ by little of what the first ones lose.
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if position + across >= len(shown):
            axes.set_xlabel("epoch")
            axes.xaxis.set_tick_params(labelbottom=True)
    figure.supylabel("error, %", fontsize=8.5)
    handles = [
        Line2D([], [], color=INK, label="test"),
        Line2D([], [], color=INK, linestyle="--", label="train"),
        Line2D([], [], color=INK, linestyle=":", label="test, mean of max"),
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=3)
    said = "; ".join(_last_errors(pooling, curves) for pooling in shown)
    return Plot(
        "learning-curves",
        "Learning curves",
        "A line a run. The train error is that of the augmented batches as they are trained on, draws included.",
        f"Errors at the end, means over runs: {said}.",
        render(figure, "Learning curves"),
    )


def _rows_figure(rows: Sequence[Row]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, 0.8 + 0.3 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    axes.set_yticks(range(len(rows)), [row.pooling for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    return figure, axes


def _limits(rows: Sequence[Sequence[float]], intervals: Sequence[tuple[float, Interval]]) -> tuple[float, float]:
    """Return axis limits that hold every row but far outliers, and intervals while these do not dwarf the points.

    Args:
        rows: the points of each row; a row is shown whole or, where its mean is an outlier, not at all.
        intervals: each with the mean that it belongs to.
    """
    means = [float(np.mean(row)) for row in rows]
    first, third = np.percentile(means, [25, 75])
    reach = 2 * (third - first) if third > first else math.inf
    near = [
        value for row, mean in zip(rows, means, strict=True) if first - reach <= mean <= third + reach for value in row
    ]
    low, high = min(near), max(near)
    room = max(3 * (high - low), 0.02 * max(abs(low), abs(high)))
    shown = [interval for mean, interval in intervals if low <= mean <= high]
    low = max(min([low, *(interval.low for interval in shown)]), low - room)
    high = min(max([high, *(interval.high for interval in shown)]), high + room)
    margin = 0.07 * (high - low) or max(0.05 * abs(high), 0.5)
    return float(low - margin), float(high + margin)


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


def _panel_against_p(axes: Axes, rows: Sequence[Row], methods: Sequence[str]) -> None:
    sweeps = {method: _sweep(rows, method) for method in methods}
    swept = [row for sweep in sweeps.values() for _, row in sweep]
    baseline = [row.mean for row in rows if row.pooling == BASELINE and row.mean is not None]
    points = [row.errors for row in swept if row.errors] + [(mean,) for mean in baseline]
    low, high = _limits(points, _mean_intervals(swept))
    for method, sweep in sweeps.items():
        colour, marker = style(method)
        reached = [(p, row.mean) for p, row in sweep if row.mean is not None]
        axes.plot([p for p, _ in reached], [mean for _, mean in reached], marker=marker, color=colour)
        banded = [(p, row.mean_interval) for p, row in sweep if row.mean_interval]
        if len(banded) == len(reached) > 1:
            ends = [interval.low for _, interval in banded], [interval.high for _, interval in banded]
            axes.fill_between([p for p, _ in banded], *ends, color=colour, alpha=0.2, linewidth=0)
        for p, row in sweep:
            axes.plot([p] * len(row.errors), row.errors, ".", color=colour, alpha=0.5, markersize=3)
            if row.mean is None or row.mean > high:
                axes.annotate(
                    "not converged" if row.mean is None else f"{row.mean:.1f} \N{RIGHTWARDS ARROW}",
                    (p, high),
                    (0, -2),
                    textcoords="offset points",
                    ha="center",
                    va="top",
                    rotation=90,
                    color=colour,
                    fontsize=7,
                )
    if baseline:
        axes.axhline(baseline[0], color=INK, linestyle=":", linewidth=1.2)
    axes.set_ylim(low, high)
    axes.set_xlim(left=0)


def _mean_intervals(rows: Sequence[Row]) -> list[tuple[float, Interval]]:
    return [(row.mean, row.mean_interval) for row in rows if row.mean is not None and row.mean_interval]


def _sweep(rows: Sequence[Row], method: str) -> list[tuple[float, Row]]:
    """Return the rows of a method that have a p, each after its p, ascending."""
    swept = [(row.dropped, row) for row in rows if row.method == method and row.dropped is not None]
    return sorted(swept, key=lambda pair: pair[0])


def _printed_row(pooling: str, figure: deck.Figure) -> Row:
    errors = () if figure.error is None else (figure.error,)
    return Row(pooling, (0,) * len(errors), errors, () if errors else (0,), mean=figure.error)


def _last_errors(pooling: str, curves: Sequence[Curve]) -> str:
    mine = [curve for curve in curves if curve.pooling == pooling]
    trains = [values[-1] for curve in mine if (values := _finite(curve.epochs, curve.train_errors)[1])]
    tests = [values[-1] for curve in mine if (values := _finite(curve.epochs, curve.test_errors)[1])]
    means = [f"{np.mean(last):.2f} % {name}" for last, name in ((trains, "train"), (tests, "test")) if last]
    return f"{pooling} {' and '.join(means) or 'none'}"


def _finite(epochs: Sequence[float], values: Sequence[float]) -> tuple[list[float], list[float]]:
    kept = [(epoch, value) for epoch, value in zip(epochs, values, strict=True) if math.isfinite(value)]
    return [epoch for epoch, _ in kept], [value for _, value in kept]


def _mean_curve(curves: Sequence[Curve]) -> tuple[list[float], list[float]]:
    """Average the test errors at each epoch that every one of these runs evaluated."""
    by_epoch: dict[float, list[float]] = {}
    for curve in curves:
        for epoch, value in zip(*_finite(curve.epochs, curve.test_errors), strict=True):
            by_epoch.setdefault(epoch, []).append(value)
    common = sorted(epoch for epoch, values in by_epoch.items() if len(values) == len(curves))
    return common, [float(np.mean(by_epoch[epoch])) for epoch in common]
