"""Ensemble max-pooling, drawn: training and inference on a window of numbers and on an image."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import rich.box
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text
from torch import Tensor

import empool
from empool.lab.errors import LabError
from empool.lab.files import replacing
from empool.lab.report.svg import SETTINGS, render

WINDOW = ((2.0, 9.0), (7.0, 1.0))
DIGIT = 12  # of scikit-learn's digits: a two, whose strokes fill many windows
HIGHEST = 16.0  # of its pixels

# Colours of the picture on light ground, and what a viewer in dark mode sees instead.
PAPER, INK, QUIET, LINE, FIRST, SECOND = "#ffffff", "#1f2328", "#59636e", "#d1d9e0", "#0a69da", "#bc4c00"
DARK = {PAPER: "#0d1117", INK: "#e6edf3", QUIET: "#9198a1", LINE: "#3d444d", FIRST: "#58a6ff", SECOND: "#f0883e"}
SHADES = LinearSegmentedColormap.from_list("shades", ["#14263a", "#4f7696", "#f4f8fb"])


@dataclass(frozen=True)
class Phases:
    """What the layers give for one window and one image.

    Attributes:
        p: probability of dropping the largest activation.
        window: the window's numbers, ``(2, 2)``.
        largest: output for the window when the largest is kept.
        second: output when it is dropped.
        expectation: output at inference.
        image: ``(8, 8)``.
        maximum: max-pooling of the image, ``(4, 4)``.
        draws: two draws of ensemble max-pooling in training, each ``(4, 4)``.
        mean: ensemble max-pooling at inference, ``(4, 4)``.
    """

    p: float
    window: Tensor
    largest: float
    second: float
    expectation: float
    image: Tensor
    maximum: Tensor
    draws: tuple[Tensor, Tensor]
    mean: Tensor


def show(output: Path | None = None, *, p: float = 0.4, seed: int = 0, console: Console | None = None) -> None:
    """Draw training and inference of ensemble max-pooling.

    Args:
        output: file to draw to, PNG, SVG or PDF by its suffix; None draws in the terminal.
        p: probability of dropping the largest activation, in [0, 1].
        seed: of the draws.
        console: where the terminal's drawing goes, standard output by default.

    Raises:
        ValueError: if p is outside [0, 1].
        LabError: if the suffix is another.
    """
    if output is not None and output.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise LabError(f"{output}: expected a file name that ends in .png, .svg or .pdf")
    phases = compute(p, seed)
    if output is None:
        (console or Console()).print(terminal(phases))
        return
    content = picture(phases, output.suffix.lower())
    with replacing(output) as unfinished:
        unfinished.write_bytes(content)


def compute(p: float, seed: int) -> Phases:
    """Apply the layers.

    Raises:
        ValueError: if p is outside [0, 1].
    """
    from sklearn.datasets import load_digits

    image = torch.tensor(load_digits().images[DIGIT], dtype=torch.float32)  # (8, 8)
    window = torch.tensor(WINDOW)
    pool = empool.EnsembleMaxPool2d(2, p=p)

    def one(layer: torch.nn.Module) -> float:
        return float(layer(window[None]))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Phases(
            p=p,
            window=window,
            largest=one(empool.EnsembleMaxPool2d(2, p=0.0)),
            second=one(empool.EnsembleMaxPool2d(2, p=1.0)),
            expectation=one(empool.EnsembleMaxPool2d(2, p=p).eval()),
            image=image,
            maximum=torch.nn.MaxPool2d(2)(image[None])[0],
            draws=(pool(image[None])[0], pool(image[None])[0]),
            mean=empool.EnsembleMaxPool2d(2, p=p).eval()(image[None])[0],
        )


def terminal(phases: Phases) -> Group:
    """Return the drawing as a rich renderable, 72 columns wide and readable without colour."""
    keep = f"{1 - phases.p:g}"
    drop = f"{phases.p:g}"
    window = _window_text(phases)
    training = Text.assemble(
        f"with probability 1-p = {keep}: the largest, ",
        (f"{phases.largest:g}", "bold blue"),
        f"\nwith probability   p = {drop}: the second largest, ",
        (f"{phases.second:g}", "bold dark_orange"),
    )
    testing = Text.assemble(
        f"(1-p) a1 + p a2 = {keep} * ",
        (f"{phases.largest:g}", "bold blue"),
        f" + {drop} * ",
        (f"{phases.second:g}", "bold dark_orange"),
        f" = {phases.expectation:g}",
    )
    rules = Table(box=rich.box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for header in ("Phase", "Window", "Output"):
        rules.add_column(header)
    rules.add_row("training", window, training)
    rules.add_row("", "", "")
    rules.add_row("inference", window, testing)

    grids = Table.grid(padding=(0, 3))
    first, second = phases.draws
    grids.add_row("max", "sampled", "sampled again", "inference")
    grids.add_row(
        _grid_text(phases.maximum, phases.maximum),
        _grid_text(first, phases.maximum),
        _grid_text(second, phases.maximum),
        _grid_text(phases.mean, phases.mean, decimals=1),
    )
    return Group(
        Text(f"Ensemble max-pooling, p = {drop}\n", style="bold"),
        rules,
        Text("\nAn 8x8 image and its 2x2 windows; *: the second largest was sampled\n"),
        _grid_text(phases.image, phases.image),
        "",
        grids,
    )


def picture(phases: Phases, suffix: str) -> bytes:
    """Return the drawing as a file's content.

    Args:
        phases: what to draw.
        suffix: ".png", ".pdf", or ".svg", which follows the viewer's light or dark mode.
    """
    with mpl.rc_context({**SETTINGS, "text.color": INK}):
        figure = _figure(phases)
        if suffix != ".svg":
            buffer = io.BytesIO()
            undated = (
                {"Software": None} if suffix == ".png" else {"CreationDate": None, "Creator": None, "Producer": None}
            )
            figure.savefig(buffer, format=suffix[1:], dpi=160, transparent=True, metadata=undated)
            return buffer.getvalue()
        svg = render(figure, "Ensemble max-pooling: training and inference")
    dark = "".join(
        f'[style*="fill: {light}"]{{fill:{dark}!important}}[style*="stroke: {light}"]{{stroke:{dark}!important}}'
        for light, dark in DARK.items()
    )
    head = svg.index(">") + 1
    return f"{svg[:head]}<style>@media(prefers-color-scheme:dark){{{dark}}}</style>{svg[head:]}".encode()


def _window_text(phases: Phases) -> Text:
    text = Text()
    for y, line in enumerate(phases.window.tolist()):
        text.append("\n" if y else "")
        for value in line:
            style = {phases.largest: "bold blue", phases.second: "bold dark_orange"}.get(value, "")
            text.append(f"{value:2g}", style)
    return text


def _grid_text(values: Tensor, maximum: Tensor, decimals: int = 0) -> Text:
    """Write an image as shaded numbers; a star where it differs from the maximum."""
    text = Text()
    for y, (line, highest) in enumerate(zip(values.tolist(), maximum.tolist(), strict=True)):
        text.append("\n" if y else "")
        for value, reference in zip(line, highest, strict=True):
            shade = round(value / HIGHEST * 255)
            ink = "black" if shade > 127 else "white"
            mark = "*" if value != reference else " "
            style = f"{'bold dark_orange' if mark == '*' else ink} on rgb({shade},{shade},{shade})"
            text.append(f"{value:{4 if decimals else 2}.{decimals}f}{mark}", style)
    return text


def _figure(phases: Phases) -> Figure:
    """Draw on a canvas of 920 by 470 units, origin at the top left."""
    figure = Figure(figsize=(9.2, 4.7))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, 920)
    axes.set_ylim(470, 0)
    axes.set_axis_off()
    axes.add_patch(
        FancyBboxPatch(
            (8, 8), 904, 454, boxstyle="round,pad=0,rounding_size=14", facecolor=PAPER, edgecolor=LINE, linewidth=1
        )
    )
    _training(axes, phases)
    axes.plot([500, 500], [38, 178], color=LINE, linewidth=1)
    _testing(axes, phases)
    axes.plot([32, 888], [202, 202], color=LINE, linewidth=1)
    _images(axes, phases)
    return figure


def _training(axes: Axes, phases: Phases) -> None:
    _label(axes, 32, 44, "Training: sample", weight="bold", size=12)
    _window(axes, 32, 72, phases)
    for y, value, colour, chance, outcome in (
        (92, phases.largest, FIRST, f"1 \N{MINUS SIGN} p = {1 - phases.p:g}", "the largest"),
        (152, phases.second, SECOND, f"p = {phases.p:g}", "the second largest"),
    ):
        _arrow(axes, (140, 122), (186, y))
        _cell(axes, 194, y - 22, 44, value, edge=colour)
        _label(axes, 252, y - 8, f"with probability {chance}:")
        _label(axes, 252, y + 9, outcome, color=colour)


def _testing(axes: Axes, phases: Phases) -> None:
    _label(axes, 532, 44, "Inference: the expectation", weight="bold", size=12)
    _window(axes, 532, 72, phases)
    _arrow(axes, (640, 122), (686, 122))
    _cell(axes, 694, 100, 44, phases.expectation)
    _label(axes, 752, 114, "(1 \N{MINUS SIGN} p) a\u2081 + p a\u2082")
    terms = f"{1 - phases.p:g} \u00d7 {phases.largest:g} + {phases.p:g} \u00d7 {phases.second:g}"
    _label(axes, 752, 131, f"= {terms}", color=QUIET)


def _images(axes: Axes, phases: Phases) -> None:
    _label(axes, 32, 226, "On an image: 2\u00d72 windows of a handwritten digit", weight="bold", size=12)
    sampled = f"sampled, p = {phases.p:g}"
    titles = ("input", "max-pooling", sampled, "sampled again", "inference")
    values = (phases.image, phases.maximum, *phases.draws, phases.mean)
    for number, (title, image) in enumerate(zip(titles, values, strict=True)):
        left, top, side = 32 + 178 * number, 268, 144
        _label(axes, left, top - 14, title, color=QUIET)
        size = side / len(image)
        for y, line in enumerate(image.tolist()):
            for x, value in enumerate(line):
                second = number in (2, 3) and value != phases.maximum[y, x]
                written = value if number else None
                _shade(axes, left + x * size, top + y * size, size, value, written, digits=int(number == 4))
                if second:
                    _ring(axes, left + x * size, top + y * size, size)
    axes.add_patch(Rectangle((32, 428), 11, 11, facecolor="none", edgecolor=SECOND, linewidth=2))
    _label(axes, 51, 434, "the second largest was sampled", color=QUIET)


def _window(axes: Axes, left: float, top: float, phases: Phases) -> None:
    for y, line in enumerate(phases.window.tolist()):
        for x, value in enumerate(line):
            _cell(axes, left + 50 * x, top + 50 * y, 50, value)
    for value, colour in ((phases.largest, FIRST), (phases.second, SECOND)):
        y, x = (phases.window == value).nonzero()[0].tolist()
        _cell(axes, left + 50 * x, top + 50 * y, 50, value, edge=colour)


def _cell(axes: Axes, left: float, top: float, size: float, value: float, *, edge: str = LINE) -> None:
    width = 1.2 if edge == LINE else 2.4
    axes.add_patch(Rectangle((left, top), size, size, facecolor=PAPER, edgecolor=edge, linewidth=width))
    colour = INK if edge == LINE else edge
    weight = "normal" if edge == LINE else "bold"
    _label(axes, left + size / 2, top + size / 2, f"{value:g}", ha="center", size=13, color=colour, weight=weight)


def _shade(
    axes: Axes, left: float, top: float, size: float, value: float, written: float | None, *, digits: int
) -> None:
    share = value / HIGHEST
    axes.add_patch(Rectangle((left, top), size, size, facecolor=SHADES(share), edgecolor=SHADES(share), linewidth=0.6))
    if written is not None:
        ink = "#14263b" if share > 0.5 else "#f4f8fc"
        _label(axes, left + size / 2, top + size / 2, f"{written:.{digits}f}", ha="center", color=ink, size=9)


def _ring(axes: Axes, left: float, top: float, size: float) -> None:
    inset = (left + 2, top + 2)
    axes.add_patch(Rectangle(inset, size - 4, size - 4, facecolor="none", edgecolor=SECOND, linewidth=2.2, zorder=3))


def _arrow(axes: Axes, start: Sequence[float], end: Sequence[float]) -> None:
    style = {"arrowstyle": "-|>", "color": QUIET, "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", (end[0], end[1]), (start[0], start[1]), arrowprops=style)


def _label(axes: Axes, x: float, y: float, text: str, **style: Any) -> None:
    axes.text(x, y, text, **{"va": "center", "size": 9.5, **style})
