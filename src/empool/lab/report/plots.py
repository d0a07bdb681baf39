"""The plots of a study: test errors, improvement against p, learning curves, reliability."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from empool.lab.analyse.findings import label
from empool.lab.analyse.records import Record, converged
from empool.lab.analyse.statistics import Interval, Row, Summary
from empool.lab.errors import LabError
from empool.lab.report import table
from empool.lab.report.svg import INK, SETTINGS, WIDTH, Plot, render, style
from empool.lab.study import paper
from empool.lab.study.run import folder_name

DASHES = (0, (3, 1.5))
FEW = 20  # images of a bin below which its share of right answers says next to nothing, and is not drawn
ACROSS, PANEL = 6, (2.0, 1.7)  # panels in a row, and their size in inches
PAPERS: dict[str, Any] = {"color": INK, "marker": "d", "markerfacecolor": "none", "linestyle": DASHES, "linewidth": 1.1}


@mpl.rc_context(SETTINGS)
def plots(summary: Summary, records: Sequence[Record], curves: pd.DataFrame, beside: paper.Table | None) -> list[Plot]:
    """Draw every plot that the runs give.

    Args:
        summary: what `empool.lab.analyse.statistics.summarise` returned.
        records: the runs.
        curves: their learning curves, as `read_curves` returns them.
        beside: the paper's table, if it may stand beside.
    """
    drawn = [
        errors(summary),
        improvement_against_p(summary, beside),
        learning_curves(summary, curves),
        reliability(summary, records),
    ]
    return [plot for plot in drawn if plot is not None]


@mpl.rc_context(SETTINGS)
def errors(summary: Summary) -> Plot | None:
    """Draw the test error of each pooling: a mark a run, the mean, and the interval of its difference."""
    rows, baseline = summary.rows, summary.row(summary.baseline)
    means = [row.mean for row in rows if row.mean is not None]
    if not means:
        return None
    level = baseline.mean if baseline else None
    near = _near(means)
    ends = [] if level is None else [level, *(level + end for row in rows for end in _ends(row.error.interval))]
    low, high = _span([error for row in rows if row.mean in near for error in row.errors], ends)
    figure = Figure(figsize=(WIDTH, 0.8 + 0.28 * len(rows)), layout="constrained")
    axes = figure.add_subplot(xlim=(low, high), ylim=(len(rows) - 0.4, -0.6), xlabel="test error, %")
    axes.set_yticks(range(len(rows)), [label(row.pooling) for row in rows])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    for y, row in enumerate(rows):
        colour, marker = style(row.pooling)
        notes = [f"{len(row.not_converged)} of {row.runs} did not converge"] if row.not_converged else []
        if row.mean is not None and row.mean > high:
            notes.append(f"mean {row.mean:.1f} \N{RIGHTWARDS ARROW}")
        if notes:  # At the right end of the row's line, above it.
            axes.annotate(", ".join(notes), (high, y - 0.28), (-2, 0), textcoords="offset points", ha="right",
                          va="center", color=colour, fontsize=7)  # fmt: skip
        if row.mean is None or row.mean > high:
            continue
        if row.error.interval and level is not None:
            band = [level + end for end in _ends(row.error.interval)]
            axes.plot(band, [y, y], color=colour, alpha=0.35, linewidth=5, solid_capstyle="butt")
        axes.plot(row.errors, [y] * len(row.errors), marker, color=colour, alpha=0.8, markeredgewidth=0)
        axes.plot([row.mean], [y], "|", color=colour, markersize=12, markeredgewidth=2)
    if level is not None:
        axes.axvline(level, color=INK, linestyle=":", linewidth=1)
    said = "; ".join(f"{label(row.pooling)} {row.mean:.2f} %" for row in rows if row.mean is not None)
    return Plot(
        "error",
        render(figure, "Test error by pooling", f"Mean test errors: {said}."),
        "Test error by pooling",
        f"A mark is a run, a bar a mean. Band: the 95 % interval of the difference from {label(summary.baseline)}, "
        "drawn from its mean (dotted); the bands hold all at once. One that crosses the dotted line decides nothing.",
    )


def improvement_against_p(summary: Summary, beside: paper.Table | None) -> Plot | None:
    """Draw improvement against p for each method with several p, ours and the paper's, each over its own baseline."""
    level = next((row.mean for row in summary.rows if row.pooling == summary.baseline), None)
    methods: dict[str, list[tuple[float, Row]]] = {}
    for row in summary.rows:
        if row.number is not None:
            methods.setdefault(row.method, []).append((row.number, row))
    methods = {
        method: sorted(rows, key=lambda pair: pair[0])
        for method, rows in methods.items()
        if len(rows) > 1 and any(row.errors for _, row in rows)
    }
    if not methods or not level:
        return None
    printed = {method: _printed(beside, method, summary.baseline) for method in methods}
    bands = {
        method: [
            (p, [-100 * end / level for end in _ends(row.error.interval)]) for p, row in rows if row.error.interval
        ]
        for method, rows in methods.items()
    }
    ours = [row.improvement for rows in methods.values() for _, row in rows if row.improvement is not None]
    others = [value for values in printed.values() for value in values.values() if value is not None]
    low, high = _span(
        _near([*ours, 0.0]), others + [end for band in bands.values() for _, ends in band for end in ends]
    )
    figure = Figure(figsize=(WIDTH, 3.0), layout="constrained")
    grid = figure.subplots(1, len(methods), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (method, rows) in zip(grid, methods.items(), strict=True):
        colour, marker = style(method)
        axes.set_title(method, loc="left", color=colour, fontweight="bold")
        axes.axhline(0, color=INK, linestyle=":", linewidth=1.3)
        axes.plot(*_columns([(p, value) for p, value in printed[method].items() if value is not None]), **PAPERS)
        shown = _columns([(p, row.improvement) for p, row in rows if row.improvement is not None])
        axes.plot(*shown, color=colour, marker=marker)
        edges = _columns([(p, *ends) for p, ends in bands[method]], 3)
        axes.fill_between(*edges, color=colour, alpha=0.2, linewidth=0)
        _beyond(axes, rows, printed[method], low, colour)
    most = max(p for method, rows in methods.items() for p in (*printed[method], *(p for p, _ in rows)))
    grid[0].set(xlim=(0, 1.06 * most), ylim=(low, high))
    figure.supylabel(f"improvement over {label(summary.baseline)}, %")
    figure.supxlabel("p" if {*methods} <= {"ensemble", "max-dropout"} else "p, or share dropped")
    handles: list[Line2D | Patch] = [
        Line2D([], [], color=INK, linewidth=1.8, label="ours"),
        Patch(color=INK, alpha=0.25, linewidth=0, label="95 % interval"),
    ]
    if any(printed.values()):
        handles.append(Line2D([], [], label="Zhang and Wu (2017)", **PAPERS))
    figure.legend(handles=handles, loc="outside upper left", ncols=len(handles), columnspacing=1.2, handlelength=1.7)
    title = f"Improvement over {label(summary.baseline)} against p"
    said = "; ".join(
        f"{method}: " + ", ".join(f"{row.improvement:+.1f} % at {p:g}" for p, row in rows if row.improvement)
        for method, rows in methods.items()
    )
    return Plot(
        "improvement-against-p",
        render(figure, title, f"{said}."),
        title,
        "Up is better. Band: 95 % interval, simultaneous over all poolings of the table."
        + (" Dashed: the paper's errors against its own max, so that the shapes can be compared." if beside else ""),
    )


def _printed(beside: paper.Table | None, method: str, baseline: str) -> dict[float, float | None]:
    """Give the paper's improvements of a method in percent, by p; None where it did not converge."""
    if beside is None or beside.error(baseline) is None:
        return {}
    numbers = [pooling.partition(":") for pooling in beside.rows]
    return {
        float(p): beside.improvement_over(baseline, f"{name}:{p}") for name, _, p in numbers if name == method and p
    }


def _beyond(
    axes: Axes, rows: Sequence[tuple[float, Row]], printed: Mapping[float, float | None], low: float, colour: str
) -> None:
    """Write at the lower end what did not converge or lies below it, in one line a p: ours, then the paper's."""
    said: dict[float, list[tuple[str, str]]] = {}
    found = [(p, "", row.improvement, colour) for p, row in rows]
    for p, whose, value, ink in [*found, *((p, "paper: ", value, INK) for p, value in printed.items())]:
        if value is None or value < low:
            text = "failed" if value is None else f"{value:+.0f} \N{DOWNWARDS ARROW}"
            said.setdefault(p, []).append((whose + text, ink))
    for p, texts in said.items():
        axes.annotate(", ".join(text for text, _ in texts), (p, low), (0, 2), textcoords="offset points", ha="center",
                      va="bottom", rotation=90, color=texts[0][1], fontsize=7, in_layout=False)  # fmt: skip


def _near(values: Sequence[float]) -> list[float]:
    """Leave out those so far away that they would squeeze the rest."""
    first, third = np.percentile(values, [25, 75])
    reach = 3 * max(third - first, 1.0)
    return [value for value in values if first - reach <= value <= third + reach]


def _span(values: Sequence[float], others: Sequence[float]) -> tuple[float, float]:
    """Return axis limits that hold all values, and the others as far as they do not dwarf these."""
    room = 1.5 * max(max(values) - min(values), 1.0)
    shown = [*values, *(value for value in others if min(values) - room <= value <= max(values) + room)]
    margin = 0.06 * (max(shown) - min(shown)) or 0.5
    return min(shown) - margin, max(shown) + margin


def _ends(interval: Interval | None) -> tuple[float, ...]:
    return () if interval is None else (interval.low, interval.high)


def _columns(rows: Sequence[Sequence[Any]], number: int = 2) -> list[list[Any]]:
    return [[row[place] for row in rows] for place in range(number)]


def read_curves(directory: Path, records: Sequence[Record]) -> pd.DataFrame:
    """Read the learning curves of the runs whose metrics are in a study's folder.

    Returns:
        A row a run and epoch: pooling, seed, epoch, test_error and train_error in percent, the latter of the batches
        as they came, and fitted: the training error at the end, of the images as they are and in inference mode.

    Raises:
        LabError: if one of them is damaged.
    """
    found = []
    for record in records:
        path = directory / folder_name(record["pooling"]) / str(record["seed"]) / "metrics.csv"
        if not path.is_file():
            continue
        try:
            curve = pd.read_csv(path, usecols=["epoch", "train_error", "test_error"], dtype=float)
        except ValueError as error:
            said = str(error).splitlines()[0]
            raise LabError(f"{path} is damaged ({said}); delete it to do without this learning curve") from None
        found.append(curve.assign(pooling=record["pooling"], seed=record["seed"], fitted=record.get("train_error")))
    return pd.concat(found) if found else pd.DataFrame()


def learning_curves(summary: Summary, curves: pd.DataFrame) -> Plot | None:
    """Draw train and test error by epoch, means over runs, with those of the baseline in grey behind."""
    if curves.empty or curves[["train_error", "test_error"]].isna().all(axis=None):
        return None
    runs = {row.pooling: found for row in summary.rows if len(found := curves[curves.pooling == row.pooling])}
    last = curves.groupby(["pooling", "seed"])[["train_error", "fitted", "test_error"]].last()
    ends = last.astype(float).groupby("pooling").agg(lambda values: values.mean(skipna=False)).loc[list(runs)]
    # What the first epochs lose, and what did not converge, would dwarf the rest.
    top = min(1.05 * curves[["train_error", "test_error"]].max().max(), 2.5 * ends.test_error.median())
    top = top if top > 0 else 1.0  # Nothing may be wrong in any of them.
    baseline = summary.baseline

    def draw(axes: Axes, pooling: str) -> None:
        axes.set(xlim=(0, curves.epoch.max()), ylim=(0, top))
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        if pooling != baseline and baseline in runs:
            _curve(axes, runs[baseline], INK, 0.65)
        colour, _ = style(pooling)
        seeds = list(runs[pooling].groupby("seed"))
        for _, run in seeds if len(seeds) > 1 else ():
            for of in ("train_error", "test_error"):
                axes.plot("epoch", of, data=run.dropna(subset=of), color=colour, alpha=0.3, linewidth=0.6)
        _curve(axes, runs[pooling], colour, 1.0)
        if (end := ends.test_error[pooling]) > top:
            axes.annotate(f"test {end:.0f} % \N{UPWARDS ARROW}", (1, 1), (0, -2), xycoords="axes fraction", ha="right",
                          va="top", textcoords="offset points", color=colour)  # fmt: skip

    sheet = table.sheet(
        "Errors after the last epoch, means over seeds",
        {
            "Pooling": ([label(pooling) for pooling in runs], None),
            "Test error %": (ends.test_error, ".2f"),
            "Training error %, inference mode": (ends.fitted, ".2f"),
            "Gap, points": (ends.test_error - ends.fitted, "+.2f"),
            "Training error %, as trained on": (ends.train_error, ".2f"),
        },
    )
    return _multiples(
        "learning-curves",
        "Learning curves",
        "Error in percent by epoch. Solid: test; dashed: training, of the batches as they are trained on, with their "
        "augmentation and samples. Lines are means over seeds, thin ones the seeds where there are several; grey, "
        f"behind: {label(baseline)}. The scale ends at {top:.0f} %.",
        list(runs),
        draw,
        ("epoch", "error, %"),
        [
            Line2D([], [], color=INK, label="test"),
            Line2D([], [], color=INK, linestyle=DASHES, label="training"),
            Line2D([], [], color=INK, alpha=0.65, linewidth=1, label=f"{label(baseline)}, behind"),
        ],
        sheet,
    )


def _curve(axes: Axes, runs: pd.DataFrame, colour: str, strength: float) -> None:
    """Draw mean errors at the epochs at which every run has one; few epochs have marks."""
    for of, dashes in (("train_error", DASHES), ("test_error", "-")):
        mean = runs.pivot(index="epoch", columns="seed", values=of).mean(axis=1, skipna=False).dropna()
        mark: dict[str, Any] = {"marker": ".", "markersize": 4} if len(mean) <= 6 else {}
        axes.plot(mean.index, mean, color=colour, alpha=strength, linestyle=dashes, linewidth=1.5 * strength, **mark)


def reliability(summary: Summary, records: Sequence[Record]) -> Plot | None:
    """Draw the share of right answers against the confidence, with the baseline's in grey behind."""
    runs: dict[str, list[Any]] = {row.pooling: [] for row in summary.rows}
    for record in filter(converged, records):
        runs[record["pooling"]].append(record.get("calibration"))
    if not any(runs.values()) or not all(all(bins) for bins in runs.values()):
        return None  # For all poolings or for none.
    try:
        bins = {pooling: _bins(found) for pooling, found in runs.items() if found}
    except (TypeError, KeyError, ValueError) as error:
        raise LabError(f"results.json: a run's calibration is damaged ({error!r})") from None
    baseline = summary.baseline

    def draw(axes: Axes, pooling: str) -> None:
        axes.set(xlim=(0, 102), ylim=(0, 102), xticks=[0, 50, 100], yticks=[0, 50, 100])
        axes.plot([0, 100], [0, 100], color=INK, linestyle=":", linewidth=0.9)
        if pooling != baseline and baseline in bins:
            behind = bins[baseline][bins[baseline]["count"] >= FEW]
            axes.plot("confidence", "accuracy", data=behind, color=INK, alpha=0.65, linewidth=1)
        colour, marker = style(pooling)
        shown = bins[pooling][bins[pooling]["count"] >= FEW]
        axes.plot("confidence", "accuracy", data=shown, color=colour)
        sizes = 4 + 60 * shown["count"] / bins[pooling]["count"].sum()
        axes.scatter("confidence", "accuracy", sizes, data=shown, color=colour, marker=marker, linewidths=0, zorder=3)

    lines = pd.concat(bins, names=["pooling"]).reset_index()
    sheet = table.sheet(
        "Bins of the calibration error, runs together",
        {
            "Pooling": (lines.pooling.map(label), None),
            "Bin from %": (lines["from"], ".0f"),
            "Mean confidence %": (lines.confidence, ".2f"),
            "Right answers %": (lines.accuracy, ".2f"),
            "Images": (lines["count"], ",d"),
        },
    )
    return _multiples(
        "reliability",
        "Reliability",
        "Share of right answers (up) against the probability of the predicted class (right), in percent, by bins of "
        "that probability. On the dotted line a network is as often right as it says; below it is overconfident. The "
        f"area of a mark is its share of the images; bins of fewer than {FEW} are left out. Grey, behind: "
        f"{label(baseline)}.",
        list(bins),
        draw,
        ("probability of the predicted class, %", "right answers, %"),
        [
            Line2D([], [], color=INK, marker="o", label="bin"),
            Line2D([], [], color=INK, linestyle=":", label="calibrated"),
            Line2D([], [], color=INK, alpha=0.65, linewidth=1, label=f"{label(baseline)}, behind"),
        ],
        sheet,
    )


def _bins(runs: Sequence[Mapping[str, Sequence[Any]]]) -> pd.DataFrame:
    """Put the bins of the calibration error of some runs together, in percent, empty ones left out."""
    frame = pd.concat([pd.DataFrame(run)[["confidence", "accuracy", "count"]] for run in runs])
    scores = frame[["confidence", "accuracy"]].astype(float).fillna(0.0).mul(frame["count"], axis=0)
    count = frame["count"].groupby(level=0).sum()
    means = (100 * scores.groupby(level=0).sum().div(count, axis=0)).assign(count=count)
    means.insert(0, "from", 100 * means.index / len(means))
    return means[count > 0]


def _multiples(
    name: str,
    title: str,
    caption: str,
    poolings: Sequence[str],
    draw: Callable[[Axes, str], None],
    labels: tuple[str, str],
    handles: Sequence[Line2D],
    sheet: table.Sheet,
) -> Plot:
    """Draw the same plot for each pooling, side by side."""
    across = min(ACROSS, max(2, len(poolings)))
    down = math.ceil(len(poolings) / across)
    figure = Figure(figsize=(across * PANEL[0], 0.6 + down * PANEL[1]), layout="constrained")
    grid = list(figure.subplots(down, across, squeeze=False).flat)
    for axes, pooling in zip(grid, poolings, strict=False):
        draw(axes, pooling)
        axes.set_title(label(pooling), loc="left", color=style(pooling)[0], fontweight="bold")
    for axes in grid[len(poolings) :]:
        axes.set_visible(False)
    figure.supxlabel(labels[0])
    figure.supylabel(labels[1])
    figure.legend(handles=handles, loc="outside upper left", ncols=2 if across < 3 else len(handles))
    said = f"For {', '.join(map(label, poolings))}; numbers: {sheet.caption.lower()}."
    return Plot(name, render(figure, title, said), title, caption, (sheet,), wide=True)
