"""What a study's runs say about the claims of Zhang and Wu (2017)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import NamedTuple

import numpy as np
from scipy import stats

from empool.lab.analyse.records import Record, canonical
from empool.lab.analyse.statistics import LEVEL, Family, Interval, Row, Rule, Summary, holm
from empool.lab.study import paper
from empool.lab.study.paper import Claim


class Support(Enum):
    """What the runs say about a claim."""

    SUPPORTED = "supported"
    CONTRADICTED = "contradicted"
    PARTLY = "partly supported"
    UNDECIDED = "not decided"
    UNTESTED = "not tested"


class Judgement(NamedTuple):
    """What the runs say about one claim."""

    claim: Claim
    verdict: Support = Support.UNTESTED
    reason: str = ""  # why it is not tested, or what was counted, in words; else empty
    difference: float | None = None  # mean test error of `claim.of` less that of `claim.than`; None if not tested
    interval: Interval | None = None  # its 95 % interval; all intervals hold at once with that confidence
    p_value: float | None = None  # after Holm's correction over the claims that are tested


def beside(records: Sequence[Record]) -> paper.Table | None:
    """Return the paper's table that completed records of one setting may stand beside, or None.

    Data, network and protocol must be of the paper's kind: CIFAR-10 by its name and by what is in it, a network that
    the paper has, and no fewer images and epochs than in the shortest protocol of `empool reproduce`.
    """
    first = records[0]
    table = paper.of(first["model"])
    kind = canonical(first), first["classes"], tuple(first["image_shape"] or ())
    if table is None or kind != ("cifar10", paper.CLASSES, paper.IMAGE_SHAPE):
        return None
    # Records of before the number of training images was kept say only the limit: without one, all images.
    trained, tested = first["train_images"] or table.train_images, first["test_images"] or 0
    enough = trained >= table.train_images and tested >= table.test_images
    return table if enough and (first.get("epochs") or 0) >= table.epochs else None


def judge(claims: Sequence[Claim], summary: Summary) -> list[Judgement]:
    """Judge claims by a study; those of which no pooling was trained are left out.

    A claim is a contrast of means. Its standard error is that of the study's test: with the spread that all rows share
    where Dunnett's test was used, else with each row's own (Welch). Holm's correction is over the claims tested; the
    intervals are Bonferroni's.
    """
    rows = {row.pooling: row for row in summary.rows}
    judged = {claim: _untested(claim, rows) for claim in claims if any(pooling in rows for pooling in claim.of)}
    contrasts = {claim: _contrast(claim, rows, summary.error) for claim, told in judged.items() if told is None}
    p_values = [2 * stats.t.sf(abs(size) / (error or math.inf), freedom) for size, error, freedom in contrasts.values()]
    for (claim, (size, error, freedom)), p_value in zip(contrasts.items(), holm(p_values), strict=True):
        judged[claim] = Judgement(claim, Support.UNDECIDED, difference=size)
        if error:
            half = float(stats.t.isf((1 - LEVEL) / 2 / len(contrasts), freedom)) * error
            claimed = Support.SUPPORTED if (size < 0) == claim.lower else Support.CONTRADICTED
            verdict = claimed if p_value < 1 - LEVEL else Support.UNDECIDED
            judged[claim] = Judgement(claim, verdict, "", size, Interval(size - half, size + half), p_value)
    return [one for one in judged.values() if one is not None]


def _untested(claim: Claim, rows: Mapping[str, Row]) -> Judgement | None:
    """Judge a claim that is not a contrast, or cannot be tested; None for the others."""
    if missing := [pooling for pooling in (*claim.of, *claim.than) if pooling not in rows]:
        return Judgement(claim, reason=f"no run with {', '.join(missing)}")
    named = [rows[pooling] for pooling in (*claim.of, *claim.than)]
    failed, runs = sum(len(row.not_converged) for row in named), sum(row.runs for row in named)
    if not claim.than:
        verdict = {runs: Support.SUPPORTED, 0: Support.CONTRADICTED}.get(failed, Support.PARTLY)
        return Judgement(claim, verdict, f"{failed} of {runs} runs failed")
    if failed:  # The seeds that are left would be chosen by their outcome.
        return Judgement(claim, reason=f"{failed} of its runs did not converge")
    if min(len(row.errors) for row in named) < 2:
        return Judgement(claim, reason="one run of a pooling tells no spread")
    return None


def _contrast(claim: Claim, rows: Mapping[str, Row], family: Family) -> tuple[float, float, float]:
    """Give a contrast, its standard error (0 where nothing varies) and its degrees of freedom."""
    shares = {pooling: 1 / len(claim.of) for pooling in claim.of}
    shares |= {pooling: -1 / len(claim.than) for pooling in claim.than}
    samples = [(np.array(rows[pooling].errors), share) for pooling, share in shares.items()]
    difference = sum(share * float(errors.mean()) for errors, share in samples)
    if family.rule is Rule.DUNNETT and family.spread is not None:
        variance = family.spread**2 * sum(share**2 / len(errors) for errors, share in samples)
        return difference, math.sqrt(variance), family.freedom
    parts = [(share**2 * float(errors.var(ddof=1)) / len(errors), len(errors) - 1) for errors, share in samples]
    variance = sum(part for part, _ in parts)
    # Satterthwaite's degrees of freedom.
    freedom = variance**2 / sum(part**2 / own for part, own in parts) if variance else 1.0
    return difference, math.sqrt(variance), freedom
