"""What a study found, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from empool.lab.analyse.statistics import BASELINE, Row, binomial_error
from empool.lab.study import deck

Record = Mapping[str, Any]

# Sizes of the test splits of the data sets with a name, for the words about what a finite test set can tell.
TEST_IMAGES = {"digits": 355, "cifar10": 10_000, "cifar100": 10_000, "fashion_mnist": 10_000, "svhn": 26_032}


def answer(rows: Sequence[Row], runs: Sequence[Record]) -> list[str]:
    """Say in sentences what was compared and what the seeds support."""
    first = runs[0]
    seeds = max(row.runs for row in rows)
    trained = f"trained for {count(first.get('epochs'), 'epoch')}" if first.get("epochs") else "trained"
    images = f" on {images_trained(first):,} images" if first.get("train_limit") else ""
    told = [
        f"{count(len(rows), 'pooling')} compared in {first['model']} on {data_name(first)}, {trained}{images}, "
        f"{seeds_each(rows)}."
    ]
    reached = [row for row in rows if row.mean is not None]
    lowest = min(reached, key=lambda row: row.mean or 0.0, default=None)
    baseline = next((row for row in reached if row.pooling == BASELINE), None)
    if lowest is not None:
        against = f"; {BASELINE} has {baseline.mean:.2f} %" if baseline and baseline is not lowest else ""
        told.append(
            f"Lowest {'mean ' if seeds > 1 else ''}test error: {lowest.pooling} with {lowest.mean:.2f} %{against}."
        )
    for verdict, words in (("better than max", "Better than max"), ("worse than max", "Worse than max")):
        named = [row.pooling for row in rows if row.verdict == verdict]
        if named:
            told.append(f"{words}, as far as these seeds can show: {listed(named)}.")
    undecided = [row.pooling for row in rows if row.verdict.startswith("not decided")]
    if baseline is None and BASELINE not in (row.pooling for row in rows):
        told.append("There is no run with max, so nothing is said about improvement over it.")
    elif seeds == 1:
        told.append(
            "One seed supports no claim about which pooling is better: how far seeds differ is not known from it."
        )
    elif undecided:
        claimed = any(row.verdict in ("better than max", "worse than max") for row in rows)
        told.append(
            f"Not decided by these seeds: {listed(undecided)}."
            if claimed
            else "These seeds do not decide whether any pooling is better or worse than max."
        )
    untested = [row.pooling for row in rows if row.verdict.startswith("not tested")]
    if untested:
        told.append(f"Not tested, since {BASELINE} did not converge with all of their seeds: {listed(untested)}.")
    failed = [f"{row.pooling} ({len(row.not_converged)} of {row.runs})" for row in rows if row.not_converged]
    if failed:
        told.append(f"Did not converge: {', '.join(failed)}.")
    return told


def seeds_each(rows: Sequence[Row]) -> str:
    """Say how many seeds the rows have: "3 seeds each", or "1 to 3 seeds each"."""
    fewest, most = min(row.runs for row in rows), max(row.runs for row in rows)
    return f"{'' if fewest == most else f'{fewest} to '}{count(most, 'seed')} each"


def listed(poolings: Sequence[str]) -> str:
    """List spellings, each method once: "average, ensemble:0.1 and 0.2"."""
    methods: dict[str, list[str]] = {}
    for pooling in poolings:
        methods.setdefault(pooling.partition(":")[0], []).append(pooling)
    listed = []
    for first, *rest in methods.values():
        values = [pooling.partition(":")[2] for pooling in rest]
        listed.append(f"{', '.join([first, *values[:-1]])} and {values[-1]}" if values else first)
    return "; ".join(listed) if any(len(found) > 1 for found in methods.values()) else ", ".join(listed)


def remarks(rows: Sequence[Row], runs: Sequence[Record], beside: deck.Table | None) -> list[str]:
    """Say what to know when reading the table."""
    said = [
        "Test error is that of the last epoch, in percent of the test images, averaged over the runs that converged; "
        "spread is the sample standard deviation over seeds. Train error, in the list of runs, is that of the training "
        "images without augmentation, in the testing phase, after the last epoch.",
    ]
    if any(row.nll is not None for row in rows):
        said.append(
            "NLL is the negative log-likelihood of the test images' classes, that is the mean cross entropy, in nats; "
            "averaged like the test error."
        )
    if any(row.ece is not None for row in rows):
        said.append(
            "ECE is the expected calibration error of the test images in percent: how far the probability of the "
            "predicted class is from the share of right answers, over 15 bins of that probability; averaged likewise."
        )
    tested = sum(row.adjusted_p is not None for row in rows)
    if tested:
        said.append(
            "Improvement is (max - pooling) / max of the mean test errors. Its interval pairs runs of the same seed "
            "(same initial weights, same order of the data) and is Fieller's, for a ratio of paired means. A row is "
            "called better or worse only where the interval excludes 0 and the paired t test still holds at 5 % after "
            f"Holm's correction over the {count(tested, 'comparison')} of this table; (Holm) marks a row that only "
            "the correction leaves undecided."
        )
    else:
        said.append(
            "An interval needs two seeds or more whose differences from max are not all equal; here there is none."
        )
    images = images_tested(runs[0])
    means = [row.mean for row in rows if row.mean is not None]
    if images and means:
        typical = sorted(means)[len(means) // 2]
        said.append(
            f"The test set is finite: an error of {typical:.1f} % counted on {images:,} images has a binomial standard "
            f"error of {binomial_error(typical, images):.2f} points. All poolings see the same images, so most of that "
            "moves them together; but the intervals hold for this test set and say nothing about another."
        )
    if beside is not None:
        said.append(
            f"The deck's columns are its {beside.name} ({deck.SOURCE}), improvement relative to {beside.baseline}. It "
            "names neither its recipe nor its number of runs, so its protocol differs from ours: compare the pattern, "
            "not the digits."
        )
        if beside.rows is deck.TABLE_1 and any(row.pooling in ("max-dropout:0.3", "max-dropout:0.4") for row in rows):
            said.append(
                "The deck's improvements for max-dropout at p = 0.3 and 0.4 are as printed; its own errors give -8.79 "
                "and -70.03 relative to max (the printed ones are relative to its EMP at p = 0.05)."
            )
    return said


def images_trained(record: Record) -> int | None:
    """Return the number of training images behind a record, if it is known; older ones say only its limit."""
    return record.get("train_images") or record.get("train_limit")


def images_tested(record: Record) -> int | None:
    """Return the number of test images behind a record's test error, if it is known."""
    whole = record.get("test_images") or TEST_IMAGES.get(data_name(record))
    limit = record.get("test_limit")
    return min(whole, limit) if whole and limit else whole or limit


def data_name(record: Record) -> str:
    """Name the data set of a record."""
    return PurePath(str(record["data"])).name


def count(number: Any, noun: str) -> str:
    """Write a number with its noun."""
    return f"{number} {noun}" if number == 1 else f"{number:,} {noun}s"
