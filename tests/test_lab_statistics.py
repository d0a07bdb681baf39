"""The statistics of a study against hand-worked answers, and the tables made of them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from scipy import stats
from torch.testing import assert_close

from empool.lab.analyse.statistics import (
    Interval,
    Row,
    binomial_error,
    holm,
    mean_interval,
    relative_improvement,
    summarise,
)
from empool.lab.report import table
from empool.lab.study import deck


def records(errors: dict[str, list[float | None]]) -> list[dict[str, Any]]:
    """Make one record a run from each pooling's test errors by seed; None is a run that diverged."""
    return [
        {"pooling": pooling, "seed": seed, "test_error": error, "converged": error is not None}
        for pooling, values in errors.items()
        for seed, error in enumerate(values)
    ]


def by_pooling(rows: list[Row]) -> dict[str, Row]:
    return {row.pooling: row for row in rows}


def test_mean_spread_and_interval() -> None:
    (row,) = summarise(records({"max": [10.0, 14.0, 12.0]}))
    assert (row.pooling, row.seeds, row.errors, row.runs) == ("max", (0, 1, 2), (10.0, 14.0, 12.0), 3)
    assert (row.mean, row.spread, row.best, row.worst) == (12.0, 2.0, 10.0, 14.0)
    assert row.mean_interval is not None
    # The 97.5 % quantile of t with 2 degrees of freedom is 4.302653; times 2 / sqrt(3).
    assert_close(row.mean_interval.low, 12 - 4.968276, rtol=0, atol=1e-5)
    assert_close(row.mean_interval.high, 12 + 4.968276, rtol=0, atol=1e-5)
    assert row.verdict == "baseline"
    assert row.improvement is None


def test_improvement_over_a_constant_baseline() -> None:
    # x = 20 without spread leaves a plain t interval: (20 - 18) / 20 +- 4.302653 * 1 / sqrt(3) / 20.
    change = relative_improvement([20.0, 20.0, 20.0], [17.0, 18.0, 19.0])
    assert change.estimate is not None
    assert change.interval is not None
    assert_close(change.estimate, 10.0)
    assert_close(change.interval.low, 10 - 12.420689, rtol=0, atol=1e-5)
    assert_close(change.interval.high, 10 + 12.420689, rtol=0, atol=1e-5)


def test_improvement_with_spread_on_both_sides() -> None:
    # Means 22 and 20, s_xx = 4, s_xy = 3, s_yy = 3, t^2 / n = 6.170940; the interval's ends are 100 (1 - r) with
    # (484 - 24.683762) r^2 - 2 (440 - 18.512821) r + (400 - 18.512821) = 0.
    change = relative_improvement([20.0, 22.0, 24.0], [19.0, 19.0, 22.0])
    assert change.estimate is not None
    assert change.interval is not None
    assert_close(change.estimate, 100 * 2 / 22)
    assert_close(change.interval.low, -2.492306, rtol=0, atol=1e-4)
    assert_close(change.interval.high, 18.964208, rtol=0, atol=1e-4)


@pytest.mark.parametrize("number", range(5))
def test_interval_ends_where_the_t_test_does(number: int) -> None:
    generator = np.random.default_rng(number)
    x = generator.normal(15, 0.3, size=5)
    y = x - generator.normal(0.3, 0.2, size=5)
    change = relative_improvement(list(x), list(y))
    assert change.interval is not None
    for end in (change.interval.low, change.interval.high):
        assert_close(float(stats.ttest_1samp(y - (1 - end / 100) * x, 0).pvalue), 0.05, rtol=1e-6, atol=0)
    assert change.interval.excludes_zero() == (stats.ttest_rel(x, y).pvalue < 0.05)


def test_interval_covers_the_truth_in_95_of_100_studies() -> None:
    generator = np.random.default_rng(0)
    studies, covered = 1000, 0
    for _ in range(studies):
        shared = generator.normal(0, 0.3, size=3)
        x = 15 + shared + generator.normal(0, 0.2, size=3)
        y = 14 + shared + generator.normal(0, 0.2, size=3)
        interval = relative_improvement(list(x), list(y)).interval
        assert interval is not None
        covered += interval.low <= 100 / 15 <= interval.high
    # Three binomial standard errors of 1000 studies at 95 %.
    assert abs(covered / studies - 0.95) < 0.021


def test_pairing_uses_the_seed() -> None:
    shuffled = records({"max": [15.0, 16.0, 17.0, 18.0], "average": [15.5, 16.4, 17.6, 18.5]})
    row = by_pooling(summarise(shuffled[:4] + shuffled[:3:-1]))["average"]
    assert row.seeds == (0, 1, 2, 3)
    # Seeds differ by up to 3 points, the poolings by 0.5 in each.
    assert row.verdict == "worse than max"
    assert row.interval is not None
    assert row.interval.high < 0


def test_no_interval_from_one_seed() -> None:
    row = by_pooling(summarise(records({"max": [15.25], "ensemble:0.4": [14.27]})))["ensemble:0.4"]
    assert row.improvement is not None
    assert_close(row.improvement, 6.43, rtol=0, atol=0.005)
    assert (row.spread, row.interval, row.p_value) == (None, None, None)
    assert row.verdict == "not decided by 1 seed"


def test_no_interval_from_equal_differences() -> None:
    # Two seeds that agree to the image are no evidence that seeds do not differ.
    row = by_pooling(summarise(records({"max": [4.0, 5.0], "average": [6.2, 7.2]})))["average"]
    assert (row.interval, row.p_value, row.verdict) == (None, None, "not decided by 2 seeds")


def test_no_interval_over_an_uncertain_baseline() -> None:
    # Two seeds at 10 and 12 %: t = 12.7 makes a mean of 11 +- 12.7, which is not distinguishable from 0.
    change = relative_improvement([10.0, 12.0], [9.0, 10.0])
    assert change.interval is None
    assert_close(change.estimate, 100 * 1.5 / 11)


def test_no_improvement_over_a_perfect_baseline() -> None:
    row = by_pooling(summarise(records({"max": [0.0, 0.0], "average": [1.0, 2.0]})))["average"]
    assert (row.improvement, row.interval, row.verdict) == (None, None, "not decided by 2 seeds")


def test_not_converged_is_counted_and_not_judged() -> None:
    rows = by_pooling(
        summarise(
            records(
                {
                    "max": [15.0, 15.2, 15.1],
                    "max-dropout:0.4": [None, 25.0, 25.5],
                    "average": [None, None, None],
                }
            )
        )
    )
    row = rows["max-dropout:0.4"]
    assert (row.not_converged, row.seeds, row.pairs, row.runs) == ((0,), (1, 2), 2, 3)
    assert (row.mean, row.verdict) == (25.25, "1 of 3 did not converge")
    assert row.adjusted_p is None
    assert (rows["average"].mean, rows["average"].best) == (None, None)
    assert rows["average"].verdict == "3 of 3 did not converge"


def test_seeds_with_which_max_diverged_are_not_chosen_away() -> None:
    clear, weak = [14.0, 14.2, 14.1, 14.3], [14.9, 15.05, 15.05, 15.2]
    whole = by_pooling(summarise(records({"max": [15.0, 15.1, 15.2, 15.3], "average": clear})))["average"]
    assert whole.verdict == "better than max"
    rows = by_pooling(summarise(records({"max": [15.0, 15.1, 15.2, 15.3, None], "average": [*clear, 14.2]})))
    row = rows["average"]
    assert (row.max_failed, row.pairs, row.adjusted_p) == ((4,), 4, None)
    assert row.verdict == "not tested: max did not converge with 1 of its seeds"
    assert rows["max"].verdict == "1 of 5 did not converge"
    # Its p-value takes no part in the correction of the others.
    others = by_pooling(
        summarise(records({"max": [15.0, 15.1, 15.2, 15.3, None], "average": [*clear, 14.2], "ensemble:0.1": weak}))
    )
    assert others["ensemble:0.1"].adjusted_p == others["ensemble:0.1"].p_value
    assert others["ensemble:0.1"].verdict == "better than max"
    (_, lost) = summarise(records({"max": [None], "average": [14.0]}))
    assert lost.verdict == "not tested: max did not converge with 1 of its seeds"


def test_no_max_in_the_study() -> None:
    (row,) = summarise(records({"average": [15.0, 16.0]}))
    assert (row.improvement, row.verdict) == (None, "no max of the same seed")


def test_holm() -> None:
    # Ascending 0.005 * 4, 0.01 * 3, 0.03 * 2, and 0.04 * 1 lifted to the one before it.
    for got, expected in zip(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02], strict=True):
        assert_close(got, expected)
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_withholds_a_claim() -> None:
    baseline = [15.0, 15.1, 15.2, 15.3]
    weak = [14.9, 15.05, 15.05, 15.2]  # differences 0.1, 0.05, 0.15, 0.1: p = 0.016
    alone = by_pooling(summarise(records({"max": baseline, "average": weak})))["average"]
    assert alone.verdict == "better than max"
    undecided = [error + 0.1 * (-1) ** seed for seed, error in enumerate(baseline)]
    others = {f"ensemble:0.{n}": list(undecided) for n in range(1, 5)}
    among = by_pooling(summarise(records({"max": baseline, "average": weak, **others})))["average"]
    assert among.interval == alone.interval
    assert among.interval is not None
    assert among.interval.excludes_zero()
    assert among.adjusted_p is not None
    assert alone.p_value is not None
    assert_close(among.adjusted_p, 5 * alone.p_value)
    assert among.verdict == "not decided by 4 seeds (Holm)"


def test_binomial_error() -> None:
    assert_close(binomial_error(15.0, 10_000), 0.357071, rtol=0, atol=1e-6)


def test_mean_interval_needs_spread() -> None:
    assert mean_interval([3.0]) is None
    assert mean_interval([3.0, 3.0]) is None


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        (records({"max": [1.0]}) * 2, "expected one run a seed, got two of max with seed 0"),
        ([{**records({"max": [1.0]})[0], "test_error": None}], "expected a test error, got None for max with seed 0"),
        (
            [{**records({"max": [1.0]})[0], "test_error": math.nan}],
            "expected a test error, got nan for max with seed 0",
        ),
    ],
)
def test_summarise_refuses(runs: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValueError, match=f"^summarise: {message}$"):
        summarise(runs)


def test_relative_improvement_refuses_what_is_not_paired() -> None:
    with pytest.raises(ValueError, match="expected pairs of errors, got 2 and 1"):
        relative_improvement([1.0, 2.0], [1.0])


def test_the_decks_improvements_follow_from_its_errors() -> None:
    relative_to_emp = {"max-dropout:0.3", "max-dropout:0.4"}
    for pooling, figure in deck.TABLE_1.items():
        if figure.error is not None and figure.improvement is not None:
            baseline = 15.51 if pooling in relative_to_emp else 15.25
            assert_close(
                100 * (baseline - figure.error) / baseline, figure.improvement, rtol=0, atol=0.011, msg=pooling
            )
    for (model, pooling), figure in deck.TABLE_2.items():
        assert figure.error is not None
        assert figure.improvement is not None
        # The deck rounds errors to 0.01 after it has computed with them.
        assert_close(100 * (5.50 - figure.error) / 5.50, figure.improvement, rtol=0, atol=0.1, msg=f"{model} {pooling}")


@pytest.mark.parametrize(
    ("data", "model", "name"),
    [
        ("cifar10", "cnn", "Table 1"),
        ("/somewhere/CIFAR-10", "cnn", "Table 1"),
        ("cifar10", "dfn_mr:56", "Table 2"),
        ("cifar10", "dfn_mr:20", "Table 2, of DFN-MR with 56 layers"),
        ("cifar10", "resnet:110", "Table 2"),
        ("cifar10", "resnet:20", None),
        ("cifar100", "cnn", None),
        ("digits", "cnn", None),
    ],
)
def test_the_deck_stands_only_beside_its_own_data_and_network(data: str, model: str, name: str | None) -> None:
    beside = deck.comparable(data, model)
    assert (beside and beside.name) == name


def test_a_shallower_dfn_mr_stands_beside_the_decks() -> None:
    deep, shallow = deck.comparable("cifar10", "dfn_mr:56"), deck.comparable("cifar10", "dfn_mr:20")
    assert deep is not None
    assert shallow is not None
    assert (shallow.rows, shallow.claims, shallow.baseline) == (deep.rows, deep.claims, deep.baseline)


def test_the_network_as_published_stands_beside_no_pooling() -> None:
    beside = deck.comparable("cifar10", "dfn_mr:56")
    assert beside is not None
    assert list(beside.rows)[:3] == ["none", "max", "ensemble:0.05"]
    assert beside.rows["none"] == deck.Figure(5.50, 0.00)
    row = table.markdown(table.columns([Row("none", (0,), (5.4,), (), mean=5.4)], beside)).splitlines()[-1]
    assert row.endswith("| 5.50 | +0.00 |")


ROWS = [
    Row("max", (0, 1), (15.0, 15.5), (), mean=15.25, spread=0.353553, pairs=2, verdict="baseline"),
    Row(
        "ensemble:0.4",
        (0, 1),
        (14.0, 14.54),
        (),
        mean=14.27,
        spread=0.381838,
        pairs=2,
        improvement=6.4262,
        interval=Interval(-1.25, 13.0),
        verdict="not decided by 2 seeds",
    ),
    Row("max-dropout:0.7", (), (), (0, 1), verdict="2 of 2 did not converge"),
]


def test_markdown() -> None:
    assert table.markdown(table.columns(ROWS, deck.comparable("cifar10", "cnn"))) == (
        "| Pooling | Runs | Test error % | Spread | Best to worst | Improvement over max % | 95 % interval "
        "| What the seeds support | Deck error % | Deck improvement % |\n"
        "| :--- | ---: | ---: | ---: | ---: | ---: | ---: | :--- | ---: | ---: |\n"
        "| max | 2 | 15.25 | 0.35 | 15.00\N{EN DASH}15.50 | - | - | baseline | 15.25 | +0.00 |\n"
        "| ensemble:0.4 | 2 | 14.27 | 0.38 | 14.00\N{EN DASH}14.54 | +6.4 | [-1.2, +13.0] | not decided by 2 seeds "
        "| 14.27 | +6.43 |\n"
        "| max-dropout:0.7 | 2 | - | - | - | - | - | 2 of 2 did not converge | not converged | - |\n"
    )


def test_latex() -> None:
    assert table.latex(ROWS) == (
        "\\begin{tabular}{lrrrrrrl}\n\\toprule\n"
        "Pooling & Runs & Test error \\% & Spread & Best to worst & Improvement over max \\% & 95 \\% interval"
        " & What the seeds support \\\\\n\\midrule\n"
        "max & 2 & 15.25 & 0.35 & 15.00--15.50 & - & - & baseline \\\\\n"
        "ensemble:0.4 & 2 & 14.27 & 0.38 & 14.00--14.54 & $+$6.4 & {[$-$1.2, $+$13.0]} & not decided by 2 seeds \\\\\n"
        "max-dropout:0.7 & 2 & - & - & - & - & - & 2 of 2 did not converge \\\\\n"
        "\\bottomrule\n\\end{tabular}\n"
    )


def test_latex_escape() -> None:
    assert table.latex_escape("50 % & $x_1 #{a}\\~") == r"50 \% \& \$x\_1 \#\{a\}\textbackslash{}\textasciitilde{}"


def test_terminal_fits_80_columns() -> None:
    console = Console(width=80, record=True, file=None, force_terminal=False)
    with console.capture() as capture:
        console.print(table.terminal(ROWS, deck.comparable("cifar10", "cnn")))
    lines = capture.get().splitlines()
    (line,) = [line for line in lines if "ensemble:0.4" in line]
    assert line.split()[:5] == ["ensemble:0.4", "14.27", "+6.4", "[-1.2,", "+13.0]"]
    assert line.split()[-1] == "14.27"
    assert "\N{HORIZONTAL ELLIPSIS}" not in capture.get()


def test_a_row_that_is_not_tested_is_said_briefly_and_sorted_last() -> None:
    untested = replace(
        ROWS[1], max_failed=(1,), verdict="not tested: max did not converge with 1 of its seeds", interval=None
    )
    console = Console(width=80, file=None, force_terminal=False)
    with console.capture() as capture:
        console.print(table.terminal([ROWS[0], untested]))
    (line,) = [line for line in capture.get().splitlines() if "ensemble:0.4" in line]
    assert line.split()[-2:] == ["not", "tested"]
    (verdicts,) = [column for column in table.columns([ROWS[0], untested]) if column.header == "What the seeds support"]
    assert verdicts.values == [1, None]


def test_terminal_has_nll_and_ece_below() -> None:
    rows = [replace(row, nll=0.51234, ece=12.346 if row.errors else None) for row in ROWS]
    console = Console(width=80, file=None, force_terminal=False)
    with console.capture() as capture:
        console.print(table.terminal(rows, deck.comparable("cifar10", "cnn")))
    lines = [line.split() for line in capture.get().splitlines()]
    below = lines[lines.index(["Pooling", "Test", "NLL", "Test", "ECE", "%"]) :]
    assert ["ensemble:0.4", "0.5123", "12.35"] in below
    assert ["max-dropout:0.7", "0.5123", "-"] in below
    assert "\N{HORIZONTAL ELLIPSIS}" not in capture.get()
