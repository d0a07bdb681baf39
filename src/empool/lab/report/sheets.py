"""The tables of a study: test errors, likelihoods, the paper's claims, inference rules, every run."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from empool.lab.analyse import statistics
from empool.lab.analyse.claims import Judgement
from empool.lab.analyse.findings import count, label, listed
from empool.lab.analyse.power import MOST_SEEDS, Outlook
from empool.lab.analyse.records import RULES, Record
from empool.lab.analyse.statistics import Comparison, Row, Summary, Verdict
from empool.lab.report.table import IMAGES_TOO, INTERVAL, NEEDED, NONE, POINTS, VERDICT, Columns, Sheet
from empool.lab.study import paper


def errors(
    caption: str, summary: Summary, beside: paper.Table | None, plan: Outlook | None, notes: Sequence[str]
) -> Sheet:
    """Lay out the test errors of a study, the paper's beside them where it has such a table."""
    rows = summary.rows
    columns: Columns = {
        "Pooling": ([label(row.pooling) for row in rows], None),
        "Test error %": ([row.mean for row in rows], ".2f"),
        POINTS: ([row.error.difference for row in rows], "+.2f"),
        INTERVAL: ([row.error.interval for row in rows], "+.2f"),
        VERDICT: ([verdict(row, row.error) for row in rows], None),
        "Improvement %": ([None if row.pooling == summary.baseline else row.improvement for row in rows], "+.1f"),
        "Spread": ([row.spread for row in rows], ".2f"),
        "Runs": ([row.runs for row in rows], "d"),
    }
    if plan is not None:
        needed = {pooling: f"> {MOST_SEEDS:,}" if seeds is None else seeds for pooling, seeds in plan.needed.items()}
        columns[NEEDED] = ([needed.get(row.pooling) for row in rows], str)
    if any(row.sampled for row in rows):
        columns[IMAGES_TOO] = ([row.sampled for row in rows], "+.2f")
    if beside is not None:
        figures = [beside.rows.get(row.pooling) for row in rows]
        printed = [figure and (figure.error or "not converged") for figure in figures]
        columns["Paper: error %"] = (printed, lambda error: error if isinstance(error, str) else f"{error:.2f}")
        columns["Paper: improvement %"] = ([figure and figure.improvement for figure in figures], "+.2f")
    return Sheet(caption, columns, notes)


def brief(errors: Sheet, summary: Summary) -> Sheet:
    """Put the test errors into few columns, for a page that people read."""
    cells = errors.cells()
    error = cells["Test error %"] + " \N{PLUS-MINUS SIGN} " + cells["Spread"]
    against = cells[POINTS] + " " + cells[INTERVAL]
    columns: Columns = {
        "Pooling": (cells["Pooling"], None),
        "Test error %": (error.str.removesuffix(" \N{PLUS-MINUS SIGN} -"), str),
        f"Points against {label(summary.baseline)} [95 % interval]": (against.str.removesuffix(" -"), str),
        VERDICT: (cells[VERDICT], None),
        "NLL": ([row.nll for row in summary.rows], ".3f"),
    }
    return Sheet("", columns | {name: (cells[name], str) for name in cells if name == "Paper: error %"})


def nlls(caption: str, summary: Summary, notes: Sequence[str]) -> Sheet | None:
    """Lay out negative log-likelihood and calibration error; None where no run says them."""
    rows = summary.rows
    columns: Columns = {
        "Pooling": ([label(row.pooling) for row in rows], None),
        "Test NLL": ([row.nll for row in rows], ".4f"),
        "Nats": ([row.nll_against.difference for row in rows], "+.4f"),
        INTERVAL: ([row.nll_against.interval for row in rows], "+.4f"),
        VERDICT: ([verdict(row, row.nll_against) for row in rows], None),
    }
    if any(row.ece is not None for row in rows):
        columns["Test ECE %"] = ([row.ece for row in rows], ".2f")
    return Sheet(caption, columns, notes) if any({row.nll, row.ece} != {None} for row in rows) else None


def verdict(row: Row, comparison: Comparison) -> str:
    """Write what the runs support, in a few words."""
    if comparison.verdict is Verdict.FAILED:
        return f"{len(row.not_converged)} of {row.runs} did not converge"
    return str(comparison.verdict.value)


def power_notes(summary: Summary, plan: Outlook | None) -> list[str]:
    """Say what the seeds at hand can show, and what is meant by the seeds that a row needs."""
    return [] if plan is None else [
        f"With {count(plan.seeds, 'seed')} a pooling, {count(summary.error.tested, 'comparison')} with "
        f"{label(summary.baseline)} and a spread of {plan.spread:.2f} points, a true difference of {plan.shown:.2f} "
        "points is decided in 80 % of studies. Seeds needed: runs of each pooling with which 80 % of studies decide a "
        "difference as large as the observed one. That one is uncertain: plan with a difference that would matter."
    ]  # fmt: skip


def claims(judged: Sequence[Judgement]) -> Sheet | None:
    """Lay out a row for each of the paper's claims; None without claims."""
    if not judged:
        return None
    compared = [" with ".join(map(listed, filter(None, (one.claim.of, one.claim.than)))) for one in judged]
    columns: Columns = {
        "The paper's claim": ([one.claim.said for one in judged], None),
        "Our runs": ([": ".join(filter(None, (one.verdict.value, one.reason))) for one in judged], None),
        POINTS: ([one.difference for one in judged], "+.2f"),
        INTERVAL: ([one.interval for one in judged], "+.2f"),
        "Compared": (compared, None),
    }
    tested = sum(one.p_value is not None for one in judged)
    notes = [
        "Points: the mean test error of the poolings named first minus that of those named after them. What is "
        "compared was chosen by the paper's figures, not by ours.",
        f"Supported or contradicted: by the t test of the difference at 5 %, after Holm's correction over the "
        f"{count(tested, 'claim')} tested. The 95 % intervals are simultaneous (Bonferroni).",
        "Runs that do not converge are counted, not tested: a run fails if a loss at its end is not finite, or if its "
        "error on the training images is no better than chance.",
    ]
    return Sheet("Claims of Zhang and Wu (2017), and what our runs say about them", columns, notes)


def rules(records: Sequence[Record]) -> Sheet | None:
    """Lay out how networks test by each rule, means over runs, from records of `evaluate`; None without records."""
    lines = [
        {"pooling": one["pooling"], "rule": rule, **one[rule], "more": one[rule]["error"] - one["expectation"]["error"]}
        for one in records
        for rule in RULES
        if one.get(rule) is not None
    ]
    if not lines:
        return None
    scores = ["error", "nll", "ece"]
    groups = pd.DataFrame(lines).astype(dict.fromkeys(scores, float)).groupby(["pooling", "rule"], sort=False)
    means = groups[scores].agg(lambda values: values.mean(skipna=False))
    more = [[] if rule == "expectation" else [*group.more] for (_, rule), group in groups]
    columns: Columns = {
        "Pooling": ([label(pooling) for pooling, _ in means.index], None),
        "Inference rule": ([RULES[rule] for _, rule in means.index], None),
        "Runs": (groups.size(), "d"),
        "Error %": (means.error, ".2f"),
        POINTS: ([statistics.mean(values) for values in more], "+.2f"),
        INTERVAL: ([statistics.mean_interval(values) for values in more], "+.2f"),
        "NLL": (means.nll, ".4f"),
        "ECE %": (means.ece, ".2f"),
    }
    samples = sorted({one["samples"] for one in records if one.get("samples")})
    many = f"{' or '.join(map(str, samples))} sub-network{'' if samples == [1] else 's'}"
    notes = {
        "expectation": "inference mode, one deterministic pass.",
        "recalibrated": "the same, after one pass over the training images that recomputes the statistics of batch "
        "normalisation with the pooling in inference mode. Max-pooling is the control.",
        "monte_carlo": f"the mean of the probabilities of {many}, sampled for every image anew.",
        "plain_max": "one pass with p = 0.",
    }
    said = [f"{RULES[rule]}: {notes[rule]}" for rule in RULES if rule in {line["rule"] for line in lines}]
    said.append("Points: the error minus the expectation's on the same network, with its t interval over seeds.")
    if still := dict.fromkeys(record["pooling"] for record in records if not record["draws"]):
        said.append(f"{', '.join(still)}: nothing is sampled, so Monte Carlo equals the single pass.")
    return Sheet("The same trained networks by each inference rule, means over seeds", columns, said)


_NUMBERS = {  # fields of a run's record, the columns of their table, and their format
    "test_error": ("Test error %", ".2f"),
    "test_top5_error": ("Test top-5 error %", ".2f"),
    "validation_error": ("Validation error %", ".2f"),
    "train_error": ("Train error %", ".2f"),
    "test_nll": ("Test NLL", ".4f"),
    "test_ece": ("Test ECE %", ".2f"),
    "train_loss": ("Train NLL", ".4f"),
    "seconds": ("Seconds", ".1f"),
    "images_per_second": ("Images per second", ".0f"),
}


def runs(title: str, records: Sequence[Record]) -> Sheet:
    """Lay out every run; a number that none of them has is left out."""
    numbers = pd.DataFrame([{field: record.get(field) for field in _NUMBERS} for record in records], dtype=object)
    numbers = numbers.apply(pd.to_numeric, errors="coerce").dropna(axis=1, how="all")
    columns: Columns = {
        "Pooling": ([label(record["pooling"]) for record in records], None),
        "Seed": ([record["seed"] for record in records], "d"),
        **{_NUMBERS[field][0]: (numbers[field], _NUMBERS[field][1]) for field in numbers},
        "Converged": (["yes" if record["converged"] else "no" for record in records], None),
        "Device": ([record.get("device") for record in records], None),
        "Commit": ([str(record.get("commit") or NONE)[:10] for record in records], None),
    }
    return Sheet(f"Every run of {title}", columns)
