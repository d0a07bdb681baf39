"""What a study's runs say to the deck's claims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from empool.lab.analyse.findings import Record, count, listed
from empool.lab.analyse.statistics import LEVEL, Interval, holm, mean_interval
from empool.lab.report import table
from empool.lab.report.table import Column, Sheet
from empool.lab.study.deck import Claim

# Percent, of a run that failed to learn. The deck's claims are of CIFAR-10, where guessing among ten classes errs on
# 90 %; a network that says the same of all images, or nearly so, can be a little below.
_CHANCE = 90.0 - 1.0


@dataclass(frozen=True)
class Judgement:
    """What the runs say to one claim.

    Attributes:
        claim: it.
        seeds: number of seeds with which all its poolings were trained and converged; those with which all were
            trained where the claim is that they do not converge.
        difference: the mean test error of `claim.of` less that of `claim.than`, each the mean over its poolings, in
            points; None without seeds.
        interval: its 95 % t interval over seeds, which are paired; None where they give none.
        p_value: of the paired t test that the difference is zero.
        verdict: in words, what the runs support.
    """

    claim: Claim
    seeds: int
    difference: float | None = None
    interval: Interval | None = None
    p_value: float | None = None
    verdict: str = ""


def judge(claims: Sequence[Claim], records: Sequence[Record]) -> list[Judgement]:
    """Hold claims against runs that may be compared; Holm's correction is over the claims that are tested.

    Claims of which no pooling was trained are left out.
    """
    errors: dict[str, dict[int, float | None]] = {}
    for record in records:
        error = record["test_error"] if record["converged"] else None
        errors.setdefault(record["pooling"], {})[record["seed"]] = error
    judged = [_judge(claim, errors) for claim in claims if any(pooling in errors for pooling in claim.of)]
    tested = [i for i, judgement in enumerate(judged) if judgement.p_value is not None]
    for i, adjusted in zip(tested, holm([judged[i].p_value or 0.0 for i in tested]), strict=True):
        judged[i] = replace(judged[i], verdict=_verdict(judged[i], adjusted))
    return judged


def _judge(claim: Claim, errors: Mapping[str, Mapping[int, float | None]]) -> Judgement:
    poolings = (*claim.of, *claim.than)
    missing = [pooling for pooling in poolings if pooling not in errors]
    if missing:
        return Judgement(claim, 0, verdict=f"not tested: no run with {', '.join(missing)}")
    seeds = sorted(set.intersection(*(set(errors[pooling]) for pooling in poolings)))
    if not seeds:
        return Judgement(claim, 0, verdict="not tested: no seed with all of its poolings")
    runs = [[errors[pooling][seed] for pooling in poolings] for seed in seeds]
    if not claim.than:
        return Judgement(claim, len(seeds), verdict=_counted([error for run in runs for error in run]))
    failed = sum(error is None for run in runs for error in run)
    if failed:  # The seeds that are left would be chosen by their outcome.
        return Judgement(claim, len(seeds), verdict=f"not tested: {failed} of its runs did not converge")
    differences = [
        float(np.mean(run[: len(claim.of)]) - np.mean(run[len(claim.of) :])) for run in np.array(runs, dtype=float)
    ]
    interval = mean_interval(differences)
    return Judgement(
        claim,
        len(seeds),
        float(np.mean(differences)),
        interval,
        float(stats.ttest_1samp(differences, 0.0).pvalue) if interval else None,
        f"not decided by {count(len(seeds), 'seed')}",
    )


def _counted(errors: Sequence[float | None]) -> str:
    failed = sum(error is None or error >= _CHANCE for error in errors)
    verdict = {len(errors): "supports", 0: "contradicts"}.get(failed, "partly")
    return f"{verdict}: {failed} of {len(errors)} failed"


def _verdict(judgement: Judgement, adjusted: float) -> str:
    interval = judgement.interval
    if interval is None or not interval.excludes_zero():
        return judgement.verdict
    if adjusted >= 1 - LEVEL:
        return f"{judgement.verdict} (Holm)"
    return "supports" if (interval.high < 0) == judgement.claim.lower else "contradicts"


def sheet(judged: Sequence[Judgement]) -> Sheet | None:
    """Lay out a row for each claim; None without claims."""
    if not judged:
        return None
    intervals = [judgement.interval for judgement in judged]
    return Sheet(
        "The deck's claims, and what our runs say to them",
        [
            Column("The deck's claim", [judgement.claim.said for judgement in judged], numeric=False),
            Column("Our runs", [judgement.verdict for judgement in judged], numeric=False),
            table.numbers("Points more", [judgement.difference for judgement in judged], 2, sign=True),
            table.bounded("95 % interval of points more", intervals, 2),
            Column("Seeds", [str(judgement.seeds) for judgement in judged]),
            Column("Compared", [_compared(judgement.claim) for judgement in judged], numeric=False),
        ],
        _notes(judged),
    )


def _compared(claim: Claim) -> str:
    return f"{listed(claim.of)} with {listed(claim.than)}" if claim.than else listed(claim.of)


def _notes(judged: Sequence[Judgement]) -> list[str]:
    tested = sum(judgement.p_value is not None for judgement in judged)
    said = [
        "Points more: the mean test error of the poolings named first less that of those named after them, of runs of "
        "the same seed, with its t interval over seeds. The deck's figures chose what is compared, not ours."
    ]
    if tested:
        said.append(
            "Our runs support or contradict a claim only where the interval excludes 0 and the paired t test still "
            f"holds at 5 % after Holm's correction over the {count(tested, 'claim')} tested; (Holm) marks one that "
            "only the correction leaves undecided."
        )
    if any(not judgement.claim.than for judgement in judged):
        said.append(
            "A claim that something does not converge is counted, not tested: a run fails if a loss at its end is no "
            f"number, or its test error is {_CHANCE:.0f} % or more, which is no better than chance."
        )
    return said
