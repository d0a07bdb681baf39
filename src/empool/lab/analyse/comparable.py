"""What may be compared: runs of one setting that were computed alike, and that learnt something."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

Record = Mapping[str, Any]

SETTINGS = ("data", "model", "epochs", "batch_size", "train_limit", "test_limit", "augment", "p_schedule")
"""What runs must share to be compared; records that differ in one of these get a section of their own."""
_DEFAULTS = {"p_schedule": "constant"}

COMPUTED = ("device", "threads", "precision", "commit")
"""What should be the same within a table, and is named in its head where it is not."""

# Of data sets with a name, for records of before they said it: classes, test images, image shape.
_KNOWN = {
    "digits": (10, 355, (1, 8, 8)),
    "cifar10": (10, 10_000, (3, 32, 32)),
    "cifar100": (100, 10_000, (3, 32, 32)),
    "fashionmnist": (10, 10_000, (1, 28, 28)),
    "svhn": (10, 26_032, (3, 32, 32)),
}
_NEAR_CHANCE = 1.0  # points by which a network that says nearly the same of all images can be better than chance


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
    whole, limit = record.get("test_images") or _known(record)[1], record.get("test_limit")
    return min(whole, limit) if whole and limit else whole or limit


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
