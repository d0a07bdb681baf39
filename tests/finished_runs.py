"""What a finished run left in its folder, as far as two runs of the same configuration must agree."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import torch


def weights(folder: Path) -> dict[str, Any]:
    """Read a run's weights and its optimiser's momentum."""
    content = torch.load(folder / "last.ckpt", weights_only=True)
    return {"weights": content["state_dict"], "momentum": content["optimizer_states"][0]["sgd"]["state"]}


def rows(folder: Path) -> list[dict[str, str]]:
    """Read a run's metrics, without the seconds that its epochs took."""
    with (folder / "metrics.csv").open(newline="") as file:
        return [{**row, "seconds": ""} for row in csv.DictReader(file)]


def outcome(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record without its times, what resumed it, and the commit, which may be another as the tests run."""
    varying = ("seconds", "images_per_second", "commit", "resumed")
    return {name: value for name, value in record.items() if name not in varying}
