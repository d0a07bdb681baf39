"""Draws the figures of these pages that no command draws: `python docs/figures.py`."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import tomllib
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

import empool
from empool.lab.report.svg import INK, SETTINGS, render, style

ROOT = Path(__file__).parents[1]
ACTIVATIONS = 9  # of a 3x3 window
POOLINGS = ("max", "ensemble:0.3", "max-dropout:0.5", "stochastic-max:0.5", "ordinal:0.6,0.3,0.1", "average")


def ranks() -> str:
    """Draw P(rank) of each pooling."""
    figure = Figure(figsize=(7.2, 3.2), layout="constrained")
    axes = figure.subplots(2, 3, sharex=True, sharey=True).flat
    for axis, spelling in zip(axes, POOLINGS, strict=True):
        distribution = empool.pooling(spelling)
        assert isinstance(distribution, empool.RankDistribution)
        probabilities = distribution.probabilities(ACTIVATIONS)
        colour, _ = style(distribution.name)
        axis.bar(range(1, len(probabilities) + 1), probabilities, color=colour, width=0.7)
        axis.set_title(spelling)
        axis.set_xticks(range(1, ACTIVATIONS + 1))
    figure.supxlabel("rank of the activation in its window", fontsize=8.5)
    figure.supylabel("probability", fontsize=8.5)
    return render(figure, f"P(rank) of six poolings, for a window of {ACTIVATIONS} activations")


def imports() -> str:
    """Draw the layers of the core, from the contract that import-linter checks."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    figure = Figure(figsize=(5, 0.42 * len(layers)))
    axis = figure.add_axes((0, 0, 1, 1), xlim=(0, 1), ylim=(len(layers) - 0.4, -0.6))
    axis.set_axis_off()
    for row, layer in enumerate(layers):
        files = layer.split(" | ")
        for place, file in enumerate(files):
            middle = 0.5 + 0.24 * (place - (len(files) - 1) / 2)
            axis.add_patch(Rectangle((middle - 0.11, row - 0.3), 0.22, 0.6, fill=False, color=INK, linewidth=0.8))
            axis.text(middle, row, file, ha="center", va="center")
        if row:
            arrow = {"arrowstyle": "->", "color": INK, "linewidth": 0.8}
            axis.annotate("", (0.5, row - 0.3), (0.5, row - 0.7), arrowprops=arrow)
    return render(figure, "Imports of the core, from the top to the bottom")


FIGURES = {"ranks": ranks, "imports": imports}

if __name__ == "__main__":
    with mpl.rc_context(SETTINGS):
        for name, draw in FIGURES.items():
            (ROOT / "docs" / "images" / f"{name}.svg").write_text(draw(), encoding="utf-8")
