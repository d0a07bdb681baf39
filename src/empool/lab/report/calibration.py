"""Calibration: how far the networks' probabilities can be believed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from empool.lab.analyse import comparable
from empool.lab.analyse.comparable import Record
from empool.lab.analyse.findings import label
from empool.lab.analyse.statistics import Summary
from empool.lab.errors import LabError
from empool.lab.report import table
from empool.lab.report.panels import Multiples, small_multiples
from empool.lab.report.svg import INK, Plot, style
from empool.lab.report.table import Sheet

FEW = 20  # images of a bin below which its share of right answers says next to nothing, and is not drawn


@dataclass(frozen=True)
class Bins:
    """The bins of the calibration error over the runs of a pooling, empty ones left out.

    Attributes:
        edges: where each bin begins and ends.
        confidence: mean probability of the predicted class.
        accuracy: share of right answers.
        count: images, those of all runs together.
    """

    edges: tuple[tuple[float, float], ...]
    confidence: tuple[float, ...]
    accuracy: tuple[float, ...]
    count: tuple[int, ...]

    def believable(self) -> tuple[list[float], list[float], list[int]]:
        """Give confidence, accuracy and count of the bins with images enough."""
        kept = [i for i, count in enumerate(self.count) if count >= FEW]
        return [self.confidence[i] for i in kept], [self.accuracy[i] for i in kept], [self.count[i] for i in kept]


def pooled(records: Sequence[Record]) -> dict[str, Bins]:
    """Put the bins of each pooling's converged runs together; nothing where one of the runs has none.

    Raises:
        LabError: if a record's bins are damaged.
    """
    runs: dict[str, list[Any]] = {}
    for record in filter(comparable.converged, records):
        runs.setdefault(record["pooling"], []).append(record.get("calibration"))
    if not all(all(bins) for bins in runs.values()):
        return {}
    try:
        return {pooling: _pooled(bins) for pooling, bins in runs.items()}
    except (TypeError, KeyError, ValueError) as error:
        raise LabError(f"results.json: a run's calibration is damaged ({error!r})") from None


def _pooled(runs: Sequence[Mapping[str, Sequence[Any]]]) -> Bins:
    counts = np.array([run["count"] for run in runs], dtype=int)
    total = counts.sum(0)
    means = [
        (np.array([[value or 0.0 for value in run[of]] for run in runs], dtype=float) * counts).sum(0)
        for of in ("confidence", "accuracy")
    ]
    kept = [i for i in range(len(total)) if total[i]]
    confidence, accuracy = (tuple(float(of[i] / total[i]) for i in kept) for of in means)
    edges = tuple((i / len(total), (i + 1) / len(total)) for i in kept)
    return Bins(edges, confidence, accuracy, tuple(int(total[i]) for i in kept))


def reliability(summary: Summary, records: Sequence[Record]) -> Plot | None:
    """Draw the share of right answers against the confidence, with the baseline's in grey behind."""
    bins, baseline = pooled(records), summary.baseline
    if not bins:
        return None

    def draw(axes: Axes, pooling: str) -> None:
        axes.set_xlim(0, 1.02)
        axes.set_ylim(0, 1.02)
        axes.set_xticks([0, 0.5, 1], ["0", "50", "100"])
        axes.set_yticks([0, 0.5, 1], ["0", "50", "100"])
        axes.plot([0, 1], [0, 1], color=INK, linestyle=":", linewidth=0.9)
        if pooling != baseline and baseline in bins:
            axes.plot(*bins[baseline].believable()[:2], color=INK, alpha=0.65, linewidth=1)
        colour, marker = style(pooling)
        confidence, accuracy, count = bins[pooling].believable()
        axes.plot(confidence, accuracy, color=colour)
        sizes = 4 + 60 * np.array(count, dtype=float) / sum(bins[pooling].count)
        axes.scatter(confidence, accuracy, sizes, color=colour, marker=marker, linewidths=0, zorder=3)

    eces = {row.pooling: row.ece for row in summary.rows if row.pooling in bins}
    return small_multiples(
        Multiples(
            "reliability",
            "Reliability",
            "Share of right answers (up) against the probability of the predicted class (right), in percent, by bins "
            "of that probability. On the dotted line a network is as often right as it says; below it is "
            "overconfident. The area of a mark is its share of the images; bins of fewer than "
            f"{FEW} are left out. Grey, behind: {label(baseline)}.",
            "probability of the predicted class, %",
            "right answers, %",
            draw,
            [
                Line2D([], [], color=INK, marker="o", label="bin"),
                Line2D([], [], color=INK, linestyle=":", label="calibrated"),
                Line2D([], [], color=INK, alpha=0.65, linewidth=1, label=f"{label(baseline)}, behind"),
            ],
        ),
        {pooling: "" if ece is None else f"ECE {ece:.2f} %" for pooling, ece in eces.items()},
        {pooling: _said(bins[pooling]) for pooling in eces},
        (_bins_sheet({pooling: bins[pooling] for pooling in eces}),),
    )


def _said(bins: Bins) -> str:
    pairs = zip(*bins.believable()[:2], strict=True)
    return "Right answers at each mean confidence: " + ", ".join(
        f"{100 * a:.0f} % at {100 * c:.0f} %" for c, a in pairs
    )


def _bins_sheet(bins: Mapping[str, Bins]) -> Sheet:
    lines = [(pooling, mine, i) for pooling, mine in bins.items() for i in range(len(mine.count))]
    return table.sheet(
        "Bins of the calibration error, runs together",
        {
            "Pooling": table.poolings([pooling for pooling, *_ in lines]),
            "Bin from %": ([100 * mine.edges[i][0] for _, mine, i in lines], ".0f"),
            "Mean confidence %": ([100 * mine.confidence[i] for _, mine, i in lines], ".2f"),
            "Right answers %": ([100 * mine.accuracy[i] for _, mine, i in lines], ".2f"),
            "Images": ([mine.count[i] for _, mine, i in lines], ",d"),
        },
    )
