"""The demo's network trained on the expectation: `--model expectation:cnn`. Run as a program, it prints the table."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from statistics import mean
from typing import Any

from scipy import stats
from torch import Tensor, nn

from empool import models
from empool.distributions import Pooling

SCORES = {"test_error": "test error %", "test_nll": "NLL", "test_ece": "ECE %", "train_error": "training error %"}
SEEDS = range(8)
"""Those of the demo; later ones were added for ensemble max-pooling."""


class Expectation(nn.Module):
    """A pooling layer that never samples."""

    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, input: Tensor) -> Tensor:
        output: Tensor = self.pool.eval()(input)
        return output


def cnn(pooling: Pooling, num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    net = models.create(
        "cnn", num_classes=num_classes, pooling=pooling, in_channels=in_channels, image_size=image_size, width=16
    )
    for stage in net.stages:  # type: ignore[union-attr]
        stage[-1] = Expectation(stage[-1])
    return net


_own = models.network("cnn").recipe
cnn.recipe = models.Recipe(**{field.name: getattr(_own, field.name) for field in dataclasses.fields(models.Recipe)})  # type: ignore[attr-defined]


def main() -> None:
    """Print the means, and by how much sampling changes them: Welch's 95 % interval."""
    here = Path(__file__).parent
    sampled, expected = (json.loads((here / name).read_text()) for name in ("sampled.json", "expectation.json"))

    def values(records: list[dict[str, Any]], pooling: str, score: str, seeds: range) -> list[float]:
        return [record[score] for record in records if record["pooling"] == pooling and record["seed"] in seeds]

    print(
        "| pooling | score | max-pooling | trained on the expectation | sampled | change by sampling [95 % interval] |"
    )
    print("|---|---|---:|---:|---:|---:|")
    for pooling in ("ensemble:0.4", "max-dropout:0.4"):
        for score, name in SCORES.items():
            base = mean(values(sampled, "max", score, SEEDS))
            without, with_ = (values(records, pooling, score, SEEDS) for records in (expected, sampled))
            means = f"{base:.2f} | {mean(without):.2f} | {mean(with_):.2f}"
            print(f"| `{pooling}` | {name} | {means} | {_change(with_, without)} |")
    print()
    for seeds in (range(8, 16), range(16)):
        with_, without = (values(records, "ensemble:0.4", "test_error", seeds) for records in (sampled, expected))
        print(f"ensemble:0.4, test error %, seeds {seeds[0]} to {seeds[-1]}: {_change(with_, without)}")


def _change(with_: list[float], without: list[float]) -> str:
    low, high = stats.ttest_ind(with_, without, equal_var=False).confidence_interval(0.95)
    return f"{mean(with_) - mean(without):+.2f} [{low:+.2f}, {high:+.2f}]"


if __name__ == "__main__":
    main()
