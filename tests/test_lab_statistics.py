"""The statistics of a study against scipy and hand-worked answers."""

from __future__ import annotations

import base64
import math

import numpy as np
import pytest
from scipy import stats
from torch.testing import assert_close

from empool.lab.analyse import images, power
from empool.lab.analyse.findings import sentence
from empool.lab.analyse.records import completed, of_one_setting
from empool.lab.analyse.statistics import Rule, Verdict, compare, holm, mean_interval, summarise
from empool.lab.errors import LabError

# Five seeds; spreads alike. Means 15.2, 14.3, 15.1.
ERRORS = {
    "max": [15.0, 15.1, 15.2, 15.3, 15.4],
    "ensemble:0.3": [14.1, 14.2, 14.3, 14.5, 14.4],
    "average": [15.0, 15.3, 15.1, 14.9, 15.2],
}


def records(errors, **more):
    """Make one record a run from each pooling's test errors by seed; None is a run that diverged."""
    return [
        {"pooling": pooling, "seed": seed, "test_error": error, "converged": error is not None, "data": "x", **more}
        for pooling, values in errors.items()
        for seed, error in enumerate(values)
    ]


def row(errors, pooling):
    return summarise(records(errors)).row(pooling)


def verdicts(summary):
    return [one.error.verdict for one in summary.rows]


def test_mean_and_spread():
    one = row({"max": [10.0, 14.0, 12.0]}, "max")
    assert (one.errors, one.runs, one.mean, one.spread) == ((10.0, 14.0, 12.0), 3, 12.0, 2.0)
    # The 97.5 % quantile of t with 2 degrees of freedom is 4.302653; times 2 / sqrt(3).
    assert_close(tuple(mean_interval(one.errors)), (12 - 4.968276, 12 + 4.968276), rtol=0, atol=1e-5)
    assert_close(tuple(mean_interval([11.0, 13.0])), (12 - 12.706205, 12 + 12.706205), rtol=0, atol=1e-5)
    assert mean_interval([3.0]) is mean_interval([3.0, 3.0]) is None
    # Rows of other seeds than the baseline's are compared by all their runs.
    found = row({**ERRORS, "ensemble:0.3": ERRORS["ensemble:0.3"][:3]}, "ensemble:0.3")
    assert_close(found.error.difference, found.mean - 15.2)
    assert_close(found.improvement, 100 * (1 - found.mean / 15.2))


def test_the_verdicts_are_dunnetts():
    summary = summarise(records(ERRORS))
    assert summary.error.rule is Rule.DUNNETT
    assert verdicts(summary) == [Verdict.BASELINE, Verdict.BETTER, Verdict.UNDECIDED]
    control, *others = ERRORS.values()
    expected = stats.dunnett(*others, control=control, rng=np.random.default_rng(7))
    bounds = expected.confidence_interval()
    for place, one in enumerate(summary.rows[1:]):
        assert_close(one.error.p_value, float(expected.pvalue[place]), rtol=0.05, atol=1e-4)
        assert_close(tuple(one.error.interval), (bounds.low[place], bounds.high[place]), rtol=0, atol=5e-3)
    assert_close(summary.rows[1].improvement, 100 * 0.9 / 15.2, rtol=0, atol=1e-9)
    shuffled = {**ERRORS, "ensemble:0.3": ERRORS["ensemble:0.3"][::-1]}
    assert row(shuffled, "ensemble:0.3").error == summary.rows[1].error  # Seeds are not paired.


def test_nll_is_a_family_of_its_own():
    runs = records(ERRORS)
    for run in runs:
        run["test_nll"] = {"max": 1.0, "ensemble:0.3": 1.0, "average": 0.5}[run["pooling"]] + 0.01 * run["seed"]
    summary = summarise(runs)
    assert verdicts(summary) == [Verdict.BASELINE, Verdict.BETTER, Verdict.UNDECIDED]
    by_nll = [one.nll_against.verdict for one in summary.rows]
    assert by_nll == [Verdict.BASELINE, Verdict.UNDECIDED, Verdict.BETTER]
    del runs[0]["test_nll"]
    baseline, *others = summarise(runs).rows
    assert baseline.nll is None
    assert {one.nll_against.verdict for one in others} == {Verdict.UNTESTED}


def test_unequal_spreads_are_tested_by_welch_and_holm():
    generator = np.random.default_rng(0)
    scores = {
        "max": list(15 + 0.1 * generator.normal(size=10)),
        "average": list(14.6 + 0.1 * generator.normal(size=10)),
        "stochastic": list(15 + 2.0 * generator.normal(size=10)),
    }
    family = compare(scores, "max", frozenset())
    assert family.rule is Rule.WELCH
    assert family.levene < 0.05
    # Ascending 0.005 * 4, 0.01 * 3, 0.03 * 2, and 0.04 * 1 lifted to the one before it.
    assert_close(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    welch = [stats.ttest_ind(scores[name], scores["max"], equal_var=False) for name in ("average", "stochastic")]
    average, stochastic = (family.comparisons[name] for name in ("average", "stochastic"))
    assert_close([average.p_value, stochastic.p_value], holm([float(one.pvalue) for one in welch]))
    assert (average.verdict, stochastic.verdict) == (Verdict.BETTER, Verdict.UNDECIDED)
    bounds = welch[0].confidence_interval(0.975)  # Bonferroni's of two comparisons
    assert_close(tuple(average.interval), (float(bounds.low), float(bounds.high)))


def test_few_seeds_and_equal_scores():
    # Two seeds lie equally far from their median, which Levene's test would take for certainty.
    family = compare({"max": [15.0, 15.1], "average": [14.0, 16.0], "stochastic": [14.0, 14.1]}, "max", frozenset())
    assert (family.levene, family.rule) == (None, Rule.DUNNETT)
    found = row({"max": [15.25], "ensemble:0.4": [14.27]}, "ensemble:0.4")
    assert (found.spread, found.error.interval, found.error.verdict) == (None, None, Verdict.UNTESTED)
    assert_close(found.improvement, 6.43, rtol=0, atol=0.005)
    # Scores that agree to the image decide nothing; where some do, the spread is that of the others.
    found = row({"max": [4.0, 4.0], "average": [6.2, 6.2]}, "average").error
    assert (found.interval, found.verdict) == (None, Verdict.UNDECIDED)
    third = 200 / 3  # no binary fraction
    assert row({**ERRORS, "stochastic": [third] * 5}, "stochastic").error.verdict is Verdict.WORSE


def test_runs_that_did_not_converge_are_counted_and_not_chosen_away():
    summary = summarise(records({**ERRORS, "max-dropout:0.4": [None, 25.0, 25.5]}))
    found = summary.row("max-dropout:0.4")
    assert (found.not_converged, found.runs, found.mean) == ((0,), 3, 25.25)
    assert found.error.verdict is Verdict.FAILED
    assert summary.error.tested == 2  # It takes no part in the correction of the others.
    summary = summarise(records({**ERRORS, "max": [15.0, 15.1, 15.2, 15.3, None]}))
    assert verdicts(summary) == [Verdict.FAILED, Verdict.UNTESTED, Verdict.UNTESTED]


def test_a_run_at_chance_did_not_converge():
    for expected, record in (
        (False, {"converged": False, "data": "cifar10", "train_error": 10.0}),
        (False, {"data": "cifar10", "train_error": 89.5}),
        (True, {"data": "CIFAR-10", "train_error": 88.0}),
        (True, {"data": "mine", "train_error": 49.7}),  # How many classes is not known.
        (False, {"data": "mine", "classes": 2, "train_error": 49.7}),
        (False, {"data": "mine", "classes": 2, "chance_error": 20.0, "train_error": 19.5}),
        (True, {"data": "cifar10"}),
    ):
        assert completed({"converged": True, **record})["converged"] is expected, record


def test_runs_of_several_settings_are_refused():
    runs = records({"max": [1.0, 2.0]}, epochs=3)
    own = records({"max@epochs=4": [1.0]}, epochs=4)  # no difference: the pooling's name says it
    assert of_one_setting(runs + own, "x") == runs + own
    message = r"x holds runs of several settings \(epochs: 3, 4\): give each a folder of its own; empool gain DIR"
    with pytest.raises(LabError, match=message):
        of_one_setting(runs + records({"max@lr=4": [1.0]}, epochs=4), "x")


def test_summarise_refuses_what_has_no_error_or_two():
    for runs, message in (
        (records({"max": [1.0]}) * 2, "expected one run a seed, got two of max with seed 0"),
        (records({"max": [None]}, converged=True), "expected a test error, got None for max with seed 0"),
        (records({"max": [math.nan]}), "expected a test error, got nan for max with seed 0"),
    ):
        with pytest.raises(ValueError, match=f"^summarise: {message}$"):
            summarise(runs)


def test_a_study_in_one_sentence():
    assert sentence(summarise(records(ERRORS))) == (
        "Over 5 seeds, ensemble:0.3 has 0.9 points lower test error than max (95 % interval 0.6 to 1.2), average has "
        "0.1 points lower test error (95 % interval -0.2 to 0.4, not decided)."
    )
    assert sentence(summarise(records({"max": [1.0]}))).startswith("These runs decide nothing")


@pytest.mark.parametrize(("compared", "seeds"), [(1, 3), (4, 3), (18, 3), (6, 10)])
def test_the_critical_value_is_dunnetts(compared, seeds):
    """A difference of just that size has a p-value of 5 % in scipy."""
    limit = power.critical(compared, seeds)
    spread = np.linspace(-1, 1, seeds) / np.std(np.linspace(-1, 1, seeds), ddof=1)
    samples = [spread + (limit * math.sqrt(2 / seeds) if number == 0 else 0) for number in range(compared)]
    result = stats.dunnett(*samples, control=spread, rng=np.random.default_rng(0))
    assert_close(float(result.pvalue[0]), 0.05, rtol=0, atol=1e-3)
    if compared == 1:
        assert_close(limit, float(stats.t.ppf(0.975, 2 * (seeds - 1))), rtol=0, atol=1e-3)


def test_power_is_the_share_of_studies_that_decide():
    """Two thousand studies of five seeds and four poolings, one of which is better by two spreads."""
    generator, limit = np.random.default_rng(0), power.critical(4, 5)
    studies = generator.normal(size=(2000, 5, 5))
    studies[:, 1] += 2
    spread = np.sqrt(studies.var(2, ddof=1).mean(1))
    decided = np.abs(studies[:, 1].mean(1) - studies[:, 0].mean(1)) / (spread * math.sqrt(2 / 5)) > limit
    assert abs(decided.mean() - power.power(2.0, 5, 1.0, 4)) < 3 * math.sqrt(0.25 / 2000)


def test_seeds_needed_and_what_can_be_shown_are_two_sides_of_one():
    for seeds in (3, 10):
        shown = power.detectable(seeds, 0.5, 4)
        assert power.seeds_needed(shown * 1.001, 0.5, 4) == seeds
        assert power.seeds_needed(shown * 0.999, 0.5, 4) == seeds + 1
    assert power.seeds_needed(1e-4, 0.5, 4) is None
    # Published for airbench: a spread of 0.14, one comparison, 0.3 points need 5 runs an arm, 0.2: 9, 0.1: 32.
    assert [power.seeds_needed(size, 0.14, 1) for size in (0.3, 0.2, 0.1)] == [5, 9, 32]
    plan = power.outlook(summarise(records(ERRORS)))
    assert (plan.seeds, list(plan.needed)) == (5, ["ensemble:0.3", "average"])
    assert power.outlook(summarise(records({"max": [15.0], "average": [14.0]}))) is None


def packed(right):
    return {"correct": base64.b64encode(np.packbits(right)).decode(), "test_images": len(right)}


def test_the_two_way_interval_stands_beside_the_test():
    some = np.arange(1003) % 3 == 0
    assert (images.which_were_right(packed(some)) == some).all()
    assert images.which_were_right({"test_images": 1003}) is None
    for damage, message in (({"test_images": 2000}, "expected 2000 bits"), ({"correct": "?"}, "is damaged")):
        with pytest.raises(LabError, match=message):
            images.which_were_right({**packed(some), **damage})
    generator = np.random.default_rng(3)
    hard = generator.beta(0.3, 1, size=2000)  # Hard images are wrong more often than easy ones.
    shares = {"max": 1.0, "average": 0.9, "stochastic": 1.0}
    right = {name: generator.random((5, 2000)) > share * hard for name, share in shares.items()}
    runs = records({name: [100 * float(1 - run.mean()) for run in matrix] for name, matrix in right.items()})
    runs = [run | packed(right[run["pooling"]][run["seed"]]) for run in runs]
    baseline, *others = summarise(runs).rows
    assert baseline.sampled is None
    for one in others:
        assert one.sampled.low < one.error.difference < one.sampled.high
        assert one.error.interval is not None
    del runs[0]["correct"]
    assert all(one.sampled is None for one in summarise(runs).rows)


def test_the_two_way_interval_covers_the_truth():
    """Of studies whose seeds and images are both drawn, it misses the true difference in about 5 %."""
    generator, missed, studies = np.random.default_rng(0), 0, 200
    for _ in range(studies):
        hard = generator.beta(0.3, 1, size=500)
        right = {
            name: generator.random((8, 500)) > np.clip(hard * (1 + 0.05 * generator.normal(size=(8, 1))), 0, 1)
            for name in ("max", "average")
        }
        low, high = images.two_way(right, "max")["average"]
        missed += not low <= 0 <= high
    assert missed / studies < 0.05 + 3 * math.sqrt(0.05 * 0.95 / studies)
