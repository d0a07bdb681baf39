"""What the runs of a study support: mean, spread, and improvement over max with its uncertainty."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import stats

BASELINE = "max"
LEVEL = 0.95
_ROUNDING = 1e-9  # points that two equal differences of errors can seem to differ by


@dataclass(frozen=True)
class Interval:
    """A confidence interval, in percent.

    Attributes:
        low: lower end.
        high: upper end.
    """

    low: float
    high: float

    def excludes_zero(self) -> bool:
        """Tell whether zero lies outside."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Row:
    """One pooling of a study.

    Attributes:
        pooling: its spelling.
        seeds: seeds of the runs that converged, ascending.
        errors: their test errors in percent, in that order.
        not_converged: seeds of the runs that did not converge.
        mean: mean of the test errors in percent; None if no run converged.
        spread: their sample standard deviation in points; None with fewer than two.
        mean_interval: 95 % t interval of the mean; None with fewer than two.
        max_failed: seeds of the runs with which max did not converge.
        pairs: number of seeds that converged both here and with max.
        improvement: (mean of max - mean) / mean of max over those seeds, in percent; None without any.
        interval: its 95 % interval (`relative_improvement`); None where the seeds give none.
        p_value: of the paired t test that the mean difference from max is zero.
        adjusted_p: the same after Holm's correction over all rows that have one.
        verdict: in words, what these seeds support.
        nll: mean negative log-likelihood of the test images, in nats, over the runs that converged; None where one of
            them does not say it.
        ece: likewise their expected calibration error in percent.
    """

    pooling: str
    seeds: tuple[int, ...]
    errors: tuple[float, ...]
    not_converged: tuple[int, ...]
    mean: float | None = None
    spread: float | None = None
    mean_interval: Interval | None = None
    max_failed: tuple[int, ...] = ()
    pairs: int = 0
    improvement: float | None = None
    interval: Interval | None = None
    p_value: float | None = None
    adjusted_p: float | None = None
    verdict: str = ""
    nll: float | None = None
    ece: float | None = None

    @property
    def best(self) -> float | None:
        """Lowest test error in percent."""
        return min(self.errors, default=None)

    @property
    def worst(self) -> float | None:
        """Highest test error in percent."""
        return max(self.errors, default=None)

    @property
    def runs(self) -> int:
        """Number of runs, converged or not."""
        return len(self.seeds) + len(self.not_converged)

    @property
    def dropped(self) -> float | None:
        """The single number after the colon of the spelling (p, or the share dropped), if there is one."""
        try:
            return float(self.pooling.partition(":")[2])
        except ValueError:
            return None

    @property
    def method(self) -> str:
        """The spelling before the colon."""
        return self.pooling.partition(":")[0]


@dataclass(frozen=True)
class Improvement:
    """Relative improvement over a baseline.

    Attributes:
        estimate: in percent; None where the baseline makes no errors.
        interval: 95 % interval in percent, or None.
        p_value: of the paired t test for no difference, or None.
    """

    estimate: float | None
    interval: Interval | None
    p_value: float | None


def relative_improvement(baseline: Sequence[float], errors: Sequence[float]) -> Improvement:
    r"""Compare two poolings, seed by seed.

    The estimate is the deck's: :math:`1 - \bar y / \bar x`, x being the baseline's errors and y the pooling's. Runs of
    the same seed share initial weights and the order of the data, so they are paired. The interval is Fieller's for
    the ratio of two paired means: all ratios r for which the paired t test does not reject mean(y - r x) = 0. It is
    exact for normal differences where the delta method is only asymptotic (and five seeds are few), it belongs to the
    ratio of means that the estimate is, whereas a t interval on log(y / x) belongs to the geometric mean and fails at
    an error of 0; and it excludes zero exactly when the paired t test on the differences x - y rejects, so table and
    verdict cannot disagree.

    There is no interval with one pair; none where all differences are equal (a test error is a multiple of one image,
    so two seeds can agree by rounding, which is no evidence of a spread of zero); and none where the baseline's mean
    is not distinguishable from 0, which makes Fieller's set unbounded.

    Args:
        baseline: the baseline's test errors.
        errors: the pooling's test errors, of the same seeds in the same order.

    Raises:
        ValueError: if there are no pairs, or not as many errors on both sides.

    Source: Fieller, J. Royal Statistical Society B 16(2), 1954.
    """
    if len(baseline) != len(errors) or not errors:
        raise ValueError(f"relative_improvement: expected pairs of errors, got {len(baseline)} and {len(errors)}")
    x, y = np.asarray(baseline, dtype=float), np.asarray(errors, dtype=float)
    pairs, mean_x, mean_y = len(x), float(x.mean()), float(y.mean())
    if mean_x == 0:
        return Improvement(None, None, None)
    estimate = 100 * (1 - mean_y / mean_x)
    if pairs < 2 or float(np.ptp(x - y)) < _ROUNDING:
        return Improvement(estimate, None, None)

    p_value = float(stats.ttest_rel(x, y).pvalue)
    # The ends are the roots of a r^2 - 2 b r + c = 0.
    scale = float(stats.t.ppf((1 + LEVEL) / 2, pairs - 1)) ** 2 / pairs
    (s_xx, s_xy), (_, s_yy) = np.cov(x, y)
    a, b, c = mean_x**2 - scale * s_xx, mean_x * mean_y - scale * s_xy, mean_y**2 - scale * s_yy
    if a <= 0:
        return Improvement(estimate, None, p_value)
    root = math.sqrt(max(b * b - a * c, 0.0))
    return Improvement(estimate, Interval(100 * (1 - (b + root) / a), 100 * (1 - (b - root) / a)), p_value)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values so that the chance of any false claim among them stays below the level.

    Source: Holm, Scandinavian J. Statistics 6(2), 1979.
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def binomial_error(error: float, images: int) -> float:
    """Return the standard error, in points, of a test error in percent that was counted on this many images."""
    share = error / 100
    return 100 * math.sqrt(share * (1 - share) / images)


def mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of some values, or None if there are none or one of them is not known."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None


def mean_interval(errors: Sequence[float]) -> Interval | None:
    """Return the 95 % t interval of the mean of some errors, or None with fewer than two or no spread."""
    if len(errors) < 2 or max(errors) - min(errors) < _ROUNDING:
        return None
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(errors) - 1) * np.std(errors, ddof=1)) / math.sqrt(len(errors))
    centre = float(np.mean(errors))
    return Interval(centre - half, centre + half)


def summarise(records: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Summarise the runs of one study, one row a pooling, in the order of their first appearance.

    Args:
        records: one mapping a run with at least pooling, seed, test_error and converged; all of the same data, network
            and recipe, which the caller sees to. Older ones have no test_ece, and their test_nll is called test_loss.

    Raises:
        ValueError: if a pooling has two runs with the same seed, or a converged run has no test error.
    """
    runs: dict[str, dict[int, float | None]] = {}
    for record in records:
        pooling, seed, error = record["pooling"], record["seed"], record["test_error"]
        if seed in runs.setdefault(pooling, {}):
            raise ValueError(f"summarise: expected one run a seed, got two of {pooling} with seed {seed}")
        if record["converged"] and (error is None or not math.isfinite(error)):
            raise ValueError(f"summarise: expected a test error, got {error} for {pooling} with seed {seed}")
        runs[pooling][seed] = float(error) if record["converged"] else None

    baseline = runs.get(BASELINE, {})
    rows = [
        replace(
            _row(pooling, by_seed, baseline),
            nll=mean([record.get("test_nll", record.get("test_loss")) for record in _converged(records, pooling)]),
            ece=mean([record.get("test_ece") for record in _converged(records, pooling)]),
        )
        for pooling, by_seed in runs.items()
    ]
    # A row with a run that diverged, here or with max, is not tested: the seeds left were selected by their outcome.
    tested = [i for i, row in enumerate(rows) if not (row.p_value is None or row.not_converged or row.max_failed)]
    for index, adjusted in zip(tested, holm([rows[i].p_value or 0.0 for i in tested]), strict=True):
        rows[index] = replace(rows[index], adjusted_p=adjusted)
    return [replace(row, verdict=_verdict(row)) for row in rows]


def _converged(records: Sequence[Mapping[str, Any]], pooling: str) -> list[Mapping[str, Any]]:
    return [record for record in records if record["pooling"] == pooling and record["converged"]]


def _row(pooling: str, by_seed: Mapping[int, float | None], baseline: Mapping[int, float | None]) -> Row:
    errors = {seed: error for seed, error in sorted(by_seed.items()) if error is not None}
    row = Row(
        pooling,
        seeds=tuple(errors),
        errors=tuple(errors.values()),
        not_converged=tuple(sorted(seed for seed, error in by_seed.items() if error is None)),
        mean=float(np.mean(list(errors.values()))) if errors else None,
        spread=float(np.std(list(errors.values()), ddof=1)) if len(errors) > 1 else None,
        mean_interval=mean_interval(list(errors.values())),
        max_failed=tuple(sorted(seed for seed in by_seed if seed in baseline and baseline[seed] is None)),
    )
    pairs = [(reached, error) for seed, error in errors.items() if (reached := baseline.get(seed)) is not None]
    if pooling == BASELINE or not pairs:
        return replace(row, pairs=len(pairs))
    change = relative_improvement([reached for reached, _ in pairs], [error for _, error in pairs])
    return replace(row, pairs=len(pairs), improvement=change.estimate, interval=change.interval, p_value=change.p_value)


def _verdict(row: Row) -> str:
    if row.not_converged:
        return f"{len(row.not_converged)} of {row.runs} did not converge"
    if row.pooling == BASELINE:
        return "baseline"
    if row.max_failed:
        return f"not tested: {BASELINE} did not converge with {len(row.max_failed)} of its seeds"
    if row.pairs == 0:
        return f"no {BASELINE} of the same seed"
    if row.interval and row.interval.excludes_zero() and row.adjusted_p is not None and row.adjusted_p < 1 - LEVEL:
        return f"better than {BASELINE}" if row.interval.low > 0 else f"worse than {BASELINE}"
    undecided = f"not decided by {row.pairs} seed{'s' if row.pairs > 1 else ''}"
    return f"{undecided} (Holm)" if row.interval and row.interval.excludes_zero() else undecided
