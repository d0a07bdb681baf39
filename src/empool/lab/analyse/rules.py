"""Testing rules: how one trained network is tested in several ways."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from empool.lab.errors import LabError
from empool.lab.files import read_json

RULES = {
    "expectation": "expectation",
    "recalibrated": "recalibrated",
    "monte_carlo": "Monte Carlo",
    "plain_max": "plain max",
}
"""The rules, as the records of an evaluation and as people call them."""

_LATER = ("recalibrated",)  # rules that older evaluations lack


def read_evaluation(path: Path) -> list[dict[str, Any]]:
    """Read evaluation.json; a rule that it does not know is None.

    Raises:
        LabError: if it holds something else.
    """
    records: list[dict[str, Any]] = read_json(path)
    needed = {"pooling", "seed", "samples", "draws", *RULES} - {*_LATER}
    if not isinstance(records, list) or not all(isinstance(one, dict) and needed <= one.keys() for one in records):
        raise LabError(f"{path} holds no evaluations: expected a list of records, as empool evaluate writes it")
    return [{**dict.fromkeys(_LATER), **record} for record in records]
