"""The claims of Zhang and Wu (2017) held against runs: what supports, what contradicts, and what decides nothing."""

from __future__ import annotations

import itertools

import pytest
from scipy import stats

from empool.lab.analyse.claims import Support, beside, judge
from empool.lab.analyse.records import completed
from empool.lab.analyse.statistics import Rule, summarise
from empool.lab.report.sheets import claims as sheet
from empool.lab.study import paper
from empool.lab.study.paper import Claim
from synthetic_study import OF_THE_PAPERS_KIND, record

SPELLED = {"max": "max", "e3": "ensemble:0.3", "e4": "ensemble:0.4", "d5": "max-dropout:0.5", "d7": "max-dropout:0.7"}
LOWER = Claim("a beats b", ("ensemble:0.3", "ensemble:0.4"), ("max",))
HIGHER = Claim("a is worse than b", ("ensemble:0.3", "ensemble:0.4"), ("max",), lower=False)
FAILS = Claim("a does not converge", ("max-dropout:0.5", "max-dropout:0.7"))
# Means 15.3, 14.3 and 14.3; spreads 0.361, 0.4 and 0.2: pooled 0.330 with 6 degrees of freedom.
CLEAR = {"max": (15.0, 15.2, 15.7), "e3": (13.9, 14.3, 14.7), "e4": (14.1, 14.3, 14.5)}
POOLED = ((0.13 + 0.16 + 0.04) / 3) ** 0.5


def summary(**errors):
    """Summarise runs: max=(15.0, 15.2) are two seeds."""
    return summarise(record(SPELLED[name], seed, error) for name in errors for seed, error in enumerate(errors[name]))


def held(claims, **errors):
    return judge(claims, summary(**errors))


def test_a_difference_is_that_of_means_over_the_poolings():
    (judgement,) = held([LOWER], **CLEAR)
    error = POOLED * ((1 / 4 + 1 / 4 + 1) / 3) ** 0.5
    assert judgement.difference == pytest.approx(-1.0)
    assert judgement.interval.low == pytest.approx(-1.0 - stats.t.ppf(0.975, 6) * error)
    assert judgement.interval.high == pytest.approx(-1.0 + stats.t.ppf(0.975, 6) * error)
    assert judgement.p_value == pytest.approx(2 * stats.t.sf(1.0 / error, 6))
    # Holm's correction is over the claims that are tested.
    several = [LOWER._replace(said=f"claim {number}") for number in range(4)]
    among = held([*several, Claim("lacks runs", ("max",), ("average",))], **CLEAR)
    assert among[0].p_value == pytest.approx(4 * judgement.p_value)
    assert among[-1].reason == "no run with average"


def test_a_contrast_of_unequal_spreads_is_welchs():
    errors = {
        "max": (15.0, 15.1, 15.2, 15.3, 15.1, 15.2),
        "e3": (10.0, 18.0, 13.0, 9.0, 14.0, 17.0),
        "e4": (14.1, 14.3, 14.2, 14.1, 14.2, 14.3),
    }
    assert summary(**errors).error.rule is Rule.WELCH
    (judgement,) = held([Claim("a beats b", ("ensemble:0.4",), ("max",))], **errors)
    expected = stats.ttest_ind(errors["e4"], errors["max"], equal_var=False)
    assert judgement.p_value == pytest.approx(expected.pvalue)
    assert judgement.interval.low == pytest.approx(expected.confidence_interval().low)


@pytest.mark.parametrize(
    ("claim", "errors", "verdict", "reason"),
    [
        (LOWER, CLEAR, Support.SUPPORTED, ""),
        (HIGHER, CLEAR, Support.CONTRADICTED, ""),
        (LOWER, {"max": (15.0, 15.2), "e3": (14.0, 15.4), "e4": (14.0, 15.4)}, Support.UNDECIDED, ""),
        (LOWER, {**CLEAR, "e3": (14.0,)}, Support.UNTESTED, "one run of a pooling tells no spread"),
        (LOWER, {"e3": (14.0, 14.1)}, Support.UNTESTED, "no run with ensemble:0.4, max"),
        (LOWER, {**CLEAR, "e4": (14.1, None, 14.5)}, Support.UNTESTED, "1 of its runs did not converge"),
        (FAILS, {"d5": (None, None), "d7": (None, None)}, Support.SUPPORTED, "4 of 4 runs failed"),
        (FAILS, {"d5": (None, 30.0), "d7": (None, None)}, Support.PARTLY, "3 of 4 runs failed"),
        (FAILS, {"d5": (30.0,), "d7": (40.0,)}, Support.CONTRADICTED, "0 of 2 runs failed"),
    ],
)
def test_what_runs_say_to_a_claim(claim, errors, verdict, reason):
    (judgement,) = held([claim], **errors)
    assert (judgement.verdict, judgement.reason) == (verdict, reason)
    assert (judgement.difference is None) == bool(reason)


def test_the_table_says_what_was_compared():
    laid_out = sheet(held([LOWER, FAILS], **CLEAR, d5=(None,), d7=(None,)))
    first, second = laid_out.cells().to_numpy().tolist()
    assert first[:3] == ["a beats b", "supported", "-1.00"]
    assert first[-1] == "ensemble:0.3 and 0.4 with max"
    assert second[1:] == ["supported: 2 of 2 runs failed", "-", "-", "max-dropout:0.5 and 0.7"]
    # A claim without any of its poolings is left out.
    assert sheet(held([LOWER], max=(15.0, 15.2))) is None


def test_the_paper_stands_only_beside_its_own_kind_of_study():
    def found(**changes):
        table = beside([completed(record("max", 0, 15.0, **{**OF_THE_PAPERS_KIND, **changes}))])
        return table and table.name

    assert found() == found(data="/somewhere/CIFAR-10") == "Table 1"
    assert found(model="dfn_mr:56") == found(model="resnet:110") == "Table 2"
    small = found(model="dfn_mr:20", train_images=5_000, epochs=12, test_images=2_000)
    assert small == "Table 2, of DFN-MR with 56 layers"
    for name, value in (
        *(("model", "resnet:20"), ("data", "cifar100"), ("data", "cifar10-mini"), ("epochs", 3)),
        # By its content: a folder that is called cifar10 need not hold it.
        *(("classes", 4), ("image_shape", [3, 8, 8]), ("train_images", 2_000), ("test_images", 500)),
    ):
        assert found(**{name: value}) is None, name


def test_the_papers_improvements_follow_from_its_errors_and_bear_its_claims_out():
    relative_to_emp = {"max-dropout:0.3", "max-dropout:0.4"}
    for pooling, figure in paper.TABLE_1.items():
        if figure.error is not None and figure.improvement is not None:
            baseline = 15.51 if pooling in relative_to_emp else 15.25
            assert figure.improvement == pytest.approx(100 * (baseline - figure.error) / baseline, abs=0.011)
    for figure in paper.TABLE_2.values():
        # The paper rounds errors to 0.01 after it has computed with them.
        assert figure.improvement == pytest.approx(100 * (5.50 - figure.error) / 5.50, abs=0.1)
    for table in map(paper.of, ("cnn", "dfn_mr:56")):
        assert table.claims
        for claim in table.claims:
            of, than = ([table.rows[pooling].error for pooling in side] for side in (claim.of, claim.than))
            assert all((ours < theirs) == claim.lower for ours, theirs in itertools.product(of, than)), claim.said
            assert than or of == [None] * len(of)
