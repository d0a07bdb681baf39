"""The records of runs: read, checked, and split into those of one setting, which may be compared."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from empool.lab.errors import LabError
from empool.lab.files import read_json

Record = Mapping[str, Any]

# Fields without which a record says nothing, and their types.
REQUIRED: Mapping[str, type | tuple[type, ...]] = {
    "data": str,
    "model": str,
    "pooling": str,
    "seed": int,
    "converged": bool,
    "test_error": (int, float, type(None)),
}

SETTINGS = ("data", "model", "epochs", "batch_size", "train_limit", "test_limit", "augment", "p_schedule")
"""What runs must share to be compared; records that differ in one of these get a section of their own."""
_DEFAULTS = {"p_schedule": "constant"}

COMPUTED = ("device", "threads", "precision", "commit")
"""What should be the same within a table, and is named in its head where it is not."""

RULES = {
    "expectation": "expectation",
    "recalibrated": "recalibrated",
    "monte_carlo": "Monte Carlo",
    "plain_max": "plain max",
}
"""How one trained network is tested, as the records of an evaluation and as people call it."""
_LATER = "recalibrated"  # a rule that older evaluations lack

# Of data sets with a name, for records of before they said it: classes, test images, image shape.
_KNOWN = {
    "digits": (10, 355, (1, 8, 8)),
    "cifar10": (10, 10_000, (3, 32, 32)),
    "cifar100": (100, 10_000, (3, 32, 32)),
    "fashionmnist": (10, 10_000, (1, 28, 28)),
    "svhn": (10, 26_032, (3, 32, 32)),
}
_NEAR_CHANCE = 1.0  # points by which a network that says nearly the same of all images can be better than chance


def read_records(directory: Path) -> list[Record]:
    """Read the records of a study.

    Raises:
        LabError: if results.json is missing, is no JSON, or holds something else than records.
    """
    path = Path(directory) / "results.json"
    if not path.is_file():
        raise LabError(f"{path} is missing: expected the folder of a study, as empool compare --out names it")
    return checked(read_json(path), str(path))


def checked(records: Any, source: str) -> list[Record]:
    """Return records that say what every record must say.

    Raises:
        LabError: for others, and for none.
    """
    if not isinstance(records, list) or not records:
        raise LabError(f"{source} holds no runs: expected a list of records, one a run")
    for number, record in enumerate(records, start=1):
        for name, kinds in REQUIRED.items():
            if not isinstance(record, dict) or name not in record or not isinstance(record[name], kinds):
                raise LabError(f"{source}: run {number} has no valid {name}")
    return records


def read_evaluation(path: Path) -> list[dict[str, Any]]:
    """Read evaluation.json; a rule that it does not know is None.

    Raises:
        LabError: if it holds something else.
    """
    records = read_json(path)
    needed = {"pooling", "seed", "samples", "draws", *RULES} - {_LATER}
    if not isinstance(records, list) or not all(isinstance(one, dict) and needed <= one.keys() for one in records):
        raise LabError(f"{path} holds no evaluations: expected a list of records, as empool evaluate writes it")
    return [{_LATER: None, **record} for record in records]


def group(records: Sequence[Record]) -> list[list[Record]]:
    """Split records into lists of runs of one setting, in the order of their first appearance.

    What a pooling has of its own ("max@epochs=5") does not keep it from the others.
    """
    groups: list[tuple[dict[str, Any], list[Record]]] = []
    for record in records:
        own = {choice.partition("=")[0] for choice in record["pooling"].split("@")[1:]}
        settings = {name: record.get(name, _DEFAULTS.get(name)) for name in SETTINGS if name not in own}
        for known, runs in groups:
            if all(known.get(name, value) == value for name, value in settings.items()):
                known.update(settings)
                runs.append(record)
                break
        else:
            groups.append((settings, [record]))
    return [runs for _, runs in groups]


def data_name(record: Record) -> str:
    """Name the data set of a record."""
    return PurePath(str(record.get("data", ""))).name


def canonical(record: Record) -> str:
    """Name the data set of a record as it is called whatever the folder's spelling: CIFAR-10 is cifar10."""
    return data_name(record).lower().replace("-", "").replace("_", "")


def _known(record: Record) -> tuple[Any, Any, Any]:
    return _KNOWN.get(canonical(record), (None, None, None))


def classes(record: Record) -> int | None:
    """Give the number of classes, if it is known."""
    number: int | None = record.get("classes") or _known(record)[0]
    return number


def image_shape(record: Record) -> tuple[int, ...] | None:
    """Give channels, height and width, if they are known."""
    shape = record.get("image_shape") or _known(record)[2]
    return tuple(shape) if shape else None


def images_trained(record: Record) -> int | None:
    """Give the number of training images, if it is known; older records say only its limit."""
    return record.get("train_images") or record.get("train_limit")


def images_tested(record: Record) -> int | None:
    """Give the number of test images, if it is known."""
    known = [number for number in (record.get("test_images") or _known(record)[1], record.get("test_limit")) if number]
    return min(known, default=None)


def augmented(record: Record) -> bool:
    """Tell whether training images were augmented."""
    return record.get("augment") not in (None, "none")


def converged(record: Record) -> bool:
    """Tell whether a run's losses stayed finite and its network does better than guess on its training images."""
    if not record.get("converged", True):
        return False
    error, number = record.get("train_error"), classes(record)
    chance = record.get("chance_error") or (100 * (1 - 1 / number) if number else None)
    return error is None or chance is None or error < chance - _NEAR_CHANCE


def finite(value: object) -> bool:
    """Tell whether a field holds a number."""
    return isinstance(value, (int, float)) and math.isfinite(value)


def distinct(records: Iterable[Record], name: str) -> list[Any]:
    """List the values of a field that is recorded, each once."""
    return list(dict.fromkeys(record[name] for record in records if record.get(name) is not None))


def differences(records: Sequence[Record]) -> list[str]:
    """Say in which of device, threads, precision and commit runs differ that stand in one table."""
    said = []
    for field in COMPUTED:
        values = Counter(record.get(field) for record in records)
        if len(values) > 1:
            each = [
                f"{'not recorded' if value is None else str(value)[:10]} ({count} run{'s' if count > 1 else ''})"
                for value, count in values.most_common()
            ]
            said.append(f"{field}: {', '.join(each)}")
    return said
