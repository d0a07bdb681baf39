"""The plots of a study: test errors, improvement against p, learning curves, reliability."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
from numpy.typing import NDArray

from empool.lab.analyse.findings import label
from empool.lab.analyse.records import Record
from empool.lab.analyse.statistics import Summary
from empool.lab.errors import LabError, first_line
from empool.lab.report.svg import INK, STYLE, WIDTH, Plot, drawn, style
from empool.lab.report.table import Columns, Sheet
from empool.lab.study import paper
from empool.lab.study.run import folder_name

DASHES = (0, (3, 1.5))
FEW = 20  # images of a bin below which its share of right answers says next to nothing, and is not drawn
ACROSS, PANEL = 6, (2.0, 1.7)  # panels in a row, and their size in inches
PAPERS: dict[str, Any] = {"color": INK, "marker": "d", "markerfacecolor": "none", "linestyle": DASHES, "linewidth": 1.1}
BEHIND: dict[str, Any] = {"color": INK, "alpha": 0.65, "linewidth": 1}


@mpl.rc_context(fname=STYLE)
def plots(summary: Summary, records: Sequence[Record], curves: pd.DataFrame, beside: paper.Table | None) -> list[Plot]:
    """Draw every plot that the runs give; `curves` are as `read_curves` returns them."""
    made = errors(summary), improvement_against_p(summary, beside), learning_curves(summary, curves)
    return [*filter(None, (*made, reliability(summary, records)))]


@mpl.rc_context(fname=STYLE)
def errors(summary: Summary) -> Plot | None:
    """Draw the test error of each pooling: a mark a run, the mean, and the interval of its difference."""
    rows, baseline = summary.rows, label(summary.baseline)
    means = {row.pooling: row.mean for row in rows if row.mean is not None}
    if not means:
        return None
    level = means.get(summary.baseline, math.nan)
    bands = {row.pooling: [level + end for end in row.error.interval or ()] for row in rows}
    near = _near([*means.values()])
    shown = [error for row in rows if row.mean in near for error in row.errors]
    low, high = _span(shown, [level, *(end for band in bands.values() for end in band)])
    figure = Figure(figsize=(WIDTH, 0.8 + 0.28 * len(rows)))
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
        # At the right end of the row's line, above it.
        axes.annotate(", ".join(notes), (high, y - 0.28), (-2, 0), textcoords="offset points", ha="right", va="center",
                      color=colour, fontsize=7)  # fmt: skip
        if band := bands[row.pooling]:
            axes.plot(band, [y, y], color=colour, alpha=0.35, linewidth=5, solid_capstyle="butt")
        axes.plot(row.errors, [y] * len(row.errors), marker, color=colour, alpha=0.8, markeredgewidth=0)
        axes.plot(means.get(row.pooling, math.nan), y, "|", color=colour, markersize=12, markeredgewidth=2)
    axes.axvline(level, color=INK, linestyle=":", linewidth=1)
    caption = (
        f"A mark is a run, a bar a mean. Band: the mean of {baseline} (dotted) plus the 95 % interval of the "
        "difference from it, simultaneous over all rows. A band that crosses the dotted line: not decided."
    )
    return drawn("error", "Test error by pooling", caption, figure)


def improvement_against_p(summary: Summary, beside: paper.Table | None) -> Plot | None:
    """Draw improvement against p for each method with several p, ours and the paper's, each over its own baseline."""
    baseline = summary.row(summary.baseline)
    if baseline is None or not baseline.mean:
        return None
    theirs = {pooling: figure.error for pooling, figure in beside.rows.items()} if beside else {}
    reference = theirs.get(baseline.pooling)
    lines = []
    for row in summary.rows:
        band = [-100 * end / baseline.mean for end in row.error.interval or (math.nan, math.nan)]
        error = theirs.get(row.pooling)
        printed = reference is not None and row.pooling in theirs
        paper = 100 * (1 - error / reference) if error and reference else None
        lines.append((*row.pooling.partition(":")[::2], row.improvement, *band, printed, paper))
    frame = pd.DataFrame(lines, columns=["method", "p", "ours", "low", "high", "printed", "paper"])
    numbers = ["p", "ours", "low", "high", "paper"]
    frame[numbers] = frame[numbers].apply(pd.to_numeric, errors="coerce")
    methods = [own.sort_values("p") for _, own in frame.dropna(subset="p").groupby("method", sort=False)
               if len(own) > 1 and own.ours.notna().any()]  # fmt: skip
    if not methods:
        return None
    frame = pd.concat(methods)
    low, high = _span(_near([0.0, *frame.ours.dropna()]), [*frame.low, *frame.high, *frame.paper])
    figure = Figure(figsize=(WIDTH, 3.0))
    grid = figure.subplots(1, len(methods), sharex=True, sharey=True, squeeze=False)[0]
    grid[0].set(xlim=(0, 1.06 * frame.p.max()), ylim=(low, high))
    for axes, own in zip(grid, methods, strict=True):
        method = own.method.iloc[0]
        colour, marker = style(method)
        axes.set_title(method, loc="left", color=colour, fontweight="bold")
        axes.axhline(0, color=INK, linestyle=":", linewidth=1.3)
        axes.fill_between(own.p, own.low, own.high, color=colour, alpha=0.2, linewidth=0)
        for values, look in ((own.paper[own.printed], PAPERS), (own.ours, {"color": colour, "marker": marker})):
            axes.plot(own.p[values.index], values, **look)
            beyond = own.p[values.index][~(values >= low)]  # did not converge, or lies below
            mark = {**look, "linestyle": "", "marker": "v"}
            axes.plot(beyond, [low] * len(beyond), clip_on=False, in_layout=False, **mark)
    figure.supylabel(f"improvement over {label(summary.baseline)}, %")
    figure.supxlabel("p" if {*frame.method} <= {"ensemble", "max-dropout"} else "p, or share dropped")
    looks: dict[str, Any] = {"ours": Line2D([], [], color=INK, linewidth=1.8)}
    looks["95 % interval"] = Patch(color=INK, alpha=0.25, linewidth=0)
    if frame.printed.any():
        looks["Zhang and Wu (2017)"] = Line2D([], [], **PAPERS)
    figure.legend([*looks.values()], [*looks], loc="outside upper left", ncols=3, columnspacing=1.2, handlelength=1.7)
    caption = (
        "Up is better. Band: 95 % interval, simultaneous over all poolings of the table. A triangle at the lower edge "
        "is a value below it, or runs that did not converge."
        + (" Dashed: the paper's errors against its own max, so that the shapes can be compared." if beside else "")
    )
    return drawn("improvement-against-p", f"Improvement over {label(summary.baseline)} against p", caption, figure)


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


def read_curves(directory: Path, records: Sequence[Record]) -> pd.DataFrame:
    """Read the learning curves of the runs whose metrics are in a study's folder; raise LabError if one is damaged.

    In percent: train_error, of the batches as they came, and fitted, at the end, of the images in inference mode.
    """
    found = []
    for record in records:
        path = directory / folder_name(record["pooling"]) / str(record["seed"]) / "metrics.csv"
        if not path.is_file():
            continue
        try:
            curve = pd.read_csv(path, usecols=["epoch", "train_error", "test_error"], dtype=float)
        except ValueError as error:
            said = f"{path} is damaged ({first_line(error)}); delete it to do without this learning curve"
            raise LabError(said) from None
        found.append(curve.assign(pooling=record["pooling"], seed=record["seed"], fitted=record.get("train_error")))
    return pd.concat(found) if found else pd.DataFrame()


def learning_curves(summary: Summary, curves: pd.DataFrame) -> Plot | None:
    """Draw train and test error by epoch, means over runs, with those of the baseline in grey behind."""
    if curves.empty or curves[["train_error", "test_error"]].isna().all(axis=None):
        return None
    baseline = summary.baseline
    wide = curves.pivot(index="epoch", columns=["pooling", "seed"]).astype(float)  # (epochs; what, pooling, seed)
    poolings = [row.pooling for row in summary.rows if row.pooling in wide.columns.unique("pooling")]
    last = wide.ffill().iloc[-1].unstack(0).groupby("pooling")
    ends = last.agg(lambda values: values.mean(skipna=False)).loc[poolings]
    # What the first epochs lose, and what did not converge, would dwarf the rest.
    top = min(1.05 * curves[["train_error", "test_error"]].max().max(), 2.5 * ends.test_error.median())
    top = top if top > 0 else 1.0  # Nothing may be wrong in any of them.

    figure, panels = _panels(poolings, "epoch", "error, %")
    for axes, pooling in panels:
        axes.set(xlim=(0, curves.epoch.max()), ylim=(0, top))
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        colour, _ = style(pooling)
        for of, dashes in (("train_error", DASHES), ("test_error", "-")):
            if pooling != baseline in poolings:
                axes.plot(wide[of][baseline].dropna().mean(axis=1), linestyle=dashes, **BEHIND)
            runs = wide[of][pooling].dropna()  # the epochs at which every run has one
            axes.plot(runs, color=colour, alpha=0.3, linewidth=0.6)
            axes.plot(runs.mean(axis=1), color=colour, linestyle=dashes, marker="." if len(runs) <= 6 else "")
        if (end := ends.test_error[pooling]) > top:
            axes.annotate(f"test {end:.0f} % \N{UPWARDS ARROW}", (1, 1), (0, -2), xycoords="axes fraction", ha="right",
                          va="top", textcoords="offset points", color=colour)  # fmt: skip
    columns: Columns = {
        "Pooling": ([label(pooling) for pooling in poolings], None),
        "Test error %": (ends.test_error, ".2f"),
        "Training error %, inference mode": (ends.fitted, ".2f"),
        "Gap, points": (ends.test_error - ends.fitted, "+.2f"),
        "Training error %, as trained on": (ends.train_error, ".2f"),
    }
    sheet = Sheet("Errors after the last epoch, means over seeds", columns)
    caption = (
        "Error in percent by epoch. Solid: test; dashed: training, of the batches as they are trained on, with "
        "augmentation and sampling. Thick lines are means over seeds, thin ones single seeds; grey: "
        f"{label(baseline)}. The scale ends at {top:.0f} %."
    )
    return drawn("learning-curves", "Learning curves", caption, figure, (sheet,), wide=True)


def reliability(summary: Summary, records: Sequence[Record]) -> Plot | None:
    """Draw the share of right answers against the confidence, with the baseline's in grey behind."""
    runs: dict[str, list[Any]] = {row.pooling: [] for row in summary.rows if row.errors}
    for record in records:
        if record["converged"]:
            runs[record["pooling"]].append(record.get("calibration"))
    if not runs or not all(all(bins) for bins in runs.values()):
        return None  # For all poolings or for none.
    try:
        bins = {pooling: _bins(found) for pooling, found in runs.items()}
    except (TypeError, KeyError, ValueError) as error:
        raise LabError(f"results.json: a run's calibration is damaged ({error!r})") from None
    baseline = summary.baseline
    figure, panels = _panels([*bins], "probability of the predicted class, %", "right answers, %")
    for axes, pooling in panels:
        axes.set(xlim=(0, 102), ylim=(0, 102), xticks=[0, 50, 100], yticks=[0, 50, 100])
        axes.plot([0, 100], [0, 100], color=INK, linestyle=":", linewidth=0.9)
        if pooling != baseline in bins:
            axes.plot(*bins[baseline][:2], **BEHIND)
        colour, marker = style(pooling)
        confidence, accuracy, share = bins[pooling]
        axes.plot(confidence, accuracy, color=colour)
        axes.scatter(confidence, accuracy, 4 + 60 * share, color=colour, marker=marker, linewidths=0, zorder=3)
    caption = (
        "Share of right answers (up) against the probability of the predicted class (right), in percent, by bins of "
        "that probability. On the dotted line a network is as often right as it says; below it, it is overconfident. "
        f"The area of a mark is its share of the images; bins of fewer than {FEW} are left out. Grey: "
        f"{label(baseline)}."
    )
    return drawn("reliability", "Reliability", caption, figure, wide=True)


def _bins(runs: Sequence[Mapping[str, Sequence[Any]]]) -> tuple[NDArray[np.float64], ...]:
    """Put the bins of some runs together: confidence and accuracy in percent and the share of images, few left out."""
    values = [np.array([run[name] for run in runs], dtype=float) for name in ("confidence", "accuracy", "count")]
    confidence, accuracy, count = np.nan_to_num(values)  # (runs, bins) each
    images = count.sum(0)
    shown = images >= FEW
    means = [100 * (value * count).sum(0)[shown] / images[shown] for value in (confidence, accuracy)]
    return *means, images[shown] / images.sum()


def _panels(poolings: Sequence[str], right: str, up: str) -> tuple[Figure, list[tuple[Axes, str]]]:
    """Make a figure with a panel for each pooling, side by side."""
    across = min(ACROSS, max(2, len(poolings)))
    down = math.ceil(len(poolings) / across)
    figure = Figure(figsize=(across * PANEL[0], 0.3 + down * PANEL[1]))
    grid = list(figure.subplots(down, across, squeeze=False).flat)
    panels = [*zip(grid, poolings, strict=False)]
    for axes, pooling in panels:
        axes.set_title(label(pooling), loc="left", color=style(pooling)[0], fontweight="bold")
    for axes in grid[len(poolings) :]:
        axes.set_visible(False)
    figure.supxlabel(right)
    figure.supylabel(up)
    return figure, panels
