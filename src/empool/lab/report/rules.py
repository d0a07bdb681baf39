"""The table of testing rules: the same trained networks tested in several ways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from empool.lab.analyse import statistics
from empool.lab.analyse.rules import RULES
from empool.lab.report import table
from empool.lab.report.table import Sheet

Evaluated = Mapping[str, Any]


def sheet(records: Sequence[Evaluated]) -> Sheet | None:
    """Lay out a row for each pooling and rule, means over its runs; None without records.

    "Points" is a rule's error less the expectation's on the same trained network, with its t interval over runs.

    Args:
        records: as `empool.lab.analyse.evaluate.evaluate` returns them.
    """
    lines = [
        (pooling, name, pairs)
        for pooling in dict.fromkeys(record["pooling"] for record in records)
        for rule, name in RULES.items()
        if (pairs := _tested(records, pooling, rule))
    ]
    if not lines:
        return None
    differences = [
        [] if name == RULES["expectation"] else [mine["error"] - single["error"] for single, mine in pairs]
        for _, name, pairs in lines
    ]

    def mean(score: str) -> list[float | None]:
        return [statistics.mean([mine.get(score) for _, mine in pairs]) for *_, pairs in lines]

    return table.sheet(
        "The same trained networks by each testing rule, means over seeds",
        {
            "Pooling": table.poolings([pooling for pooling, *_ in lines]),
            "Testing rule": ([name for _, name, _ in lines], None),
            "Runs": ([len(pairs) for *_, pairs in lines], "d"),
            "Error %": (mean("error"), ".2f"),
            table.POINTS: ([*map(statistics.mean, differences)], "+.2f"),
            table.INTERVAL: ([*map(statistics.mean_interval, differences)], "+.2f"),
            "NLL": (mean("nll"), ".4f"),
            "ECE %": (mean("ece"), ".2f"),
        },
        notes(records),
    )


def _tested(records: Sequence[Evaluated], pooling: str, rule: str) -> list[tuple[Evaluated, Evaluated]]:
    """Pair the scores of the expectation with a rule's, run by run."""
    return [
        (record["expectation"], record[rule])
        for record in records
        if record["pooling"] == pooling and record.get(rule) is not None
    ]


def _samples(records: Sequence[Evaluated]) -> str:
    """Say how many members were sampled: once, or for each pooling if they differ."""
    numbers: dict[str, set[int]] = {}
    for record in records:
        if record["draws"]:
            numbers.setdefault(record["pooling"], set()).add(record["samples"])
    told = {pooling: " or ".join(map(str, sorted(drawn))) for pooling, drawn in numbers.items()}
    if len({*told.values()}) < 2:
        return next(iter(told.values()), "")
    return ", ".join(f"{number} ({pooling})" for pooling, number in told.items())


def notes(records: Sequence[Evaluated]) -> list[str]:
    """Say what the rules are, and which poolings have only some."""
    said = ["expectation: inference mode, one deterministic pass."]
    if any(record.get("recalibrated") for record in records):
        said.append(
            "recalibrated: the same, after one pass over the training images that recomputes the statistics of batch "
            "normalisation with the pools in inference mode. Max-pooling's is the control."
        )
    if samples := _samples(records):
        members = f"{samples} member{'' if samples == '1' else 's'}"
        said.append(f"Monte Carlo: the mean of the probabilities of {members}, sampled for every image anew.")
    if any(record["plain_max"] is not None for record in records):
        said.append("plain max: one pass with p = 0.")
    if any(record.get(rule) for record in records for rule in RULES if rule != "expectation"):
        said.append(
            "Points: the rule's error less the expectation's on the same trained network, with its t interval over "
            "seeds."
        )
    still = dict.fromkeys(record["pooling"] for record in records if not record["draws"])
    if still:
        said.append(f"{', '.join(still)}: nothing is sampled, so Monte Carlo would be the single pass.")
    return said
