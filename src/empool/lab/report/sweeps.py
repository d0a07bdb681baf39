"""Test error against p, beside the deck's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from empool.lab.analyse.statistics import BASELINE, Interval, Row
from empool.lab.report import table
from empool.lab.report.limits import limits
from empool.lab.report.svg import INK, WIDTH, Plot, render, style
from empool.lab.report.table import Column, Sheet
from empool.lab.study import deck

HEIGHT = 3.3  # inches


@dataclass(frozen=True)
class _Point:
    """What is shown at one p: the value, None if nothing converged; its 95 % interval; the runs."""

    p: float
    value: float | None
    interval: Interval | None = None
    runs: tuple[float, ...] = ()


@dataclass(frozen=True)
class _Series:
    """The points of each method, the level that max has, and the side on which nothing is an outlier."""

    points: Mapping[str, Sequence[_Point]]
    level: _Point | None
    better: Literal["low", "high"]

    def limits(self) -> tuple[float, float] | None:
        """Say from where to where the values reach, but for far outliers."""
        shown = [point for points in self.points.values() for point in points]
        shown += [self.level] if self.level else []
        values = [point.runs or (point.value,) for point in shown if point.value is not None]
        intervals = [(point.value, point.interval) for point in shown if point.value is not None and point.interval]
        return limits(values, intervals, self.better) if values else None


def error_against_p(rows: Sequence[Row], beside: deck.Table | None) -> Plot | None:
    """Draw test error against p for each method that has several p, and the deck's, each with the level of max.

    Where the two are far apart the axis is broken, and a point of error is as long on both sides.
    """
    methods = _swept(rows)
    if not methods:
        return None
    level = next((_Point(0, row.mean, row.mean_interval, row.errors) for row in rows if row.pooling == BASELINE), None)
    ours = _Series(
        {m: [_Point(p, row.mean, row.mean_interval, row.errors) for p, row in _sweep(rows, m)] for m in methods},
        level,
        "low",
    )
    theirs = _printed(beside, methods, "error")
    title = "Test error against p"
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    broken = _draw(figure, ours, theirs, methods)
    figure.supylabel("test error, %", fontsize=8.5)
    _legend(figure, ours, theirs, f"{BASELINE}, ours")
    _p_label(figure, methods)
    said = "; ".join(
        f"{method}: " + ", ".join(f"{point.value:.2f} % at {point.p:g}" for point in points if point.value is not None)
        for method, points in ours.points.items()
    )
    caption = "Line: mean over seeds, with its 95 % interval where there are several; dots: runs."
    if theirs:
        caption += " Dashed: the deck's."
    if broken:
        caption += " The axis is broken between the two levels; a point of error is as long in both parts."
    return Plot(
        "error-against-p",
        render(figure, title, f"Means over seeds: {said}."),
        title,
        caption,
        (_sheet("Test error against p, %", ours, theirs, sign=False),),
    )


def improvement_against_p(rows: Sequence[Row], beside: deck.Table | None) -> Plot | None:
    """Draw improvement over max against p, ours and the deck's, each relative to its own max."""
    methods = [m for m in _swept(rows) if any(row.improvement is not None for _, row in _sweep(rows, m))]
    if not methods:
        return None
    ours = _Series(
        {m: [_Point(p, row.improvement, row.interval) for p, row in _sweep(rows, m)] for m in methods},
        _Point(0, 0.0),
        "high",
    )
    theirs = _printed(beside, methods, "improvement")
    title = "Improvement over max against p"
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    _draw(figure, ours, theirs, methods, one=True)
    figure.supylabel("improvement over max, %", fontsize=8.5)
    _legend(figure, ours, theirs, f"{BASELINE}")
    _p_label(figure, methods)
    said = "; ".join(
        f"{method}: " + ", ".join(f"{point.value:+.1f} % at {point.p:g}" for point in points if point.value is not None)
        for method, points in ours.points.items()
    )
    return Plot(
        "improvement-against-p",
        render(figure, title, f"Relative to max: {said}."),
        title,
        "Up is better. Band: 95 % interval, paired by seed."
        + (" Dashed: the deck's errors against its own max, so that the shapes can be compared." if theirs else ""),
        (_sheet("Improvement over max against p, %", ours, theirs, sign=True),),
    )


def _swept(rows: Sequence[Row]) -> list[str]:
    """List the methods that have several p, and errors to show."""
    methods = dict.fromkeys(row.method for row in rows)
    return [m for m in methods if len(swept := _sweep(rows, m)) > 1 and any(row.errors for _, row in swept)]


def _sweep(rows: Sequence[Row], method: str) -> list[tuple[float, Row]]:
    """Return the rows of a method that have a p, each after its p, ascending."""
    swept = [(row.dropped, row) for row in rows if row.method == method and row.dropped is not None]
    return sorted(swept, key=lambda pair: pair[0])


def _printed(beside: deck.Table | None, methods: Sequence[str], of: Literal["error", "improvement"]) -> _Series | None:
    """Return the deck's figures of these methods, if it has some."""
    if beside is None:
        return None
    if of == "improvement" and BASELINE not in beside.rows:
        return None
    value = beside.error if of == "error" else beside.improvement_over_max
    points: dict[str, list[_Point]] = {method: [] for method in methods}
    for pooling in beside.rows:
        method, _, p = pooling.partition(":")
        if method in points and p:
            points[method].append(_Point(float(p), value(pooling)))
    level = _Point(0, value(BASELINE)) if BASELINE in beside.rows else None
    return _Series(points, level, "low" if of == "error" else "high") if any(points.values()) else None


def _draw(figure: Figure, ours: _Series, theirs: _Series | None, methods: Sequence[str], *, one: bool = False) -> bool:
    """Draw a column a method, and say whether the axis had to be broken."""
    shown = [series for series in (ours, theirs) if series is not None]
    parts = [shown] if one else _parts(shown)
    reaches = _roomy([_reach(part) for part in parts])
    rooms = [high - low for low, high in reaches]
    grid = figure.subplots(
        len(parts), len(methods), sharex=True, sharey="row", squeeze=False, gridspec_kw={"height_ratios": rooms}
    )
    for down, (part, reach) in enumerate(zip(parts, reaches, strict=True)):
        for across, method in enumerate(methods):
            axes = grid[down, across]
            axes.set_xlim(0, 1.08 * max(point.p for series in shown for m in methods for point in series.points[m]))
            axes.set_ylim(*reach)
            axes.yaxis.set_major_locator(MaxNLocator(max(2, round(8 * rooms[down] / sum(rooms))), steps=[1, 2, 5, 10]))
            for series in reversed(part):
                _line(axes, series, method, printed=series is theirs)
            if theirs is not None and theirs in part:
                _label(axes, ours, theirs, method, alone=len(parts) > 1)
            _notes(axes, [(series, series is theirs) for series in part], method)
            if down == 0:
                axes.set_title(method, loc="left", color=style(method)[0], fontweight="bold")
            if down < len(parts) - 1:
                axes.spines["bottom"].set_visible(False)
                axes.tick_params(axis="x", length=0)
    return len(parts) > 1


def _parts(shown: Sequence[_Series]) -> list[list[_Series]]:
    """Put series that lie close together into one part of the axis; else each has its own, the highest first."""
    reaches = {series.limits(): series for series in shown if series.limits() is not None}
    if len(reaches) < 2:
        return [list(shown)]
    (low, up), (down, high) = sorted(reach for reach in reaches if reach is not None)
    if down - up <= 0.25 * (up - low + high - down):
        return [list(shown)]
    return [[reaches[down, high]], [reaches[low, up]]]


def _reach(part: Sequence[_Series]) -> tuple[float, float]:
    reaches = [reach for series in part if (reach := series.limits())]
    return min(low for low, _ in reaches), max(high for _, high in reaches)


def _roomy(reaches: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Extend short parts of an axis upwards, since all have the same scale and need room for words."""
    least = 0.55 * max(high - low for low, high in reaches)
    return [(low, max(high, low + least)) for low, high in reaches]


def _line(axes: Axes, series: _Series, method: str, *, printed: bool) -> None:
    """Draw a method's curve and the level of max; a printed one dashed, with hollow marks."""
    colour, marker = style(method)
    points = series.points.get(method, [])
    reached = [(point.p, point.value) for point in points if point.value is not None]
    values = [value for _, value in reached]
    look: dict[str, Any] = {"color": colour, "marker": marker}
    if printed:
        look = {"color": INK, "marker": "d", "markerfacecolor": "none", "linestyle": (0, (4, 2)), "linewidth": 1.1}
    axes.plot([p for p, _ in reached], values, **look)
    banded = [(point.p, point.interval) for point in points if point.interval]
    if len(banded) > 1:
        ends = [interval.low for _, interval in banded], [interval.high for _, interval in banded]
        axes.fill_between([p for p, _ in banded], *ends, color=colour, alpha=0.2, linewidth=0)
    for point in points:
        if len(point.runs) > 1:
            axes.plot([point.p] * len(point.runs), point.runs, ".", color=colour, alpha=0.5, markersize=3)
    if series.level and series.level.value is not None:
        axes.axhline(series.level.value, color=INK, linestyle=":", linewidth=0.9 if printed else 1.3)
        if series.level.interval:
            axes.axhspan(series.level.interval.low, series.level.interval.high, color=INK, alpha=0.14, linewidth=0)


def _label(axes: Axes, ours: _Series, theirs: _Series, method: str, *, alone: bool) -> None:
    """Write whose the dashed curve is: in a corner if it is alone, else where it is farthest from ours."""
    if alone:
        axes.text(0.03, 0.05, "deck", transform=axes.transAxes, fontsize=7.5)
        return
    mine = {point.p: point.value for point in ours.points[method]}
    low, high = axes.get_ylim()
    inside = [
        (point.p, point.value, point.value - (mine.get(point.p) or 0.0))
        for point in theirs.points[method]
        if point.value is not None and 0.05 <= (point.value - low) / (high - low) <= 0.9
    ]
    if not inside:
        return
    p, value, away = max(inside[1:] or inside, key=lambda point: abs(point[2]))
    above = away > 0
    axes.annotate(
        "deck",
        (p, value),
        (0, 4 if above else -4),
        textcoords="offset points",
        ha="center",
        va="bottom" if above else "top",
        fontsize=7.5,
        in_layout=False,
    )


def _notes(axes: Axes, part: Sequence[tuple[_Series, bool]], method: str) -> None:
    """Write at the upper end what did not converge or lies beyond it, and at the lower end what lies below."""
    low, high = axes.get_ylim()
    notes: dict[tuple[float, bool], list[str]] = {}
    for series, printed in part:
        for point in series.points[method]:
            whose = "deck " if printed and len(part) > 1 else ""
            if point.value is None:
                notes.setdefault((point.p, True), []).append(f"{whose}not converged")
            elif not low <= point.value <= high:
                above = point.value > high
                arrow = "\N{RIGHTWARDS ARROW}" if above else "\N{LEFTWARDS ARROW}"
                notes.setdefault((point.p, above), []).append(f"{whose}{point.value:.1f} {arrow}")
    for (p, above), texts in notes.items():
        both = texts == ["not converged", "deck not converged"]
        axes.annotate(
            "neither converged" if both else ", ".join(texts),
            (p, high if above else low),
            (0, -2 if above else 2),
            textcoords="offset points",
            ha="center",
            va="top" if above else "bottom",
            rotation=90,
            color=INK if both or texts[0].startswith("deck") or part[0][1] else style(method)[0],
            fontsize=7,
            in_layout=False,
        )


def _legend(figure: Figure, ours: _Series, theirs: _Series | None, level: str) -> None:
    banded = any(point.interval for points in ours.points.values() for point in points)
    handles: list[Any] = [Line2D([], [], color=INK, linewidth=1.8, label="ours")]
    if banded:
        handles.append(Patch(color=INK, alpha=0.25, linewidth=0, label="95 % interval"))
    if theirs:
        handles.append(
            Line2D([], [], color=INK, marker="d", markerfacecolor="none", linestyle=(0, (4, 2)), label="deck")
        )
    if ours.level:
        handles.append(Line2D([], [], color=INK, linestyle=":", label=level))
    figure.legend(handles=handles, loc="outside upper left", ncols=len(handles), columnspacing=1.2, handlelength=1.7)


def _p_label(figure: Figure, methods: Sequence[str]) -> None:
    figure.supxlabel("p" if {*methods} <= {"ensemble", "max-dropout"} else "p, or share dropped", fontsize=8.5)


def _sheet(caption: str, ours: _Series, theirs: _Series | None, *, sign: bool) -> Sheet:
    """Lay out the points as a table, the deck's beside ours."""
    places = 1 if sign else 2
    decks = {(m, point.p): point.value for m, points in (theirs.points if theirs else {}).items() for point in points}
    found = {(method, point.p): point for method, points in ours.points.items() for point in points}
    keys = sorted({*found, *decks}, key=lambda key: (list(ours.points).index(key[0]), key[1]))
    lines = [(method, found.get((method, p)) or _Point(p, None)) for method, p in keys]
    columns = [
        Column("Method", [method for method, _ in lines], numeric=False),
        Column("p", [f"{point.p:g}" for _, point in lines]),
        table.numbers("Ours", [point.value for _, point in lines], places, sign=sign),
        *table.bounds([point.interval for _, point in lines], places, sign=sign),
    ]
    if theirs:
        printed = [decks.get((method, point.p)) for method, point in lines]
        columns.append(table.numbers("Deck", printed, 2, sign=sign))
    return Sheet(caption, columns)
