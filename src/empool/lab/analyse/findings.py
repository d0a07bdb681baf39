"""What a study found, in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from empool.lab.analyse import records as recorded
from empool.lab.analyse.records import Record
from empool.lab.analyse.statistics import Family, Row, Rule, Summary, Verdict, method
from empool.lab.study import paper


def answer(summary: Summary, runs: Sequence[Record]) -> list[str]:
    """Say in sentences what was compared and what the runs support."""
    rows, baseline, first = summary.rows, label(summary.baseline), runs[0]
    trained = f"trained for {count(first.get('epochs'), 'epoch')}" if first.get("epochs") else "trained"
    images = recorded.images_trained(first)
    told = [
        f"{count(len(rows), 'pooling')} compared in {first['model']} on {recorded.data_name(first)}, {trained}"
        f"{f' on {images:,} images' if images else ''}{', augmented' if recorded.augmented(first) else ''}, "
        f"{seeds_each(rows)}."
    ]
    means = {row.pooling: row.mean for row in rows if row.mean is not None}
    if means:
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
        return ["One seed supports no claim about which pooling is better: how far seeds differ is not known from it."]
    by_error, by_nll = summary.error.by_verdict(), summary.nll.by_verdict()
    told = [
        f"{words} than {baseline}: {_all_or(summary, by_error[verdict])}."
        for verdict, words in ((Verdict.BETTER, "Fewer test errors"), (Verdict.WORSE, "More test errors"))
        if by_error[verdict]
    ]
    if by_error[Verdict.UNDECIDED]:
        told.append(
            f"Not decided by these seeds: {listed(by_error[Verdict.UNDECIDED])}."
            if told
            else f"These seeds do not decide whether any pooling has more or fewer test errors than {baseline}."
        )
    if by_error[Verdict.UNTESTED]:
        told.append(f"Not tested, for want of a second run: {listed(by_error[Verdict.UNTESTED])}.")
    return told + [
        f"{words} negative log-likelihood (NLL) than {baseline}: {_all_or(summary, by_nll[verdict])}."
        for verdict, words in ((Verdict.BETTER, "Lower"), (Verdict.WORSE, "Higher"))
        if by_nll[verdict]
    ]


def _all_or(summary: Summary, poolings: Sequence[str]) -> str:
    others = len(summary.rows) - 1
    return f"all {others} other poolings" if 3 < others == len(poolings) else listed(poolings)


def sentence(summary: Summary) -> str:
    """Say in one sentence how the poolings that were tested differ from the baseline, by test error and by NLL."""
    tested = [row for row in summary.rows if row.error.interval]
    if not tested:
        return f"These runs decide nothing: that needs two seeds or more of {label(summary.baseline)} and of another."
    parts: list[str] = []
    for row in tested:
        difference, interval = row.error.difference or 0.0, row.error.interval
        assert interval is not None
        low, high = (interval.low, interval.high) if difference > 0 else (-interval.high, -interval.low)
        parts.append(
            f"{label(row.pooling)} has {abs(difference):.1f} points {'more' if difference > 0 else 'fewer'} test errors"
            f"{'' if parts else f' than {label(summary.baseline)}'} (95 % interval {low:.1f} to {high:.1f}"
            f"{', not decided' if row.error.verdict is Verdict.UNDECIDED else ''})"
        )
    named = summary.nll.by_verdict()
    nll = [
        f"; {words} NLL: {listed(named[verdict])}"
        for verdict, words in ((Verdict.BETTER, "lower"), (Verdict.WORSE, "higher"), (Verdict.UNDECIDED, "undecided"))
        if named[verdict]
    ]
    return f"Over {seeds_each(tested).removesuffix(' each')}, {', '.join(parts)}{''.join(nll)}."


def label(pooling: str) -> str:
    """Name a pooling so that the network without one reads as what it is."""
    return "none (strides)" if pooling == "none" else pooling


def setting(records: Sequence[Record]) -> str:
    """Say in a few words what was trained on what."""
    first, images = records[0], recorded.images_trained(records[0])
    said = [
        f"{first['model']} on {recorded.data_name(first)}",
        f"{images:,} images" if images else "all images",
        count(first["epochs"], "epoch") if first.get("epochs") else "",
        "augmented" if recorded.augmented(first) else "no augmentation",
        count(len({record["seed"] for record in records}), "seed"),
        "GPU" if str(first.get("device")).startswith("cuda") else "",
    ]
    return ", ".join(part for part in said if part)


def seeds_each(rows: Sequence[Row]) -> str:
    """Say how many seeds the rows have: "3 seeds each", or "1 to 3 seeds each"."""
    fewest, most = min(row.runs for row in rows), max(row.runs for row in rows)
    return f"{'' if fewest == most else f'{fewest} to '}{count(most, 'seed')} each"


def listed(poolings: Sequence[str]) -> str:
    """List spellings, each method once: "average, ensemble:0.1 and 0.2"."""
    methods: dict[str, list[str]] = {}
    for pooling in poolings:
        methods.setdefault(method(pooling), []).append(label(pooling))
    told = []
    for first, *rest in methods.values():
        values = [pooling.partition(":")[2] for pooling in rest]
        told.append(f"{', '.join([first, *values[:-1]])} and {values[-1]}" if values else first)
    return ("; " if len(methods) < len(poolings) else ", ").join(told)


def remarks(summary: Summary, runs: Sequence[Record], beside: paper.Table | None) -> list[str]:
    """Say what to know when reading the table of test errors."""
    baseline = label(summary.baseline)
    said = [
        "Test error: of the last epoch, in percent, averaged over the runs that converged. Spread: sample standard "
        f"deviation over seeds. Points: mean test error less that of {baseline}. Improvement: the same, relative to "
        f"{baseline}, as papers print it.",
        _how(summary.error, baseline, "test error"),
    ]
    if any(row.sampled for row in summary.rows):
        said.append(
            "The second interval also takes the test images for a sample: seeds and images are resampled (two-way "
            "bootstrap). It stands beside the test and decides nothing."
        )
    else:
        said += _finite_test_set(summary.rows, recorded.images_tested(runs[0]))
    if beside is not None:
        said.append(
            f"The paper's columns are {beside.name} of {paper.SOURCE}, improvement relative to {beside.baseline}. The "
            "paper names neither its recipe nor its number of runs: compare the pattern, not the digits."
        )
        if beside.rows is paper.TABLE_1 and any(summary.row(f"max-dropout:{p}") for p in (0.3, 0.4)):
            said.append(
                "The paper's improvements for max-dropout at p = 0.3 and 0.4 are as printed; its own errors give -8.79 "
                "and -70.03 relative to max."
            )
    return said


def nll_remarks(summary: Summary) -> list[str]:
    """Say what to know when reading the table of negative log-likelihoods."""
    return [
        "NLL: negative log-likelihood of the test images' classes, that is the mean cross entropy, in nats. ECE: "
        "expected calibration error in percent, how far the probability of the predicted class is from the share of "
        "right answers, over 15 bins. Both are averaged over the runs that converged.",
        _how(summary.nll, label(summary.baseline), "NLL")
        + (" It is a family of its own beside that of test errors." if summary.nll.rule else ""),
    ]


def _how(family: Family, baseline: str, score: str) -> str:
    """Say how a family of comparisons was made."""
    if family.rule is None:
        return "Nothing is tested: that needs two runs or more of a pooling and of the baseline, not all equal."
    several = family.tested > 1
    over = f"over the {family.tested} comparisons with {baseline}, at 5 % in all" if several else "at 5 %"
    at_once = "The 95 % intervals hold all at once" if several else "The interval is one of 95 %"
    levene = "" if family.levene is None else f" (Levene's test: p = {family.levene:.2g})"
    if family.rule is Rule.DUNNETT:
        tested = f"{score[0].upper()}{score[1:]} is tested by {family.rule.value} {over}. {at_once}."
        return f"{tested} All rows share one spread, {family.spread:.2g}{levene}. Runs of one seed are not paired."
    wider = " (Bonferroni), so they are a little wider than the test" if several else ""
    return (
        f"The spreads differ{levene}, so {score} is tested by {family.rule.value} {over}. {at_once}{wider}. Runs of "
        "one seed are not paired."
    )


def _finite_test_set(rows: Sequence[Row], images: int | None) -> list[str]:
    means = sorted(row.mean for row in rows if row.mean is not None)
    if not images or not means:
        return []
    typical = means[len(means) // 2]
    error = 100 * math.sqrt(typical / 100 * (1 - typical / 100) / images)
    return [
        f"The test set is finite: an error of {typical:.1f} % counted on {images:,} images has a binomial standard "
        f"error of {error:.2f} points. All poolings see the same images, so most of that moves them together; but the "
        "intervals hold for this test set and say nothing about another."
    ]


def count(number: Any, noun: str) -> str:
    """Write a number with its noun."""
    return f"{number} {noun}" if number == 1 else f"{number:,} {noun}s"
