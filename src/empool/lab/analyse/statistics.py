"""What the runs of a study support: means, spreads, and differences from a baseline with simultaneous intervals."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from enum import Enum
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import stats

from empool.lab.analyse.images import two_way, which_were_right
from empool.lab.analyse.records import Record, completed
from empool.lab.study.run import BASELINE

LEVEL = 0.95
_ROUNDING = 1e-9  # points that two equal errors can seem to differ by
_LEAST_FOR_SPREAD = 3  # runs of a pooling from which Levene's test can tell how far they spread


class Verdict(Enum):
    """What the runs of a pooling say of it beside the baseline."""

    BASELINE = "baseline"
    BETTER = "better"
    WORSE = "worse"
    UNDECIDED = "not decided"
    UNTESTED = "not tested"  # fewer than two runs, here or of the baseline, or a baseline that did not always converge
    FAILED = "did not converge"  # not all of its runs did


class Rule(Enum):
    """How poolings are compared with the baseline."""

    DUNNETT = "Dunnett's test"
    WELCH = "Welch's t tests with Holm's correction"


class Interval(NamedTuple):
    """A confidence interval, in the unit of what it belongs to."""

    low: float
    high: float


class Comparison(NamedTuple):
    """A pooling compared with the baseline by one score, of which less is better."""

    verdict: Verdict  # what the runs support
    difference: float | None = None  # mean of the pooling less that of the baseline; None where one of them is missing
    interval: Interval | None = None  # of 95 %, all intervals of a study holding at once; None if not tested
    p_value: float | None = None  # adjusted for the number of comparisons; None if not tested


@dataclass(frozen=True)
class Family:
    """The comparisons of one score: the chance of any false claim among them is 5 %."""

    comparisons: Mapping[str, Comparison]  # by pooling
    tested: int = 0  # number of poolings that were tested
    rule: Rule | None = None  # how they were made; None where nothing could be tested
    levene: float | None = None  # p-value of Levene's test that all spreads are equal; None where runs are too few
    spread: float | None = None  # the standard deviation over seeds that the tested rows have in common; None for none
    freedom: int = 0  # its degrees of freedom

    def by_verdict(self) -> dict[Verdict, list[str]]:
        """List the poolings of each verdict."""
        found = self.comparisons.items()
        return {verdict: [pooling for pooling, one in found if one.verdict is verdict] for verdict in Verdict}


@dataclass(frozen=True)
class Row:
    """One pooling of a study."""

    pooling: str  # its spelling
    errors: tuple[float, ...]  # test errors in percent of the runs that converged, by ascending seed
    not_converged: tuple[int, ...]  # seeds of the runs that did not converge
    mean: float | None  # mean test error in percent
    spread: float | None  # sample standard deviation of the test errors in points
    nll: float | None  # mean negative log-likelihood in nats
    ece: float | None  # mean expected calibration error in percent
    error: Comparison  # test error beside the baseline's, in points
    nll_against: Comparison  # NLL beside the baseline's, in nats
    sampled: Interval | None  # as of `error`, but test images are a sample, too; None where runs don't name theirs
    improvement: float | None  # (baseline - mean) / baseline of the mean test errors, in percent, as papers print it

    @property
    def runs(self) -> int:
        """Number of runs, converged or not."""
        return len(self.errors) + len(self.not_converged)


@dataclass(frozen=True)
class Summary:
    """A study's rows, and how they were compared."""

    rows: Sequence[Row]  # one a pooling
    baseline: str  # spelling of what the others are compared with
    error: Family  # the primary comparison, by test error
    nll: Family  # a family of its own, by negative log-likelihood

    def row(self, pooling: str) -> Row | None:
        """Give a pooling's row, if there is one."""
        return next((row for row in self.rows if row.pooling == pooling), None)


def summarise(records: Iterable[Record], baseline: str = BASELINE) -> Summary:
    """Summarise the runs of one study, one row a pooling, in the order of their first appearance.

    Each pooling is compared with the baseline by Dunnett's test, made for many treatments beside one control; where
    Levene's test says that the spreads differ (p < 0.05), by Welch's t tests with Holm's correction. Runs of equal seed
    are not paired: they correlate by -0.3 to 0.3, so pairing would cost degrees of freedom and gain nothing.

    Args:
        records: one mapping a run with at least pooling, seed and test_error; all of the same data, network and recipe,
            which the caller sees to. Older ones have no test_ece, and their test_nll is called test_loss.
        baseline: spelling of the pooling that the others are compared with.

    Source: Dunnett, J. American Statistical Association 50(272), 1955.
    """
    runs: dict[str, dict[int, Record]] = {}
    for record in map(completed, records):
        pooling, seed, error = record["pooling"], record["seed"], record["test_error"]
        if seed in runs.setdefault(pooling, {}):
            raise ValueError(f"summarise: expected one run a seed, got two of {pooling} with seed {seed}")
        if record["converged"] and (error is None or not math.isfinite(error)):
            raise ValueError(f"summarise: expected a test error, got {error} for {pooling} with seed {seed}")
        runs[pooling][seed] = record
    whole = {pooling: [run for _, run in sorted(by_seed.items())] for pooling, by_seed in runs.items()}
    kept = {pooling: [run for run in all_of_it if run["converged"]] for pooling, all_of_it in whole.items()}
    failed = {pooling for pooling in runs if len(kept[pooling]) < len(whole[pooling])}
    errors = {pooling: tuple(float(run["test_error"]) for run in those) for pooling, those in kept.items()}
    nlls = {pooling: [run["test_nll"] for run in those] for pooling, those in kept.items()}
    error = compare(errors, baseline, failed)
    nll = compare({pooling: () if None in values else values for pooling, values in nlls.items()}, baseline, failed)
    right = {p: [which_were_right(run) for run in those] for p, those in kept.items() if p not in failed}
    ends = two_way(right, baseline) if error.rule else {}
    level = mean(errors.get(baseline, ()))
    rows = [
        Row(
            pooling,
            errors=errors[pooling],
            not_converged=tuple(run["seed"] for run in whole[pooling] if not run["converged"]),
            mean=(own := mean(errors[pooling])),
            spread=float(np.std(errors[pooling], ddof=1)) if len(errors[pooling]) > 1 else None,
            nll=mean(nlls[pooling]),
            ece=mean([run.get("test_ece") for run in kept[pooling]]),
            error=error.comparisons[pooling],
            nll_against=nll.comparisons[pooling],
            sampled=Interval(*ends[pooling]) if pooling in ends and error.comparisons[pooling].interval else None,
            improvement=100 * (1 - own / level) if level and own is not None else None,
        )
        for pooling in runs
    ]
    return Summary(rows, baseline, error, nll)


def compare(scores: Mapping[str, Sequence[float]], baseline: str, failed: Set[str]) -> Family:
    """Compare the scores of each pooling's converged runs, of which less is better, with the baseline's.

    A pooling that failed, that is with a run that did not converge, is not tested, nor is any where the baseline has
    failed: the seeds that are left were selected by their outcome.
    """
    samples = {pooling: tuple(map(float, values)) for pooling, values in scores.items()}
    control = samples.get(baseline, ())
    testable = len(control) > 1 and baseline not in failed
    tested = [p for p, v in samples.items() if testable and len(v) > 1 and p != baseline and p not in failed]
    family, results = _test(control, tuple(samples[pooling] for pooling in tested))
    found = dict(zip(tested, results, strict=True))
    comparisons = {}
    for pooling, values in samples.items():
        difference = float(np.mean(values) - np.mean(control)) if values and control and pooling != baseline else None
        p_value, interval = found.get(pooling, (None, None))
        # The p-value and the interval of Dunnett's test are integrals, each with an error of its own.
        alike = family.rule is Rule.DUNNETT and interval is not None and interval.low <= 0 <= interval.high
        if pooling in failed:
            verdict = Verdict.FAILED
        elif pooling not in found or difference is None:
            verdict = Verdict.BASELINE if pooling == baseline else Verdict.UNTESTED
        elif p_value is None or p_value >= 1 - LEVEL or alike:
            verdict = Verdict.UNDECIDED
        else:
            verdict = Verdict.BETTER if difference < 0 else Verdict.WORSE
        comparisons[pooling] = Comparison(verdict, difference, interval, p_value)
    return replace(family, comparisons=comparisons, tested=sum(p_value is not None for p_value, _ in results))


_Result = tuple[float | None, Interval | None]  # adjusted p-value, interval


@lru_cache(maxsize=64)
def _test(control: tuple[float, ...], samples: tuple[tuple[float, ...], ...]) -> tuple[Family, list[_Result]]:
    """Test samples against the control by the rule that their spreads allow."""
    if not samples:
        return Family({}), []
    groups = (control, *samples)
    freedom = sum(map(len, groups)) - len(groups)
    spread = math.sqrt(sum(float(np.var(group)) * len(group) for group in groups) / freedom)
    family = Family({}, levene=_levene(groups), spread=spread, freedom=freedom)
    if spread < _ROUNDING:  # Scores that agree to the image are no evidence that seeds do not differ.
        return replace(family, spread=None), [(None, None)] * len(samples)
    with warnings.catch_warnings():
        # Runs of one pooling may agree to the image; the spread comes from the others.
        warnings.filterwarnings("ignore", "Precision loss occurred", RuntimeWarning)
        if family.levene is None or family.levene >= 1 - LEVEL:
            result = stats.dunnett(*samples, control=control, rng=np.random.default_rng(0))
            bounds = result.confidence_interval(LEVEL)
            ends = map(Interval, bounds.low.tolist(), bounds.high.tolist())
            return replace(family, rule=Rule.DUNNETT), [*zip(result.pvalue.tolist(), ends, strict=True)]
        welch = [_welch(values, control, len(samples)) for values in samples]
    adjusted = holm([1.0 if p is None else p for p, _ in welch])
    results = [(None if p is None else a, interval) for a, (p, interval) in zip(adjusted, welch, strict=True)]
    return replace(family, rule=Rule.WELCH), results


def _levene(groups: Sequence[Sequence[float]]) -> float | None:
    """Test whether spreads differ, by the distances from the medians; two runs lie equally far from theirs."""
    enough = [group for group in groups if len(group) >= _LEAST_FOR_SPREAD]
    if len(enough) < 2 or all(np.ptp(np.abs(group - np.median(group))) < _ROUNDING for group in map(np.array, enough)):
        return None
    return float(stats.levene(*enough).pvalue)


def _welch(values: Sequence[float], control: Sequence[float], of: int) -> _Result:
    """Give the p-value of Welch's test, before correction, and Bonferroni's interval of that many comparisons."""
    if max(np.ptp(values), np.ptp(control)) < _ROUNDING:
        return None, None
    result = stats.ttest_ind(values, control, equal_var=False)
    bounds = result.confidence_interval(1 - (1 - LEVEL) / of)
    return float(result.pvalue), Interval(float(bounds.low), float(bounds.high))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values so that the chance of any false claim among them stays below the level.

    Source: Holm, Scandinavian J. Statistics 6(2), 1979.
    """
    order, values = np.argsort(p_values), np.array(p_values)
    values[order] = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)).clip(max=1)
    return [float(value) for value in values]


def mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of some values, or None if there are none or one of them is not known."""
    return float(np.mean(np.array(values, dtype=float))) if values and None not in values else None


def mean_interval(values: Sequence[float]) -> Interval | None:
    """Return the 95 % t interval of the mean of some values, or None with fewer than two or no spread."""
    if len(values) < 2 or np.ptp(values) < _ROUNDING:
        return None
    low, high = stats.ttest_1samp(values, 0).confidence_interval(LEVEL)
    return Interval(float(low), float(high))
