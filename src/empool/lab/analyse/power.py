"""How many seeds decide a difference, and what difference the seeds at hand can show."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

from empool.lab.analyse.statistics import LEVEL, Rule, Summary

POWER = 0.8
MOST_SEEDS = 1000


class Outlook(NamedTuple):
    """What a study's seeds can show."""

    seeds: int  # the fewest that a tested row, or the baseline, has
    spread: float  # standard deviation over seeds, in points
    shown: float  # the smallest true difference, in points, that this many seeds decide in 80 % of studies
    needed: Mapping[str, int | None]  # `seeds_needed` for the difference that is seen, by tested pooling


def outlook(summary: Summary) -> Outlook | None:
    """Plan with the spread that a study's test errors have; None where nothing could be tested.

    Where spreads differ, the planning takes the largest of them, and Bonferroni's level in place of Dunnett's.
    """
    tested = [row for row in summary.rows if row.error.interval]
    if not tested or summary.error.spread is None:
        return None
    rows = [row for row in summary.rows if row.error.interval or row.pooling == summary.baseline]
    equal = summary.error.rule is Rule.DUNNETT
    spread = summary.error.spread if equal else max(row.spread or 0.0 for row in rows)
    compared = len(tested) if equal else -len(tested)
    seeds = min(len(row.errors) for row in rows)
    needed = {row.pooling: seeds_needed(abs(row.error.difference or 0.0), spread, compared) for row in tested}
    return Outlook(seeds, spread, detectable(seeds, spread, compared), needed)


@lru_cache(maxsize=4096)
def critical(compared: int, seeds: int) -> float:
    """Give the size of t beyond which one of several comparisons with a baseline is decided, all with as many seeds.

    Dunnett's, two-sided: that of P(max |t_i| > c) = 0.05, where the t_i share the baseline (they correlate by 1/2) and
    the spread. Given both, they are independent, which leaves an integral over each. A negative number of comparisons
    stands for Welch's test at Bonferroni's level, with the degrees of freedom of equal spreads.
    """
    if compared < 0:
        return float(stats.t.ppf(1 - (1 - LEVEL) / 2 / -compared, 2 * (seeds - 1)))
    spreads, weights = _spreads(compared, seeds)
    z, z_weights = np.polynomial.hermite_e.hermegauss(64)
    weights = z_weights[:, None] / z_weights.sum() * weights  # (z, s)

    def excess(c: float) -> float:
        ends = c * math.sqrt(2) * spreads
        inside = special.ndtr(z[:, None] + ends) - special.ndtr(z[:, None] - ends)  # (z, s)
        return float((weights * inside**compared).sum()) - LEVEL

    return float(optimize.brentq(excess, 0.5, 200.0))


def power(difference: float, seeds: int, spread: float, compared: int) -> float:
    """Give the chance that a true difference is decided, as what it is; arguments as of `critical`."""
    shift = abs(difference) / (spread * math.sqrt(2 / seeds))
    spreads, weights = _spreads(compared, seeds)
    return float((weights * special.ndtr(shift - critical(compared, seeds) * spreads)).sum())


def _spreads(compared: int, seeds: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give nodes and weights to average over the spread that is measured, relative to the true one."""
    freedom = (2 if compared < 0 else compared + 1) * (seeds - 1)
    shares, weights = np.polynomial.legendre.leggauss(64)
    return np.sqrt(stats.chi2.ppf((shares + 1) / 2, freedom) / freedom), weights / 2


def detectable(seeds: int, spread: float, compared: int) -> float:
    """Give the smallest true difference that is decided in 80 % of studies."""
    unit = spread * math.sqrt(2 / seeds)
    most = 2 * (critical(compared, seeds) + 2)
    return unit * float(optimize.brentq(lambda t: power(t * unit, seeds, spread, compared) - POWER, 0.0, most))


def seeds_needed(difference: float, spread: float, compared: int) -> int | None:
    """Give the fewest seeds of each pooling that decide a true difference in 80 % of studies, at most `MOST_SEEDS`."""
    numbers = range(2, MOST_SEEDS + 1)
    fewer = bisect_left(numbers, POWER, key=lambda seeds: power(difference, seeds, spread, compared))
    return numbers[fewer] if fewer < len(numbers) else None
