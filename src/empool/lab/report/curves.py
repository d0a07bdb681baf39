"""Learning curves: training against test error, a panel for each pooling."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from empool.lab.analyse import statistics
from empool.lab.analyse.findings import label
from empool.lab.errors import LabError
from empool.lab.report import table
from empool.lab.report.panels import Multiples, small_multiples
from empool.lab.report.svg import INK, Plot, style
from empool.lab.report.table import Sheet
from empool.lab.study.run import folder_name

Which = Literal["train_errors", "test_errors"]
DASHES = (0, (3, 1.5))


@dataclass(frozen=True)
class Curve:
    """The learning curve of one run.

    Attributes:
        pooling: spelling of its pooling.
        seed: its seed.
        epochs: epoch numbers.
        train_errors: train error in percent at each, of the batches as they came; NaN where there is none.
        test_errors: test error in percent at each; NaN where there is none.
        fitted: train error in percent at the end, of the images as they are and in inference mode, if it is known.
    """

    pooling: str
    seed: int
    epochs: tuple[float, ...]
    train_errors: tuple[float, ...]
    test_errors: tuple[float, ...]
    fitted: float | None = None


def read_curve(directory: Path, record: Mapping[str, Any]) -> Curve | None:
    """Read the learning curve of a run of a study's folder, if its metrics are there.

    Raises:
        LabError: if they are damaged.
    """
    pooling, seed = record["pooling"], record["seed"]
    path = directory / folder_name(pooling) / str(seed) / "metrics.csv"
    if not path.is_file():
        return None
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file))
        columns = [tuple(_number(line[name]) for line in lines) for name in ("epoch", "train_error", "test_error")]
    except (ValueError, KeyError) as error:
        raise LabError(f"{path} is damaged ({error!r}); delete it to do without this learning curve") from None
    epochs, train_errors, test_errors = columns
    return Curve(pooling, seed, epochs, train_errors, test_errors, fitted=record.get("train_error"))


def learning_curves(curves: Sequence[Curve], order: Sequence[str], baseline: str) -> Plot | None:
    """Draw train and test error by epoch, means over runs, with those of the baseline in grey behind.

    Args:
        curves: one a run.
        order: spellings in the order of the panels.
        baseline: spelling of the one behind the others.
    """
    runs = {pooling: found for pooling in order if (found := [curve for curve in curves if curve.pooling == pooling])}
    values = [v for curve in curves for v in (*curve.train_errors, *curve.test_errors) if math.isfinite(v)]
    if not runs or not values:
        return None
    ends = {pooling: _End.of(found) for pooling, found in runs.items()}
    tests = [end.test for end in ends.values() if end.test is not None]
    # What the first epochs lose, and what did not converge, would dwarf the rest.
    top = min(1.05 * max(values), 2.5 * float(np.median(tests))) if tests else 1.05 * max(values)
    top = top or 1.0  # Nothing may be wrong in any of them.
    last = max(epoch for curve in curves for epoch in curve.epochs)

    def draw(axes: Axes, pooling: str) -> None:
        axes.set_xlim(0, last)
        axes.set_ylim(0, top)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        if pooling != baseline:
            _mean_lines(axes, runs.get(baseline, []), INK, 0.65)
        colour, _ = style(pooling)
        if len(runs[pooling]) > 1:
            for curve in runs[pooling]:
                axes.plot(*_finite(curve.epochs, curve.train_errors), color=colour, alpha=0.3, linewidth=0.6)
                axes.plot(*_finite(curve.epochs, curve.test_errors), color=colour, alpha=0.3, linewidth=0.6)
        _mean_lines(axes, runs[pooling], colour, 1.0)
        end = ends[pooling].test
        if end is not None and end > top:
            axes.annotate(f"test {end:.0f} % \N{UPWARDS ARROW}", (last, top), (0, -2), ha="right", va="top",
                          textcoords="offset points", color=colour)  # fmt: skip

    return small_multiples(
        Multiples(
            "learning-curves",
            "Learning curves",
            "Error in percent by epoch. Solid: test; dashed: training, of the batches as they are trained on, with "
            "their augmentation and samples. Lines are means over seeds, thin ones the seeds where there are several; "
            f"grey, behind: {label(baseline)}. The scale ends at {top:.0f} %.",
            "epoch",
            "error, %",
            draw,
            [
                Line2D([], [], color=INK, label="test"),
                Line2D([], [], color=INK, linestyle=DASHES, label="training"),
                Line2D([], [], color=INK, alpha=0.65, linewidth=1, label=f"{label(baseline)}, behind"),
            ],
        ),
        {pooling: end.note() for pooling, end in ends.items()},
        {pooling: f"Errors after the last epoch, means over runs: {end.said()}." for pooling, end in ends.items()},
        (_ends_sheet(ends),),
    )


@dataclass(frozen=True)
class _End:
    """Errors after the last epoch in percent, means over runs; None where there is none."""

    train: float | None  # as trained on
    fitted: float | None  # the images as they are, in inference mode
    test: float | None

    @classmethod
    def of(cls, curves: Sequence[Curve]) -> _End:
        train, test = (
            statistics.mean([values[-1] if (values := _finite(c.epochs, getattr(c, of))[1]) else None for c in curves])
            for of in ("train_errors", "test_errors")
        )
        return cls(train, statistics.mean([curve.fitted for curve in curves]), test)

    @property
    def gap(self) -> float | None:
        return None if self.test is None or self.fitted is None else self.test - self.fitted

    def note(self) -> str:
        said = [f"test {self.test:.1f}"] if self.test is not None else []
        if self.train is not None:
            said.append(f"training {self.train:.1f}")
        return ", ".join(said)

    def said(self) -> str:
        told = [
            f"{name} {value:.2f} %"
            for name, value in (
                ("test", self.test),
                ("training as trained on", self.train),
                ("training images in inference mode", self.fitted),
            )
            if value is not None
        ]
        return ", ".join(told) or "none"


def _ends_sheet(ends: Mapping[str, _End]) -> Sheet:
    return table.sheet(
        "Errors after the last epoch, means over seeds",
        {
            "Pooling": table.poolings(list(ends)),
            "Test error %": ([end.test for end in ends.values()], ".2f"),
            "Training error %, inference mode": ([end.fitted for end in ends.values()], ".2f"),
            "Gap, points": ([end.gap for end in ends.values()], "+.2f"),
            "Training error %, as trained on": ([end.train for end in ends.values()], ".2f"),
        },
    )


def _mean_lines(axes: Axes, curves: Sequence[Curve], colour: str, strength: float) -> None:
    """Draw the mean test error as a solid line and the mean train error as a dashed one; few epochs have marks."""
    ways: tuple[tuple[Which, Any], ...] = (("train_errors", DASHES), ("test_errors", "-"))
    for of, dashes in ways:
        epochs, means = _mean_curve(curves, of)
        mark: dict[str, Any] = {"marker": ".", "markersize": 4} if len(epochs) <= 6 else {}
        axes.plot(epochs, means, color=colour, alpha=strength, linestyle=dashes, linewidth=1.5 * strength, **mark)


def _mean_curve(curves: Sequence[Curve], of: Which) -> tuple[list[float], list[float]]:
    """Average the errors at each epoch at which every one of these runs has one."""
    by_epoch: dict[float, list[float]] = {}
    for curve in curves:
        for epoch, value in zip(*_finite(curve.epochs, getattr(curve, of)), strict=True):
            by_epoch.setdefault(epoch, []).append(value)
    common = sorted(epoch for epoch, values in by_epoch.items() if len(values) == len(curves))
    return common, [float(np.mean(by_epoch[epoch])) for epoch in common]


def _finite(epochs: Sequence[float], values: Sequence[float]) -> tuple[list[float], list[float]]:
    kept = [(epoch, value) for epoch, value in zip(epochs, values, strict=True) if math.isfinite(value)]
    return [epoch for epoch, _ in kept], [value for _, value in kept]


def _number(text: str | None) -> float:
    return float(text) if text else math.nan
