"""What a study found, in words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from empool.lab.analyse.records import Record, data_name
from empool.lab.analyse.statistics import Family, Row, Rule, Summary, Verdict
from empool.lab.study import paper


def answer(summary: Summary, runs: Sequence[Record]) -> list[str]:
    """Say in sentences what was compared and what the runs support."""
    rows, baseline = summary.rows, label(summary.baseline)
    told = [f"{count(len(rows), 'pooling')} compared: {setting(runs)}."]
    if means := {row.pooling: row.mean for row in rows if row.mean is not None}:
        lowest = min(means, key=means.__getitem__)
        level = means.get(summary.baseline) if lowest != summary.baseline else None
        against = f"; {baseline} has {level:.2f} %" if level is not None else ""
        told.append(f"Lowest mean test error: {label(lowest)} with {means[lowest]:.2f} %{against}.")
    told += _decided(summary)
    failed = [f"{label(row.pooling)} ({len(row.not_converged)} of {row.runs})" for row in rows if row.not_converged]
    return [*told, f"Did not converge: {', '.join(failed)}."] if failed else told


def _decided(summary: Summary) -> list[str]:
    """Say which rows the runs decide, by test error and by NLL."""
    baseline, reference = label(summary.baseline), summary.row(summary.baseline)
    if reference is None:
        return [f"There is no run with {baseline}, so nothing is said about differences from it."]
    if reference.not_converged:
        return [f"Nothing is tested, since {baseline} did not always converge."]
    if max(row.runs for row in summary.rows) < 2:
        return ["One seed can't show which pooling is better: it says nothing of the spread over seeds."]

    others = len(summary.rows) - 1

    def named(words: str, poolings: Sequence[str]) -> list[str]:
        all_others = f"all {others} other poolings" if 3 < others == len(poolings) else listed(poolings)
        return [f"{words}: {all_others}."] if poolings else []

    by_error, by_nll = summary.error.by_verdict(), summary.nll.by_verdict()
    told = named(f"Lower test error than {baseline}", by_error[Verdict.BETTER])
    told += named(f"Higher test error than {baseline}", by_error[Verdict.WORSE])
    if told or not by_error[Verdict.UNDECIDED]:
        told += named("Not decided by these seeds", by_error[Verdict.UNDECIDED])
    else:
        told = [f"These seeds do not decide whether any pooling has a lower or higher test error than {baseline}."]
    told += named("Not tested (a single run)", by_error[Verdict.UNTESTED])
    told += named(f"Lower negative log-likelihood (NLL) than {baseline}", by_nll[Verdict.BETTER])
    return told + named(f"Higher negative log-likelihood (NLL) than {baseline}", by_nll[Verdict.WORSE])


def sentence(summary: Summary) -> str:
    """Say in one sentence how the poolings that were tested differ from the baseline, by test error and by NLL."""
    tested = [row for row in summary.rows if row.error.interval]
    if not tested:
        failed = any(row.not_converged for row in summary.rows)
        without = ", none of which fails (does no better than guessing)" if failed else ""
        needed = f"two seeds or more of {label(summary.baseline)} and of another pooling{without}"
        return f"These runs decide nothing: that needs {needed}."
    parts: list[str] = []
    for row in tested:
        difference, interval = row.error.difference or 0.0, row.error.interval
        assert interval is not None
        low, high = (interval.low, interval.high) if difference > 0 else (-interval.high, -interval.low)
        parts.append(
            f"{label(row.pooling)} has {abs(difference):.1f} points {'higher' if difference > 0 else 'lower'} test "
            f"error{'' if parts else f' than {label(summary.baseline)}'} (95 % interval {low:.1f} to {high:.1f}"
            f"{', not decided' if row.error.verdict is Verdict.UNDECIDED else ''})"
        )
    named = summary.nll.by_verdict()
    words = {Verdict.BETTER: "lower NLL", Verdict.WORSE: "higher NLL", Verdict.UNDECIDED: "NLL not decided"}
    nll = [f"; {said}: {listed(named[verdict])}" for verdict, said in words.items() if named[verdict]]
    return f"Over {seeds_each(tested).removesuffix(' each')}, {', '.join(parts)}{''.join(nll)}."


def label(pooling: str) -> str:
    """Name a pooling so that the network without one reads as what it is."""
    return "none (strides)" if pooling == "none" else pooling


def method(pooling: str) -> str:
    """Give the method of a spelling such as "ensemble:0.3" or "max@learning_rate=0.1"."""
    return re.split("[:@]", pooling, maxsplit=1)[0]


def setting(records: Sequence[Record]) -> str:
    """Say in a few words what was trained on what."""
    first = records[0]
    said = [
        f"{first['model']} on {data_name(first)}",
        f"{first['train_images']:,} images" if first["train_images"] else "all images",
        count(first["epochs"], "epoch") if first.get("epochs") else "",
        "augmented" if first["augment"] != "none" else "no augmentation",
        count(len({record["seed"] for record in records}), "seed"),
        "GPU" if str(first.get("device")).startswith("cuda") else "",
    ]
    return ", ".join(filter(None, said))


def seeds_each(rows: Sequence[Row]) -> str:
    """Say how many seeds the rows have: "3 seeds each", or "1 to 3 seeds each"."""
    fewest, most = min(row.runs for row in rows), max(row.runs for row in rows)
    return f"{'' if fewest == most else f'{fewest} to '}{count(most, 'seed')} each"


def listed(poolings: Sequence[str]) -> str:
    """List spellings, each method once: "average, ensemble:0.1 and 0.2"."""
    methods: dict[str, list[str]] = {}
    for pooling in poolings:
        own = methods.setdefault(method(pooling), [])
        own.append(pooling.partition(":")[2] if own else label(pooling))
    told = [", ".join(own[:-1]) + " and " + own[-1] if own[1:] else own[0] for own in methods.values()]
    return ("; " if len(methods) < len(poolings) else ", ").join(told)


def remarks(summary: Summary, beside: paper.Table | None) -> list[str]:
    """Say what to know when reading the table of test errors."""
    baseline = label(summary.baseline)
    said = [
        "Test error: of the last epoch, in percent, averaged over the runs that converged. Spread: sample standard "
        f"deviation over seeds. Points: mean test error minus that of {baseline}. Improvement: how much lower it is, "
        f"in percent of that of {baseline}.",
        _how(summary.error, baseline, "Test error"),
        "The second interval also resamples the test images (two-way bootstrap); no verdict uses it."
        if any(row.sampled for row in summary.rows)
        else "The intervals hold for this test set and say nothing about another.",
    ]
    if beside is not None:
        said.append(
            f"The paper's columns are {beside.name} of {paper.SOURCE}, improvement relative to {beside.baseline}. The "
            "paper names neither its recipe nor its number of runs: compare the pattern, not the digits."
        )
        if beside.rows is paper.TABLE_1 and any(summary.row(f"max-dropout:{p}") for p in (0.3, 0.4)):
            own = "its own errors give -8.79 and -70.03"
            said[-1] += f" Its improvements for max-dropout at p = 0.3 and 0.4 are as printed; {own}."
    return said


def nll_remarks(summary: Summary) -> list[str]:
    """Say what to know when reading the table of negative log-likelihoods."""
    return [
        "NLL: mean cross entropy of the test images in nats. ECE: expected calibration error in percent, how far the "
        "probability of the predicted class is from the share of right answers, over 15 bins.",
        _how(summary.nll, label(summary.baseline), "NLL, apart from the test error,"),
    ]


def _how(family: Family, baseline: str, score: str) -> str:
    """Say how a family of comparisons was made."""
    if family.rule is None:
        return "Nothing is tested: that needs two runs or more of a pooling and of the baseline, not all equal."
    levene = "" if family.levene is None else f" (Levene's test: p = {family.levene:.2g})"
    spreads = f"All rows have one pooled spread, {family.spread:.2g}{levene}."
    if family.rule is Rule.WELCH:
        spreads = f"The spreads differ{levene}; the intervals (Bonferroni) are a little wider than the test."
    return (
        f"{score} is tested by {family.rule.value} over {count(family.tested, 'comparison')} with {baseline}, at 5 % "
        f"in all; the 95 % intervals are simultaneous. {spreads} Runs of one seed are not paired."
    )


def count(number: Any, noun: str) -> str:
    """Write a number with its noun."""
    return f"{number} {noun}" if number == 1 else f"{number:,} {noun}s"
