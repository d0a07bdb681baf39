"""Calibration: how far the networks' probabilities can be believed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from empool.lab.analyse.statistics import BASELINE, Row
from empool.lab.errors import LabError
from empool.lab.report import table
from empool.lab.report.panels import Multiples, small_multiples
from empool.lab.report.svg import INK, Plot, style
from empool.lab.report.table import Column, Sheet

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

    def mean(self, of: Sequence[float]) -> float:
        """Average over images."""
        return float(np.average(of, weights=self.count))


def pooled(records: Sequence[Mapping[str, Any]]) -> dict[str, Bins]:
    """Put the bins of each pooling's converged runs together, where every one of them has bins.

    Raises:
        LabError: if a record's bins are damaged.
    """
    runs: dict[str, list[Any]] = {}
    for record in records:
        if record["converged"]:
            runs.setdefault(record["pooling"], []).append(record.get("calibration"))
    try:
        return {pooling: _pooled(bins) for pooling, bins in runs.items() if all(bins)}
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


def scores(rows: Sequence[Row], bins: Mapping[str, Bins]) -> Sheet | None:
    """Lay out each pooling's NLL and ECE, and where bins are recorded how sure it is and how often right."""
    if all(row.nll is None and row.ece is None for row in rows):
        return None
    columns = [
        table.poolings([row.pooling for row in rows]),
        table.numbers("NLL, nats", [row.nll for row in rows], 4),
    ]
    if any(row.ece is not None for row in rows):
        columns.append(table.numbers("ECE %", [row.ece for row in rows], 2))
    if bins:
        found = [bins.get(row.pooling) for row in rows]
        sure = [100 * mine.mean(mine.confidence) if mine else None for mine in found]
        right = [100 * mine.mean(mine.accuracy) if mine else None for mine in found]
        excess = [a - b if a is not None and b is not None else None for a, b in zip(sure, right, strict=True)]
        columns += [
            table.numbers("Mean confidence %", sure, 2),
            table.numbers("Right answers %", right, 2),
            table.numbers("Overconfidence, points", excess, 2, sign=True),
        ]
    return Sheet("Calibration on the test images, means over seeds", columns)


def reliability(rows: Sequence[Row], bins: Mapping[str, Bins]) -> Plot | None:
    """Draw the share of right answers against the confidence, with that of max in grey behind."""
    shown = {row.pooling: row for row in rows if row.pooling in bins}
    if not shown:
        return None

    def draw(axes: Axes, pooling: str) -> None:
        axes.set_xlim(0, 1.02)
        axes.set_ylim(0, 1.02)
        axes.set_xticks([0, 0.5, 1], ["0", "50", "100"])
        axes.set_yticks([0, 0.5, 1], ["0", "50", "100"])
        axes.plot([0, 1], [0, 1], color=INK, linestyle=":", linewidth=0.9)
        if pooling != BASELINE and BASELINE in bins:
            axes.plot(*_believable(bins[BASELINE])[:2], color=INK, alpha=0.65, linewidth=1)
        colour, marker = style(pooling.partition(":")[0])
        confidence, accuracy, count = _believable(bins[pooling])
        axes.plot(confidence, accuracy, color=colour)
        sizes = 4 + 60 * np.array(count, dtype=float) / sum(bins[pooling].count)
        axes.scatter(confidence, accuracy, sizes, color=colour, marker=marker, linewidths=0, zorder=3)

    return small_multiples(
        Multiples(
            "reliability",
            "Reliability",
            "Share of right answers (up) against the probability of the predicted class (right), in percent, by bins "
            "of that probability. On the dotted line a network is as often right as it says; below it is "
            "overconfident. The area of a mark is its share of the images; bins of fewer than "
            f"{FEW} are left out. Grey, behind: max.",
            "probability of the predicted class, %",
            "right answers, %",
            draw,
            [
                Line2D([], [], color=INK, marker="o", label="bin"),
                Line2D([], [], color=INK, linestyle=":", label="calibrated"),
                Line2D([], [], color=INK, alpha=0.65, linewidth=1, label="max, behind"),
            ],
        ),
        {pooling: f"ECE {table.decimals(row.ece, 2)} %" for pooling, row in shown.items()},
        {pooling: _said(bins[pooling]) for pooling in shown},
        (_bins_sheet({pooling: bins[pooling] for pooling in shown}),),
    )


def _believable(bins: Bins) -> tuple[list[float], list[float], list[int]]:
    kept = [i for i, count in enumerate(bins.count) if count >= FEW]
    return [bins.confidence[i] for i in kept], [bins.accuracy[i] for i in kept], [bins.count[i] for i in kept]


def _said(bins: Bins) -> str:
    pairs = zip(*_believable(bins)[:2], strict=True)
    return "Right answers at each mean confidence: " + ", ".join(
        f"{100 * a:.0f} % at {100 * c:.0f} %" for c, a in pairs
    )


def _bins_sheet(bins: Mapping[str, Bins]) -> Sheet:
    lines = [(pooling, mine, i) for pooling, mine in bins.items() for i in range(len(mine.count))]
    spans = [mine.edges[i] for _, mine, i in lines]
    return Sheet(
        "Bins of the calibration error, runs together",
        [
            table.poolings([pooling for pooling, *_ in lines]),
            Column(
                "Bin, %",
                [f"{100 * low:.0f}\N{EN DASH}{100 * high:.0f}" for low, high in spans],
                values=[low for low, _ in spans],
            ),
            table.numbers("Mean confidence %", [100 * mine.confidence[i] for _, mine, i in lines], 2),
            table.numbers("Right answers %", [100 * mine.accuracy[i] for _, mine, i in lines], 2),
            Column("Images", [f"{mine.count[i]:,}" for _, mine, i in lines], values=[m.count[i] for _, m, i in lines]),
        ],
    )
