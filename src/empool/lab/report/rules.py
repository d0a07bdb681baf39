"""Testing rules: the same trained networks tested by the expectation, by members drawn and averaged, by plain max."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from empool.lab.analyse import statistics
from empool.lab.errors import LabError
from empool.lab.files import read_json
from empool.lab.report import table
from empool.lab.report.table import Column, Sheet

RULES = {"expectation": "expectation", "monte_carlo": "Monte Carlo", "plain_max": "plain max"}
"""The rules, as the records of an evaluation and as people call them."""

Evaluated = Mapping[str, Any]


def read_evaluation(path: Path) -> list[dict[str, Any]]:
    """Read evaluation.json.

    Raises:
        LabError: if it holds something else.
    """
    records: list[dict[str, Any]] = read_json(path)
    needed = {"pooling", "seed", "samples", "draws", *RULES}
    if not isinstance(records, list) or not all(isinstance(one, dict) and needed <= one.keys() for one in records):
        raise LabError(f"{path} holds no evaluations: expected a list of records, as empool evaluate writes it")
    return records


def sheet(records: Sequence[Evaluated]) -> Sheet | None:
    """Lay out a row for each pooling and rule, means over its runs; None without records.

    "Points more" is a rule's error less the expectation's on the same trained network, with its t interval over runs.

    Args:
        records: as `empool.lab.evaluate.evaluate` returns them.
    """
    lines = [
        (pooling, name, _tested(records, pooling, rule))
        for pooling in dict.fromkeys(record["pooling"] for record in records)
        for rule, name in RULES.items()
    ]
    lines = [(pooling, name, pairs) for pooling, name, pairs in lines if pairs]
    if not lines:
        return None
    differences = [
        [] if name == RULES["expectation"] else [mine["error"] - single["error"] for single, mine in pairs]
        for _, name, pairs in lines
    ]
    intervals = [*map(statistics.mean_interval, differences)]

    def mean(score: str, places: int, header: str) -> Column:
        means = [statistics.mean([mine.get(score) for _, mine in pairs]) for *_, pairs in lines]
        return table.numbers(header, means, places)

    return Sheet(
        "The same trained networks by each testing rule, means over seeds",
        [
            table.poolings([pooling for pooling, *_ in lines]),
            Column("Testing rule", [name for _, name, _ in lines], numeric=False),
            Column("Runs", [str(len(pairs)) for *_, pairs in lines]),
            mean("error", 2, "Error %"),
            table.numbers("Points more", [*map(statistics.mean, differences)], 2, sign=True),
            table.bounded("95 % interval of points more", intervals, 2),
            mean("nll", 4, "NLL"),
            mean("ece", 2, "ECE %"),
        ],
        notes(records),
    )


def _tested(records: Sequence[Evaluated], pooling: str, rule: str) -> list[tuple[Evaluated, Evaluated]]:
    """Pair the scores of the expectation with a rule's, run by run."""
    return [
        (record["expectation"], record[rule])
        for record in records
        if record["pooling"] == pooling and record[rule] is not None
    ]


def _samples(records: Sequence[Evaluated]) -> str:
    """Say how many members were drawn: once, or for each pooling if they differ."""
    numbers: dict[str, set[int]] = {}
    for record in records:
        if record["draws"]:
            numbers.setdefault(record["pooling"], set()).add(record["samples"])
    told = {pooling: " or ".join(map(str, sorted(drawn))) for pooling, drawn in numbers.items()}
    if len({*told.values()}) < 2:
        return next(iter(told.values()), "")
    return ", ".join(f"{number} ({pooling})" for pooling, number in told.items())


def notes(records: Sequence[Evaluated]) -> list[str]:
    """Say what the rules are, and which poolings have only one."""
    said = ["expectation: the testing phase, one deterministic pass."]
    if samples := _samples(records):
        said.append(f"Monte Carlo: the mean of the probabilities of {samples} members, drawn for every image anew.")
    if any(record["plain_max"] is not None for record in records):
        said.append("plain max: one pass with p = 0.")
    if any(record["monte_carlo"] or record["plain_max"] for record in records):
        said.append(
            "Points more: the rule's error less the expectation's on the same trained network, with its t interval "
            "over seeds."
        )
    still = dict.fromkeys(record["pooling"] for record in records if not record["draws"])
    if still:
        draw = "draws" if len(still) == 1 else "draw"
        said.append(f"{', '.join(still)} {draw} nothing: Monte Carlo would be the single pass.")
    return said
