"""The records of runs: read, checked, filled in, and held to one setting, in which they may be compared."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path, PurePath
from typing import Any

from empool.lab import files
from empool.lab.errors import LabError
from empool.lab.files import REWRITE, read_json

Record = Mapping[str, Any]

_SCORES = ("test_error", "train_error", "test_nll", "test_loss", "test_ece", "chance_error")
_COUNTS = ("threads", "parameters", "classes", "epochs", "train_images", "test_images", "train_limit", "test_limit")
# Types of fields; a record may lack those that may be null.
_RECORDED: Mapping[str, Any] = {
    **dict.fromkeys(("data", "model", "pooling"), str),
    "seed": Integral,
    "converged": bool,
    **dict.fromkeys(_SCORES + _COUNTS, Real | None),
    **dict.fromkeys(("device", "commit", "precision"), str | None),
    **dict.fromkeys(("machine", "versions"), dict | None),
    "image_shape": list | tuple | None,
}
_ANEW = "delete it, and empool evaluate writes it again"
_MACHINE = {"memory": Real | None, "gpus": list | None}
# Of an evaluation's record, and of what that says of each rule; older ones lack rules.
_EVALUATED = {"pooling": str, "seed": int, "samples": int | None, "draws": bool, "model": str | None}
_SCORED = {"error": Real, "nll": Real | None, "ece": Real | None}

SETTINGS = ("data", "model", "epochs", "batch_size", "train_limit", "test_limit", "augment", "p_schedule")
"""What runs must share to be compared."""

COMPUTED = ("device", "threads", "precision", "commit")
"""What should be the same within a table, and is named in its head where it is not."""

RULES = {
    "expectation": "expectation",
    "recalibrated": "recalibrated",
    "monte_carlo": "Monte Carlo",
    "plain_max": "plain max",
}
"""How one trained network is tested, as the records of an evaluation and as people call it."""

# For records of before they said it; they are all of CIFAR-10.
_CIFAR10 = {"classes": 10, "test_images": 10_000, "image_shape": (3, 32, 32)}
_NEAR_CHANCE = 1.0  # points by which a network that says nearly the same of all images can be better than chance


def read_records(directory: Path) -> list[Record]:
    """Read the records of a study; raise LabError if results.json is missing or holds something else."""
    path = Path(directory) / "results.json"
    if not path.is_file():
        raise LabError(f"{path} is missing: expected the folder of a study, as empool compare --out names it")
    return checked(read_json(path, REWRITE), str(path), REWRITE)


def checked(records: Any, source: str, remedy: str = "") -> list[Record]:
    """Return records that say what every record must say; raise LabError for others, and for none."""
    if not isinstance(records, list) or not records:
        said = f"{source} holds no runs: expected a list of records, one a run"
        raise LabError(f"{said}; {remedy}" if remedy else said)
    for number, record in enumerate(records, start=1):
        where = f"{source}: run {number}"
        files.checked(record, where, _RECORDED, remedy)
        files.checked(record.get("machine") or {}, f"{where}, machine", _MACHINE, remedy)
    return records


def read_evaluation(directory: Path) -> list[dict[str, Any]]:
    """Read evaluation.json if it is there, a rule that it lacks being None; raise LabError for anything else."""
    path = directory / "evaluation.json"
    records = read_json(path, _ANEW) if path.exists() else []
    if not isinstance(records, list):
        raise LabError(f"{path} holds no evaluations: expected a list of records; {_ANEW}")
    for number, record in enumerate(records, start=1):
        files.checked(record, f"{path}: record {number}", {**_EVALUATED, "expectation": dict}, _ANEW)
        for rule in (known for known in RULES if record.get(known) is not None):
            files.checked(record[rule], f"{path}: record {number}, {rule}", _SCORED, _ANEW)
    return [{**dict.fromkeys(RULES), **record} for record in records]


def completed(record: Record) -> Record:
    """Fill in what an older record lacks, or one of a user's own loop.

    "converged" also becomes false where the network does no better than guess on its training images.
    """
    older: dict[str, Any] = {
        **dict.fromkeys(_CIFAR10),
        **(_CIFAR10 if canonical(record) == "cifar10" else {}),
        "test_error": None,
        "augment": "none",
        "train_images": record.get("train_limit"),
        "test_nll": record.get("test_loss"),
        "p_schedule": "constant",
    }
    whole = older | {name: value for name, value in record.items() if value is not None or name not in older}
    chance = record.get("chance_error") or (100 * (1 - 1 / whole["classes"]) if whole["classes"] else math.inf)
    if record.get("train_error") is not None and record["train_error"] >= chance - _NEAR_CHANCE:
        whole["converged"] = False
    return whole


def of_one_setting(records: Sequence[Record], source: str) -> Sequence[Record]:
    """Return records that may be compared; raise LabError for those of several settings.

    What a pooling has of its own ("max@epochs=5") does not keep it from the others.
    """
    for name in SETTINGS:
        values = {str(record.get(name)) for record in records if f"@{name}=" not in record["pooling"]}
        if len(values) > 1:
            several = f"{source} holds runs of several settings ({name}: {', '.join(sorted(values))})"
            then = "give each a folder of its own; empool gain DIR... puts them side by side"
            raise LabError(f"{several}: {then}")
    return records


def data_name(record: Record) -> str:
    """Name the data set of a record."""
    return PurePath(str(record.get("data", ""))).name


def canonical(record: Record) -> str:
    """Name the data set of a record as it is called whatever the folder's spelling: CIFAR-10 is cifar10."""
    return data_name(record).lower().replace("-", "").replace("_", "")


def differences(records: Sequence[Record]) -> str:
    """Say in which of device, threads, precision and commit runs differ that stand in one table, if they do."""
    said = []
    for field in COMPUTED:
        values = Counter(record.get(field) for record in records)
        each = [
            f"{'not recorded' if value is None else str(value)[:10]} ({count} run{'s' if count > 1 else ''})"
            for value, count in values.most_common()
        ]
        if len(values) > 1:
            said.append(f"{field}: {', '.join(each)}")
    return f"Not all runs were computed alike: {'; '.join(said)}." if said else ""
