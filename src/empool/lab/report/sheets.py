"""The tables of a study: test errors, likelihoods, seeds needed, the paper's claims, inference rules, every run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from empool.lab.analyse import statistics
from empool.lab.analyse.claims import Judgement
from empool.lab.analyse.findings import count, label, listed
from empool.lab.analyse.power import MOST_SEEDS, Outlook
from empool.lab.analyse.records import RULES, Record, converged, finite
from empool.lab.analyse.statistics import Comparison, Row, Rule, Summary, Verdict
from empool.lab.report.table import IMAGES_TOO, INTERVAL, NEEDED, NONE, POINTS, VERDICT, Columns, Format, Sheet, sheet
from empool.lab.study import paper


def poolings(spellings: Sequence[str]) -> tuple[list[str], None]:
    """Give the column that names the rows."""
    return [label(pooling) for pooling in spellings], None


def errors(
    caption: str,
    summary: Summary,
    beside: paper.Table | None = None,
    plan: Outlook | None = None,
    notes: Sequence[str] = (),
) -> Sheet:
    """Lay out the test errors of a study, the paper's beside them where it has such a table.

    Args:
        caption: the table's title.
        summary: what `empool.lab.analyse.statistics.summarise` returned.
        beside: the paper's table, if it may stand beside.
        plan: the seeds that each row needs.
        notes: what to know when reading it.
    """
    rows = summary.rows
    columns: Columns = {
        "Pooling": poolings([row.pooling for row in rows]),
        "Test error %": ([row.mean for row in rows], ".2f"),
        POINTS: ([row.error.difference for row in rows], "+.2f"),
        INTERVAL: ([row.error.interval for row in rows], "+.2f"),
        VERDICT: ([verdict(row, row.error) for row in rows], None),
        "Improvement %": ([None if row.pooling == summary.baseline else row.improvement for row in rows], "+.1f"),
        "Spread": ([row.spread for row in rows], ".2f"),
        "Runs": ([row.runs for row in rows], "d"),
    }
    if plan is not None:
        needs = {need.pooling: _seeds(need.seeds) for need in plan.needs}
        columns[NEEDED] = ([needs.get(row.pooling) for row in rows], str)
    if any(row.sampled for row in rows):
        columns[IMAGES_TOO] = ([row.sampled for row in rows], "+.2f")
    if beside is not None:
        columns["Paper: error %"] = _printed(beside, rows)
        columns["Paper: improvement %"] = ([beside.improvement(row.pooling) for row in rows], "+.2f")
    return sheet(caption, columns, notes)


def brief(caption: str, summary: Summary, beside: paper.Table | None = None) -> Sheet:
    """Lay out the results in few columns, for a page that people read."""
    rows = summary.rows
    columns: Columns = {
        "Pooling": poolings([row.pooling for row in rows]),
        "Test error %": ([_plus_minus(row) for row in rows], str),
        f"Points against {label(summary.baseline)} [95 % interval]": ([_with_interval(row.error) for row in rows], str),
        VERDICT: ([verdict(row, row.error) for row in rows], None),
        "NLL": ([row.nll for row in rows], ".3f"),
    }
    if beside is not None:
        columns["Paper: error %"] = _printed(beside, rows)
    return sheet(caption, columns)


def nlls(caption: str, summary: Summary, notes: Sequence[str] = ()) -> Sheet | None:
    """Lay out negative log-likelihood and calibration error; None where no run says them."""
    rows = summary.rows
    if all(row.nll is None and row.ece is None for row in rows):
        return None
    columns: Columns = {
        "Pooling": poolings([row.pooling for row in rows]),
        "Test NLL": ([row.nll for row in rows], ".4f"),
        "Nats": ([row.nll_against.difference for row in rows], "+.4f"),
        INTERVAL: ([row.nll_against.interval for row in rows], "+.4f"),
        VERDICT: ([verdict(row, row.nll_against) for row in rows], None),
    }
    if any(row.ece is not None for row in rows):
        columns["Test ECE %"] = ([row.ece for row in rows], ".2f")
    return sheet(caption, columns, notes)


def verdict(row: Row, comparison: Comparison) -> str:
    """Write what the runs support, in a few words."""
    if comparison.verdict is Verdict.FAILED:
        return f"{len(row.not_converged)} of {row.runs} did not converge"
    return str(comparison.verdict.value)


def _plus_minus(row: Row) -> str | None:
    if row.mean is None:
        return None
    return f"{row.mean:.2f}" if row.spread is None else f"{row.mean:.2f} \N{PLUS-MINUS SIGN} {row.spread:.2f}"


def _with_interval(comparison: Comparison) -> str | None:
    if comparison.difference is None:
        return None
    interval = comparison.interval
    bounds = f" [{interval.low:+.2f}, {interval.high:+.2f}]" if interval else ""
    return f"{comparison.difference:+.2f}{bounds}"


def _seeds(needed: int | None) -> str:
    return f"> {MOST_SEEDS:,}" if needed is None else f"{needed}"


def _printed(beside: paper.Table, rows: Sequence[Row]) -> tuple[list[Any], Format]:
    figures = [beside.rows.get(row.pooling) for row in rows]
    errors = [figure and ("not converged" if figure.error is None else figure.error) for figure in figures]
    return errors, lambda error: error if isinstance(error, str) else f"{error:.2f}"


def power(summary: Summary, plan: Outlook) -> Sheet:
    """Lay out how many seeds decide each row's difference."""
    columns: Columns = {
        "Pooling": poolings([need.pooling for need in plan.needs]),
        POINTS: ([need.difference for need in plan.needs], "+.2f"),
        VERDICT: ([summary.error.comparisons[need.pooling].verdict for need in plan.needs], None),
        "Seeds": ([_seeds(need.seeds) for need in plan.needs], str),
    }
    return sheet("Seeds that each row needs to be decided", columns, power_notes(summary, plan))


def power_notes(summary: Summary, plan: Outlook) -> list[str]:
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


def claims(judged: Sequence[Judgement]) -> Sheet | None:
    """Lay out a row for each of the paper's claims; None without claims."""
    if not judged:
        return None
    columns: Columns = {
        "The paper's claim": ([one.claim.said for one in judged], None),
        "Our runs": ([": ".join(filter(None, (one.verdict.value, one.reason))) for one in judged], None),
        POINTS: ([one.difference for one in judged], "+.2f"),
        INTERVAL: ([one.interval for one in judged], "+.2f"),
        "Compared": (
            [" with ".join(map(listed, filter(None, (one.claim.of, one.claim.than)))) for one in judged],
            None,
        ),
    }
    notes = [
        "Points: the mean test error of the poolings named first less that of those named after them. The paper's "
        "figures chose what is compared, not ours."
    ]
    if tested := sum(one.p_value is not None for one in judged):
        notes.append(
            f"A claim is supported or contradicted where the t test of the difference holds at 5 % after Holm's "
            f"correction over the {count(tested, 'claim')} tested. The 95 % intervals hold all at once (Bonferroni), "
            "so they are a little wider than the test."
        )
    if any(not one.claim.than for one in judged):
        notes.append(
            "A claim that something does not converge is counted, not tested: a run fails if a loss at its end is no "
            "number, or if its error on the training images is no better than chance."
        )
    return sheet("Claims of Zhang and Wu (2017), and what our runs say to them", columns, notes)


def rules(records: Sequence[Record]) -> Sheet | None:
    """Lay out how the same trained networks test by each rule, means over runs; None without records.

    "Points" is a rule's error less the expectation's on the same trained network, with its t interval over runs.

    Args:
        records: as `empool.lab.analyse.evaluate.evaluate` returns them.
    """
    lines = []  # pooling, rule, its scores, how much more its error is than the expectation's
    for pooling in dict.fromkeys(record["pooling"] for record in records):
        for rule in RULES:
            tested = [one for one in records if one["pooling"] == pooling and one.get(rule) is not None]
            more = [one[rule]["error"] - one["expectation"]["error"] for one in tested if rule != "expectation"]
            if tested:
                lines.append((pooling, rule, [one[rule] for one in tested], more))
    if not lines:
        return None

    def mean(score: str) -> list[float | None]:
        return [statistics.mean([one.get(score) for one in scores]) for _, _, scores, _ in lines]

    columns: Columns = {
        "Pooling": poolings([pooling for pooling, *_ in lines]),
        "Inference rule": ([RULES[rule] for _, rule, *_ in lines], None),
        "Runs": ([len(scores) for _, _, scores, _ in lines], "d"),
        "Error %": (mean("error"), ".2f"),
        POINTS: ([statistics.mean(more) for *_, more in lines], "+.2f"),
        INTERVAL: ([statistics.mean_interval(more) for *_, more in lines], "+.2f"),
        "NLL": (mean("nll"), ".4f"),
        "ECE %": (mean("ece"), ".2f"),
    }
    return sheet("The same trained networks by each inference rule, means over seeds", columns, rule_notes(records))


def rule_notes(records: Sequence[Record]) -> list[str]:
    """Say what the rules are, and which poolings have only some."""
    notes = ["expectation: inference mode, one deterministic pass."]
    if any(record.get("recalibrated") for record in records):
        notes.append(
            "recalibrated: the same, after one pass over the training images that recomputes the statistics of batch "
            "normalisation with the pools in inference mode. Max-pooling's is the control."
        )
    numbers: dict[str, set[int]] = {}
    for record in records:
        if record["draws"]:
            numbers.setdefault(record["pooling"], set()).add(record["samples"])
    told = {pooling: " or ".join(map(str, sorted(found))) for pooling, found in numbers.items()}
    if told:
        alike = len({*told.values()}) == 1
        samples = (
            next(iter(told.values())) if alike else ", ".join(f"{number} ({name})" for name, number in told.items())
        )
        members = f"{samples} member{'' if samples == '1' else 's'}"
        notes.append(f"Monte Carlo: the mean of the probabilities of {members}, sampled for every image anew.")
    if any(record["plain_max"] is not None for record in records):
        notes.append("plain max: one pass with p = 0.")
    if any(record.get(rule) for record in records for rule in RULES if rule != "expectation"):
        notes.append(
            "Points: the rule's error less the expectation's on the same trained network, with its t interval over "
            "seeds."
        )
    still = dict.fromkeys(record["pooling"] for record in records if not record["draws"])
    if still:
        notes.append(f"{', '.join(still)}: nothing is sampled, so Monte Carlo would be the single pass.")
    return notes


_NUMBERS = {  # of a run: fields of its record, the first that is there, and their format
    "Test error %": ("test_error", "", ".2f"),
    "Test top-5 error %": ("test_top5_error", "", ".2f"),
    "Validation error %": ("validation_error", "", ".2f"),
    "Train error %": ("train_error", "", ".2f"),
    "Test NLL": ("test_nll", "test_loss", ".4f"),
    "Test ECE %": ("test_ece", "", ".2f"),
    "Train NLL": ("train_loss", "", ".4f"),
    "Seconds": ("seconds", "", ".1f"),
    "Images per second": ("images_per_second", "", ".0f"),
}


def runs(title: str, records: Sequence[Record]) -> Sheet:
    """Lay out every run; a number that none of them has is left out."""
    columns: Columns = {
        "Pooling": poolings([record["pooling"] for record in records]),
        "Seed": ([record["seed"] for record in records], "d"),
    }
    for name, (field, formerly, how) in _NUMBERS.items():
        values = [record.get(field, record.get(formerly)) for record in records]
        if any(map(finite, values)):
            columns[name] = ([value if finite(value) else None for value in values], how)
    columns["Converged"] = (["yes" if converged(record) else "no" for record in records], None)
    columns["Device"] = ([record.get("device") for record in records], None)
    columns["Commit"] = ([str(record.get("commit") or NONE)[:10] for record in records], None)
    return sheet(f"Every run of {title}", columns)
