"""How far an axis reaches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from empool.lab.analyse.statistics import Interval, Row


def limits(
    rows: Sequence[Sequence[float]], intervals: Sequence[tuple[float, Interval]], better: Literal["low", "high"]
) -> tuple[float, float]:
    """Return axis limits that hold every row but far outliers, and intervals while these do not dwarf the points.

    Args:
        rows: the points of each row; a row is shown whole or, where its mean is an outlier, not at all.
        intervals: each with the mean that it belongs to.
        better: the side on which nothing is an outlier.
    """
    means = [float(np.mean(row)) for row in rows]
    first, third = np.percentile(means, [25, 75])
    reach = 2 * (third - first) if third > first else math.inf
    least, most = (-math.inf, third + reach) if better == "low" else (first - reach, math.inf)
    near = [value for row, mean in zip(rows, means, strict=True) if least <= mean <= most for value in row]
    low, high = min(near), max(near)
    room = max(3 * (high - low), 0.02 * max(abs(low), abs(high)))
    shown = [interval for mean, interval in intervals if low <= mean <= high]
    low = max(min([low, *(interval.low for interval in shown)]), low - room)
    high = min(max([high, *(interval.high for interval in shown)]), high + room)
    margin = 0.07 * (high - low) or max(0.05 * abs(high), 0.5)
    return float(low - margin), float(high + margin)


def mean_intervals(rows: Sequence[Row]) -> list[tuple[float, Interval]]:
    """Give the interval of each mean that has one, after the mean."""
    return [(row.mean, row.mean_interval) for row in rows if row.mean is not None and row.mean_interval]
