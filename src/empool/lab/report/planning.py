"""The table of power: the seeds that each row needs, and what the seeds at hand can show."""

from __future__ import annotations

from empool.lab.analyse.findings import count, label
from empool.lab.analyse.power import Outlook
from empool.lab.analyse.statistics import Rule, Summary
from empool.lab.report import table
from empool.lab.report.table import Sheet


def sheet(summary: Summary, plan: Outlook) -> Sheet:
    """Lay out how many seeds decide each row's difference."""
    return table.sheet(
        "Seeds that each row needs to be decided",
        {
            "Pooling": table.poolings([need.pooling for need in plan.needs]),
            table.POINTS: ([need.difference for need in plan.needs], "+.2f"),
            table.VERDICT: ([summary.error.comparisons[need.pooling].verdict for need in plan.needs], None),
            "Seeds": ([table.seeds(need.seeds) for need in plan.needs], str),
        },
        notes(summary, plan),
    )


def notes(summary: Summary, plan: Outlook) -> list[str]:
    """Say what the seeds at hand can show, and what is meant by the seeds that a row needs."""
    shared = summary.error.rule is Rule.DUNNETT
    return [
        f"With {count(plan.seeds, 'seed')} a pooling, {count(plan.compared, 'comparison')} with "
        f"{label(summary.baseline)} and a spread of {plan.spread:.2f} points "
        f"({'which all rows share' if shared else 'the largest of a row'}), a true difference of {plan.shown:.2f} "
        "points is decided in 80 % of studies.",
        "Seeds needed: runs of each pooling with which a true difference as large as the one seen is decided in 80 % "
        "of studies, at that spread. What was seen is uncertain itself: plan with a difference that would matter.",
    ]
