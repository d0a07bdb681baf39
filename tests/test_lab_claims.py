"""The deck's claims held against runs: what supports, what contradicts, and what decides nothing."""

from __future__ import annotations

import itertools

import pytest

from empool.lab.report.claims import judge, sheet
from empool.lab.study import deck
from empool.lab.study.deck import Claim
from synthetic_study import record

LOWER = Claim("a beats b", ("ensemble:0.3", "ensemble:0.4"), ("max",))
HIGHER = Claim("a is worse than b", ("ensemble:0.3", "ensemble:0.4"), ("max",), lower=False)
FAILS = Claim("a does not converge", ("max-dropout:0.5", "max-dropout:0.7"))


def runs(**errors):
    """Make records: max=(15.0, 15.2) are two seeds; a name's underscores stand for its spelling."""
    spelled = {
        "max": "max",
        "e3": "ensemble:0.3",
        "e4": "ensemble:0.4",
        "d5": "max-dropout:0.5",
        "d7": "max-dropout:0.7",
    }
    return [record(spelled[name], seed, error) for name in errors for seed, error in enumerate(errors[name])]


def verdict(claim, **errors):
    (judgement,) = judge([claim], runs(**errors))
    return judgement.verdict


# Means of both p: 14.0, 14.3, 14.6; of max 15.0, 15.2, 15.7: -1.0, -0.9, -1.1.
CLEAR = {"max": (15.0, 15.2, 15.7), "e3": (13.9, 14.3, 14.7), "e4": (14.1, 14.3, 14.5)}


def test_a_difference_is_that_of_means_over_the_poolings_paired_by_seed():
    (judgement,) = judge([LOWER], runs(**CLEAR))
    assert judgement.seeds == 3
    assert judgement.difference == pytest.approx(-1.0)
    assert judgement.interval.low == pytest.approx(-1.0 - 4.303 * 0.1 / 3**0.5, abs=1e-4)
    assert judgement.interval.high == pytest.approx(-1.0 + 4.303 * 0.1 / 3**0.5, abs=1e-4)
    assert judgement.p_value == pytest.approx(0.003316, abs=1e-5)  # t = 17.32 with 2 degrees of freedom


def test_what_is_as_claimed_supports_and_the_reverse_contradicts():
    assert verdict(LOWER, **CLEAR) == "supports"
    assert verdict(HIGHER, **CLEAR) == "contradicts"


def test_an_interval_with_0_in_it_decides_nothing():
    assert verdict(LOWER, max=(15.0, 15.2), e3=(14.0, 15.4), e4=(14.0, 15.4)) == "not decided by 2 seeds"
    assert verdict(LOWER, max=(15.0,), e3=(14.0,), e4=(14.0,)) == "not decided by 1 seed"


def test_holms_correction_is_over_the_claims_that_are_tested():
    # p = 0.0033 holds against 5 % over 15 claims, not over 16.
    assert {judgement.verdict for judgement in judge([LOWER] * 15, runs(**CLEAR))} == {"supports"}
    assert {judgement.verdict for judgement in judge([LOWER] * 16, runs(**CLEAR))} == {"not decided by 3 seeds (Holm)"}
    untested = [LOWER] * 15 + [Claim("lacks runs", ("max",), ("average",))] * 9
    assert [judgement.verdict for judgement in judge(untested, runs(**CLEAR))][:15] == ["supports"] * 15


def test_only_seeds_of_all_poolings_are_compared():
    (judgement,) = judge([LOWER], runs(max=(15.0, 15.2, 15.7), e3=(14.0, 14.0, 14.6), e4=(14.0, 14.4)))
    assert judgement.seeds == 2
    assert judgement.difference == pytest.approx(-1.0)


def test_a_claim_without_all_its_poolings_is_not_tested_and_one_without_any_left_out():
    assert verdict(LOWER, e3=(14.0, 14.1)) == "not tested: no run with ensemble:0.4, max"
    assert judge([LOWER], runs(max=(15.0, 15.2))) == []


def test_runs_that_diverged_are_not_chosen_away():
    errors = {**CLEAR, "e4": (14.1, None, 14.5)}
    assert verdict(LOWER, **errors) == "not tested: 1 of its runs did not converge"


def test_not_to_converge_is_a_claim_too():
    assert verdict(FAILS, d5=(None, None), d7=(None, None)) == "supports: 4 of 4 failed"
    assert verdict(FAILS, d5=(None, 30.0), d7=(None, None)) == "partly: 3 of 4 failed"
    assert verdict(FAILS, d5=(30.0,), d7=(40.0,)) == "contradicts: 0 of 2 failed"


def test_a_run_that_is_no_better_than_chance_failed_too():
    assert verdict(FAILS, d5=(90.0, None), d7=(89.0, 90.4)) == "supports: 4 of 4 failed"
    assert verdict(FAILS, d5=(88.9,), d7=(90.0,)) == "partly: 1 of 2 failed"


def test_without_a_seed_of_all_poolings_nothing_is_tested():
    dropouts = [record("max-dropout:0.5", 0, None), record("max-dropout:0.7", 1, None)]
    others = [record("max", 0, 15.0), record("ensemble:0.3", 1, 14.0), record("ensemble:0.4", 1, 14.0)]
    for judgement in judge([FAILS, LOWER], dropouts + others):
        assert (judgement.seeds, judgement.difference) == (0, None)
        assert judgement.verdict == "not tested: no seed with all of its poolings"


def test_the_table_says_what_was_compared():
    laid_out = sheet(judge([LOWER, FAILS], runs(**CLEAR, d5=(None,), d7=(None,))))
    header, first, second = zip(*([column.header, *column.cells] for column in laid_out.columns), strict=True)
    assert header[1:] == ("Our runs", "Points more", "95 % interval of points more", "Seeds", "Compared")
    assert first == ("a beats b", "supports", "-1.00", "[-1.25, -0.75]", "3", "ensemble:0.3 and 0.4 with max")
    assert second == ("a does not converge", "supports: 2 of 2 failed", "-", "-", "1", "max-dropout:0.5 and 0.7")
    assert laid_out.notes[-1] == (
        "A claim that something does not converge is counted, not tested: a run fails if a loss at its end is no "
        "number, or its test error is 89 % or more, which is no better than chance."
    )
    assert not any("counted, not tested" in note for note in sheet(judge([LOWER], runs(**CLEAR))).notes)
    assert sheet([]) is None


@pytest.mark.parametrize("model", ["cnn", "dfn_mr:56"])
def test_the_decks_own_figures_bear_its_claims_out(model):
    beside = deck.comparable("cifar10", model)
    assert beside.claims
    for claim in beside.claims:
        errors = [[beside.rows[pooling].error for pooling in side] for side in (claim.of, claim.than)]
        if claim.than:
            pairs = list(itertools.product(*errors))
            assert all((of < than) == claim.lower for of, than in pairs), claim.said
        else:
            assert errors[0] == [None] * len(claim.of)
