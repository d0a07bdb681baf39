"""What a study's runs say to the claims of Zhang and Wu (2017)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
from scipy import stats

from empool.lab.analyse import comparable
from empool.lab.analyse.comparable import Record
from empool.lab.analyse.statistics import LEVEL, Family, Interval, Row, Rule, Summary, holm
from empool.lab.study import paper
from empool.lab.study.paper import Claim


class Support(Enum):
    """What the runs say to a claim."""

    SUPPORTED = "supported"
    CONTRADICTED = "contradicted"
    PARTLY = "partly supported"
    UNDECIDED = "not decided"
    UNTESTED = "not tested"


@dataclass(frozen=True)
class Judgement:
    """What the runs say to one claim.

    Attributes:
        claim: it.
        verdict: what the runs support.
        reason: why it is not tested, or what was counted, in words; else empty.
        difference: the mean test error of `claim.of` less that of `claim.than`, each the mean over its poolings, in
            points; None if not tested.
        interval: its 95 % interval; all intervals hold at once with that confidence.
        p_value: after Holm's correction over the claims that are tested.
    """

    claim: Claim
    verdict: Support = Support.UNTESTED
    reason: str = ""
    difference: float | None = None
    interval: Interval | None = None
    p_value: float | None = None


def beside(records: Sequence[Record]) -> paper.Table | None:
    """Return the paper's table that runs of one setting may stand beside, or None.

    Data, network and protocol must be of the paper's kind: CIFAR-10 by its name and by what is in it, a network that
    the paper has, and no fewer images and epochs than in the shortest protocol of `empool reproduce`.
    """
    first = records[0]
    table = paper.of(first["model"])
    if table is None or comparable.canonical(first) != "cifar10" or (first.get("epochs") or 0) < table.epochs:
        return None
    if (comparable.classes(first), comparable.image_shape(first)) != (paper.CLASSES, paper.IMAGE_SHAPE):
        return None
    trained, tested = comparable.images_trained(first), comparable.images_tested(first)
    # Records of before the number was kept say only the limit: without one, all images.
    enough = trained is None or trained >= table.train_images
    return table if enough and tested is not None and tested >= table.test_images else None


def judge(claims: Sequence[Claim], summary: Summary) -> list[Judgement]:
    """Judge claims by a study; those of which no pooling was trained are left out.

    A claim is a contrast of means. Its standard error is that of the study's test: with the spread that all rows share
    where Dunnett's test was used, else with each row's own (Welch). Holm's correction is over the claims tested; the
    intervals are Bonferroni's.
    """
    rows = {row.pooling: row for row in summary.rows}
    present = [claim for claim in claims if any(pooling in rows for pooling in claim.of)]
    judged = [_untested(claim, rows) or _Contrast.of(claim, rows, summary.error) for claim in present]
    contrasts = [one for one in judged if isinstance(one, _Contrast)]
    adjusted = iter(holm([contrast.p_value for contrast in contrasts]))
    return [one if isinstance(one, Judgement) else one.judgement(next(adjusted), len(contrasts)) for one in judged]


def _untested(claim: Claim, rows: dict[str, Row]) -> Judgement | None:
    """Judge a claim that is not a contrast, or cannot be tested; None for the others."""
    missing = [pooling for pooling in (*claim.of, *claim.than) if pooling not in rows]
    if missing:
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


@dataclass(frozen=True)
class _Contrast:
    claim: Claim
    difference: float
    error: float  # its standard error; 0 where nothing varies
    freedom: float

    @classmethod
    def of(cls, claim: Claim, rows: dict[str, Row], family: Family) -> _Contrast:
        sides = [(pooling, 1 / len(claim.of)) for pooling in claim.of]
        sides += [(pooling, -1 / len(claim.than)) for pooling in claim.than]
        samples = [(np.array(rows[pooling].errors), share) for pooling, share in sides]
        difference = sum(share * float(errors.mean()) for errors, share in samples)
        if family.rule is Rule.DUNNETT and family.spread is not None:
            variance = family.spread**2 * sum(share**2 / len(errors) for errors, share in samples)
            return cls(claim, difference, math.sqrt(variance), family.freedom)
        parts = [(share**2 * float(errors.var(ddof=1)) / len(errors), len(errors) - 1) for errors, share in samples]
        variance = sum(part for part, _ in parts)
        # Satterthwaite's degrees of freedom.
        freedom = variance**2 / sum(part**2 / own for part, own in parts) if variance else 1.0
        return cls(claim, difference, math.sqrt(variance), freedom)

    @property
    def p_value(self) -> float:
        return float(2 * stats.t.sf(abs(self.difference) / self.error, self.freedom)) if self.error else 1.0

    def judgement(self, adjusted: float, tested: int) -> Judgement:
        if not self.error:
            return Judgement(self.claim, Support.UNDECIDED, difference=self.difference)
        half = float(stats.t.isf((1 - LEVEL) / 2 / tested, self.freedom)) * self.error
        judged = Judgement(
            self.claim,
            Support.UNDECIDED,
            difference=self.difference,
            interval=Interval(self.difference - half, self.difference + half),
            p_value=adjusted,
        )
        if adjusted >= 1 - LEVEL:
            return judged
        as_said = (self.difference < 0) == self.claim.lower
        return replace(judged, verdict=Support.SUPPORTED if as_said else Support.CONTRADICTED)
