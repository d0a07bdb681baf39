"""What a finished run left in its folder, as far as two runs of the same configuration must agree."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

NAMES = {"config.json", "metrics.csv", "last.ckpt", "result.json"}  # of the files of a finished run


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


def same(directory: Path, whole: Path, poolings: Sequence[str]) -> bool:
    """Compare two finished studies: weights and momentum bit for bit, metrics, records, names of files."""
    for folder in (f"{pooling.replace(':', '-')}/0" for pooling in poolings):
        ours, theirs = (weights(d / folder) for d in (directory, whole))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)
        assert rows(directory / folder) == rows(whole / folder)
        assert {path.name for path in (directory / folder).iterdir()} == NAMES
    records, others = (json.loads((d / "results.json").read_text()) for d in (directory, whole))
    assert [outcome(record) for record in records] == [outcome(record) for record in others[: len(poolings)]]
    assert [record["pooling"] for record in records] == [*poolings]
    assert not list(directory.rglob("*.tmp"))
    return True
