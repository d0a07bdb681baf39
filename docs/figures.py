"""Draws the figures of these pages that no command draws: `python docs/figures.py`."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

import empool
from empool.lab.svg import SETTINGS, render, style

ACTIVATIONS = 9  # of a 3x3 window
POOLINGS = ("max", "ensemble:0.3", "max-dropout:0.5", "stochastic-max:0.5", "ordinal:0.6,0.3,0.1", "average")
LAYERS = ("lab", "models", "ensemble, convert", "tandem, pooling", "modules", "functional", "_call", "_kernels", "_ops")


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


if __name__ == "__main__":
    with mpl.rc_context(SETTINGS):
        (Path(__file__).parent / "images" / "ranks.svg").write_text(ranks(), encoding="utf-8")
