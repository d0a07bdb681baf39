"""Judge the study as docs/study.md says, and write its tables there: between `<!-- study -->` and `<!-- /study -->`.

python benchmarks/study_judge.py [--results results/airbench] [--into docs/study.md]
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

SETTINGS = ("50000-published", "50000-none", "5000-published", "5000-none")
RULES = ("single", "recalibrated", "tta", "recalibrated-tta")
PUBLISHED = {"airbench:64-256-256": 5.99, "airbench:64-128-128": 7.00}  # test error with test-time augmentation
BEGIN, END = "<!-- study -->", "<!-- /study -->"
OVERFITTING = ("50000-none", "5000-none")
MEANT = 0.3  # points: the gain that an interval has to exclude to refute


def welch(baseline: Sequence[float], other: Sequence[float]) -> tuple[float, float, float, float]:
    """Compare two samples: the gain (baseline less other), its 95 % interval, and the two-sided p value."""
    result = stats.ttest_ind(baseline, other, equal_var=False)
    interval = result.confidence_interval(0.95)
    return float(np.mean(baseline) - np.mean(other)), float(interval.low), float(interval.high), float(result.pvalue)


def holm(pvalues: Sequence[float]) -> list[float]:
    """Adjust p values by Holm's method."""
    order = np.argsort(pvalues)
    adjusted, highest = [0.0] * len(pvalues), 0.0
    for place, index in enumerate(order):
        highest = max(highest, min(1.0, (len(pvalues) - place) * pvalues[index]))
        adjusted[index] = highest
    return adjusted


def verdict(setting: str, low: float, high: float, adjusted: float) -> str:
    """Say what a setting shows; the interval is that of the gain."""
    if adjusted < 0.05:
        return "better than max" if low > 0 else "worse than max"
    if setting in OVERFITTING and high < MEANT:
        return f"refuted: no gain of {MEANT} points"
    return "not decided"


def mean_and_spread(values: Sequence[float]) -> str:
    """Write a mean and a standard deviation."""
    spread = f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
    return f"{np.mean(values):.2f}{spread}"


def tables(folder: Path) -> str:
    """Make the tables."""
    found: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {}
    for setting in SETTINGS:
        path = folder / "stage2" / setting / "results.json"
        if path.exists():
            records = json.loads(path.read_text(encoding="utf-8"))
            arms = [[one for one in records if (one["pooling"] == "max") == is_max] for is_max in (True, False)]
            found[setting] = (arms[0], arms[1])
    compared = {
        (setting, rule): welch(*([one["rules"][rule]["error"] for one in arm] for arm in arms))
        for setting, arms in found.items()
        for rule in RULES
    }
    adjusted = dict(zip(found, holm([compared[setting, "single"][3] for setting in found]), strict=True))
    lines = [
        "| setting | epochs | seeds | max: train, test | chosen: train, test | gain (95 %) | p (Holm) | verdict |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for setting, arms in found.items():
        gain, low, high, _ = compared[setting, "single"]
        cells = [
            f"{np.mean([one['train_error'] for one in arm]):.2f}, {mean_and_spread([one['test_error'] for one in arm])}"
            for arm in arms
        ]
        lines.append(
            f"| `{setting}` | {arms[0][0]['epochs']:g} | {len(arms[0])} | {cells[0]} "
            f"| `{arms[1][0]['pooling']}`: {cells[1]} "
            f"| {gain:+.2f} ({low:+.2f} to {high:+.2f}) | {adjusted[setting]:.2g} "
            f"| {verdict(setting, low, high, adjusted[setting])} |"
        )
    lines += ["", "Gain in points (95 % interval) by how the network is tested:", ""]
    names = ("single pass", "recalibrated", "test-time augmentation", "both")
    lines += [f"| setting | {' | '.join(names)} |", "|---|---|---|---|---|"]
    for setting in found:
        cells = []
        for rule in RULES:
            gain, low, high, _ = compared[setting, rule]
            cells.append(f"{gain:+.2f} ({low:+.2f} to {high:+.2f})")
        lines.append(f"| `{setting}` | {' | '.join(cells)} |")
    lines += [
        "",
        "Max against the chosen pooling:",
        "",
        "| setting | NLL | ECE in % | images a second |",
        "|---|---|---|---|",
    ]
    for setting, arms in found.items():
        columns = []
        for name, digits in (("test_nll", 3), ("test_ece", 1), ("images_per_second", 0)):
            columns.append(" / ".join(f"{np.mean([one[name] for one in arm]):,.{digits}f}" for arm in arms))
        lines.append(f"| `{setting}` | {' | '.join(columns)} |")
    checked = found["50000-published"][0] if "50000-published" in found else []
    path = folder / "check" / "results.json"
    checks = [checked, json.loads(path.read_text(encoding="utf-8")) if path.exists() else []]
    lines += ["", "Check with max, with test-time augmentation:", ""]
    lines += ["| network | seeds | accuracy in % (95 %) | published | single pass |", "|---|---|---|---|---|"]
    for records in checks:
        if len(records) > 1:
            right = 100 - np.array([one["rules"]["tta"]["error"] for one in records])
            half = stats.t.ppf(0.975, len(right) - 1) * right.std(ddof=1) / math.sqrt(len(right))
            plain = 100 - np.mean([one["test_error"] for one in records])
            model = records[0]["model"]
            published = f"{100 - PUBLISHED[model]:.2f}" if model in PUBLISHED else ""
            lines.append(f"| `{model}` | {len(right)} | {right.mean():.2f} ± {half:.2f} | {published} | {plain:.2f} |")
    return "\n".join(lines)


def chosen(folder: Path) -> str:
    """Make the table of stage 1."""
    choice = json.loads((folder / "choice.json").read_text(encoding="utf-8"))
    poolings = list(next(iter(choice.values()))["held_out_error"])
    lines = [
        f"| setting | epochs | {' | '.join(f'`{name}`' for name in poolings)} |",
        "|---|---|" + "---|" * len(poolings),
    ]
    for setting, of_setting in choice.items():
        errors = [
            f"**{of_setting['held_out_error'][name]:.2f}**"
            if name == of_setting["chosen"]
            else f"{of_setting['held_out_error'][name]:.2f}"
            for name in poolings
        ]
        lines.append(f"| `{setting}` | {of_setting['epochs']:g} | {' | '.join(errors)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results/airbench"))
    parser.add_argument("--into", type=Path)
    options = parser.parse_args()
    text = (
        "Held-out error of stage 1 in percent, mean of the seeds; the chosen pooling is bold:\n\n"
        f"{chosen(options.results)}\n\nStage 2, errors in percent, gains in points:\n\n{tables(options.results)}"
    )
    if options.into is None:
        print(text)
        return
    page = options.into.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    options.into.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
