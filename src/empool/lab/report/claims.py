"""The table of the paper's claims, and what a study's runs say to them."""

from __future__ import annotations

from collections.abc import Sequence

from empool.lab.analyse.claims import Judgement
from empool.lab.analyse.findings import count, listed
from empool.lab.report import table
from empool.lab.report.table import Sheet
from empool.lab.study.paper import Claim

CAPTION = "Claims of Zhang and Wu (2017), and what our runs say to them"


def sheet(judged: Sequence[Judgement]) -> Sheet | None:
    """Lay out a row for each claim; None without claims."""
    if not judged:
        return None
    return table.sheet(
        CAPTION,
        {
            "The paper's claim": ([one.claim.said for one in judged], None),
            "Our runs": ([_verdict(one) for one in judged], None),
            table.POINTS: ([one.difference for one in judged], "+.2f"),
            table.INTERVAL: ([one.interval for one in judged], "+.2f"),
            "Compared": ([_compared(one.claim) for one in judged], None),
        },
        _notes(judged),
    )


def _verdict(judged: Judgement) -> str:
    return f"{judged.verdict.value}: {judged.reason}" if judged.reason else judged.verdict.value


def _compared(claim: Claim) -> str:
    return f"{listed(claim.of)} with {listed(claim.than)}" if claim.than else listed(claim.of)


def _notes(judged: Sequence[Judgement]) -> list[str]:
    tested = sum(one.p_value is not None for one in judged)
    said = [
        "Points: the mean test error of the poolings named first less that of those named after them. The paper's "
        "figures chose what is compared, not ours."
    ]
    if tested:
        said.append(
            f"A claim is supported or contradicted where the t test of the difference holds at 5 % after Holm's "
            f"correction over the {count(tested, 'claim')} tested. The 95 % intervals hold all at once (Bonferroni), "
            "so they are a little wider than the test."
        )
    if any(not one.claim.than for one in judged):
        said.append(
            "A claim that something does not converge is counted, not tested: a run fails if a loss at its end is no "
            "number, or if its error on the training images is no better than chance."
        )
    return said
