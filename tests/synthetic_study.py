"""Studies that nobody ran: records and learning curves to report on."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from empool.lab.study.run import folder_name

# Overconfident by 5 points in each of its two bins.
CALIBRATION = {
    "confidence": [*[None] * 9, 0.65, *[None] * 4, 0.95],
    "accuracy": [*[None] * 9, 0.6, *[None] * 4, 0.9],
    "count": [*[0] * 9, 2500, *[0] * 4, 7500],
}


def record(pooling: str, seed: int, error: float | None, **changes: Any) -> dict[str, Any]:
    """Make a synthetic record; an error of None is a run that diverged."""
    converged = error is not None
    return {
        "data": "cifar10",
        "model": "cnn",
        "pooling": pooling,
        "p": None if "," in pooling else float(pooling.partition(":")[2] or 0) or None,
        "seed": seed,
        "epochs": 4,
        "batch_size": 128,
        "train_limit": 1000,
        "test_limit": None,
        "augment": "crop:4,mirror",
        "test_error": error,
        "train_error": error and error / 2,
        "test_loss": 0.5 if converged else None,
        "train_loss": 0.25 if converged else None,
        "test_nll": 0.5 if converged else None,
        "test_ece": 1.25 + seed if converged else None,
        "converged": converged,
        "seconds": 61.5,
        "images_per_second": 1234.5,
        "calibration": CALIBRATION if converged else None,
        "device": "cpu (synthetic)",
        "machine": {
            "processor": "Synthetic 9000",
            "cores": 2,
            "memory": 2**33,
            "gpus": [],
            "system": "Linux 6.1 x86_64",
        },
        "threads": 2,
        "versions": {"torch": "2.13.0", "empool": "0.1.0"},
        "commit": "0123456789abcdef",
        "parameters": 131_000,
        **changes,
    }


def write_study(directory: Path, records: list[dict[str, Any]], **study: Any) -> Path:
    """Write a study's folder, a learning curve a run included."""
    directory.mkdir(exist_ok=True)
    (directory / "results.json").write_text(json.dumps(records))
    told = {"command": "empool compare --seeds 3", "configuration": {}, "poolings": [], "seeds": [], **study}
    (directory / "study.json").write_text(json.dumps(told))
    for run in records:
        folder = directory / folder_name(run["pooling"]) / str(run["seed"])
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "metrics.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["epoch", "lr", "train_loss", "train_error", "test_loss", "test_error", "seconds"])
            for epoch in range(1, 5):
                test = (run["test_error"] or 90.0) + 4 - epoch if epoch % 2 == 0 else ""
                writer.writerow([epoch, 0.1, 0.5, (run["train_error"] or 90.0) + 4 - epoch, 0.6, test, 15.0])
    return directory


# What the paper's figures may stand beside; CIFAR-10 by name is known to have ten classes and 32x32 pixels.
OF_THE_PAPERS_KIND = {"epochs": 20, "train_limit": 10_000, "train_images": 10_000, "test_images": 10_000}

# Differences from max: average -1.0, -1.1, -0.9; ensemble:0.3 0.9, 1.0, 1.1; ensemble:0.1 0.3, -0.2, 0.1.
RECORDS = [
    record(pooling, seed, error)
    for pooling, errors in {
        "max": (15.0, 15.3, 15.6),
        "average": (16.0, 16.4, 16.5),
        "ensemble:0.1": (14.7, 15.5, 15.5),
        "ensemble:0.3": (14.1, 14.3, 14.5),
        "max-dropout:0.4": (25.0, None, 26.0),
    }.items()
    for seed, error in enumerate(errors)
]
STUDY = {
    "poolings": ["max", "average", "ensemble:0.1", "ensemble:0.3", "max-dropout:0.4", "max-dropout:0.7"],
    "seeds": [0, 1, 2],
    "configuration": {"fingerprint": "feed", "recipe": {"epochs": 4, "learning_rate": 0.05, "milestones": [0.5, 0.75]}},
}
