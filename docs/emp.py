"""Draws images/emp.svg: training and inference on a window of numbers and on an image, from what the layers give."""

from __future__ import annotations

from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

from empool.lab.cli.show import HIGHEST, WINDOW, Phases, compute
from empool.lab.report.svg import render

# Colours on light ground, and what a viewer in dark mode sees instead.
PAPER, INK, QUIET, LINE, FIRST, SECOND = "#ffffff", "#1f2328", "#59636e", "#d1d9e0", "#0a69da", "#bc4c00"
DARK = {PAPER: "#0d1117", INK: "#e6edf3", QUIET: "#9198a1", LINE: "#3d444d", FIRST: "#58a6ff", SECOND: "#f0883e"}
SHADES = LinearSegmentedColormap.from_list("shades", ["#14263a", "#4f7696", "#f4f8fb"])


def draw() -> str:
    """Return the drawing as SVG, which follows the viewer's light or dark mode."""
    svg = render(_figure(compute(p=0.4, seed=0)), "Ensemble max-pooling: training and inference")
    dark = "".join(
        f'[style*="fill: {light}"]{{fill:{dark}!important}}[style*="stroke: {light}"]{{stroke:{dark}!important}}'
        for light, dark in DARK.items()
    )
    head = svg.index(">") + 1
    return f"{svg[:head]}<style>@media(prefers-color-scheme:dark){{{dark}}}</style>{svg[head:]}"


def _figure(phases: Phases) -> Figure:
    """Draw on a canvas of 920 by 470 units, origin at the top left."""
    figure = Figure(figsize=(9.2, 4.7))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, 920), ylim=(470, 0))
    axes.set_axis_off()
    box = {"boxstyle": "round,pad=0,rounding_size=14", "facecolor": PAPER, "edgecolor": LINE}
    axes.add_patch(FancyBboxPatch((8, 8), 904, 454, **box))
    axes.plot([500, 500], [38, 178], color=LINE, linewidth=1)
    axes.plot([32, 888], [202, 202], color=LINE, linewidth=1)
    keep, drop = f"{1 - phases.p:g}", f"{phases.p:g}"
    first, second = (phases.largest, FIRST), (phases.second, SECOND)

    _label(axes, 32, 44, "Training: sample", weight="bold", size=12)
    _window(axes, 32, dict((first, second)))
    for y, (value, colour), chance, outcome in (
        (92, first, f"1 \N{MINUS SIGN} p = {keep}", "the largest"),
        (152, second, f"p = {drop}", "the second largest"),
    ):
        _arrow(axes, (140, 122), (186, y))
        _cell(axes, 194, y - 22, 44, f"{value:g}", edge=colour, size=13)
        _label(axes, 252, y - 8, f"with probability {chance}:")
        _label(axes, 252, y + 9, outcome, color=colour)

    _label(axes, 532, 44, "Inference: the expectation", weight="bold", size=12)
    _window(axes, 532, dict((first, second)))
    _arrow(axes, (640, 122), (686, 122))
    _cell(axes, 694, 100, 44, f"{phases.expectation:g}", size=13)
    _label(axes, 752, 114, "(1 \N{MINUS SIGN} p) a\u2081 + p a\u2082")
    _label(axes, 752, 131, f"= {keep} \u00d7 {phases.largest:g} + {drop} \u00d7 {phases.second:g}", color=QUIET)

    _label(axes, 32, 226, "On an image: 2\u00d72 windows of a handwritten digit", weight="bold", size=12)
    titles = ("input", "max-pooling", f"sampled, p = {drop}", "sampled again", "inference")
    for number, (title, image) in enumerate(zip(titles, (phases.image, *phases.pooled), strict=True)):
        left, side = 32 + 178 * number, 144 / len(image)
        _label(axes, left, 254, title, color=QUIET)
        for y, x in torch.ones_like(image).nonzero().tolist():
            value = float(image[y, x])
            share, corner = value / HIGHEST, (left + x * side, 268 + y * side)
            ink, digits = "#14263b" if share > 0.5 else "#f4f8fc", int(number == 4)
            written = f"{value:.{digits}f}" if number else ""
            _cell(axes, *corner, side, written, face=SHADES(share), edge=SHADES(share), width=0.6, color=ink, size=9)
            if number in (2, 3) and value != phases.pooled[0][y, x]:
                _ring(axes, corner[0] + 2, corner[1] + 2, side - 4)
    _ring(axes, 32, 428, 11)
    _label(axes, 51, 434, "the second largest was sampled", color=QUIET)
    return figure


def _window(axes: Axes, left: float, edges: dict[float, str]) -> None:
    cells = [(y, x, value) for y, line in enumerate(WINDOW) for x, value in enumerate(line)]
    for y, x, value in sorted(cells, key=lambda cell: cell[2] in edges):  # Coloured edges above the others.
        _cell(axes, left + 50 * x, 72 + 50 * y, 50, f"{value:g}", edge=edges.get(value, LINE), size=13)


def _cell(
    axes: Axes, left: float, top: float, side: float, text: str, *, face: Any = PAPER, edge: Any = LINE, **style: Any
) -> None:
    """Draw a square with a number; where its edge has a colour that means something, the number has it too."""
    marked = edge in (FIRST, SECOND)
    width = style.pop("width", 2.4 if marked else 1.2)
    axes.add_patch(Rectangle((left, top), side, side, facecolor=face, edgecolor=edge, linewidth=width))
    if text:
        emphasis = {"color": edge, "weight": "bold"} if marked else {}
        _label(axes, left + side / 2, top + side / 2, text, ha="center", **emphasis, **style)


def _ring(axes: Axes, left: float, top: float, side: float) -> None:
    axes.add_patch(Rectangle((left, top), side, side, facecolor="none", edgecolor=SECOND, linewidth=2.2, zorder=3))


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    style = {"arrowstyle": "-|>", "color": QUIET, "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", end, start, arrowprops=style)


def _label(axes: Axes, x: float, y: float, text: str, **style: Any) -> None:
    axes.text(x, y, text, **{"va": "center", "size": 9.5, "color": INK, **style})
