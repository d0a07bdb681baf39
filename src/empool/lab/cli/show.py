"""Ensemble max-pooling, drawn in the terminal: training and inference on a window of numbers and on an image."""

from __future__ import annotations

from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

import empool

WINDOW = ((2.0, 9.0), (7.0, 1.0))
DIGIT = 12  # of scikit-learn's digits: a two, whose strokes fill many windows
HIGHEST = 16.0  # of its pixels


class Phases(NamedTuple):
    """What the layers give for one window and one image."""

    p: float
    largest: float  # output for the window when the largest is kept
    second: float  # when it is dropped
    expectation: float  # at inference
    image: Tensor  # (8, 8)
    pooled: list[Tensor]  # by the maximum, sampled twice, at inference; each (4, 4)


def compute(p: float, seed: int) -> Phases:
    """Apply the layers.

    Raises:
        ValueError: if p is outside [0, 1].
    """
    from sklearn.datasets import load_digits

    image = torch.tensor(load_digits().images[DIGIT], dtype=torch.float32)[None]  # (1, 8, 8)
    kept, dropped, sampled = (empool.EnsembleMaxPool2d(2, p=chance) for chance in (0.0, 1.0, p))
    expected = empool.EnsembleMaxPool2d(2, p=p).eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        first, second, mean = (float(layer(torch.tensor([WINDOW]))) for layer in (kept, dropped, expected))
        pooled = [layer(image)[0] for layer in (torch.nn.MaxPool2d(2), sampled, sampled, expected)]
    return Phases(p, first, second, mean, image[0], pooled)


def show(p: float = 0.4, seed: int = 0, console: Console | None = None) -> None:
    """Draw training and inference of ensemble max-pooling, 72 columns wide and readable without colour.

    Args:
        p: probability of dropping the largest activation, in [0, 1].
        seed: of the samples.
        console: where the drawing goes, standard output by default.

    Raises:
        ValueError: if p is outside [0, 1].
    """
    phases = compute(p, seed)
    keep, drop = f"{1 - p:g}", f"{p:g}"
    first, second = f"[bold blue]{phases.largest:g}[/]", f"[bold dark_orange]{phases.second:g}[/]"
    above, beneath = f"{WINDOW[0][0]:g} {first}", f"{second} {WINDOW[1][1]:g}"
    grids = Table.grid(padding=(0, 3))
    grids.add_row("max", "sampled", "sampled again", "inference")
    maximum, *_, mean = phases.pooled
    grids.add_row(*(_shaded(values, maximum) for values in phases.pooled[:3]), _shaded(mean, mean, decimals=1))
    shown = console or Console()
    shown.print(
        f"[bold]Ensemble max-pooling, p = {drop}[/]\n",
        f"training    {above}   with probability 1-p = {keep}: the largest, {first}",
        f"            {beneath}   with probability   p = {drop}: the second largest, {second}\n",
        f"inference   {above}   (1-p) a1 + p a2 = {keep} * {first} + {drop} * {second} = {phases.expectation:g}",
        f"            {beneath}\n",
        "An 8x8 image and its 2x2 windows; *: the second largest was sampled\n",
        sep="\n",
        highlight=False,
    )
    shown.print(_shaded(phases.image, phases.image), "", grids, sep="\n")


def _shaded(values: Tensor, maximum: Tensor, decimals: int = 0) -> Text:
    """Write an image as shaded numbers; a star where it differs from the maximum."""
    text = Text()
    for line, highest in zip(values.tolist(), maximum.tolist(), strict=True):
        for value, reference in zip(line, highest, strict=True):
            shade = round(value / HIGHEST * 255)
            mark, ink = ("*", "bold dark_orange") if value != reference else (" ", "black" if shade > 127 else "white")
            written = f"{value:{4 if decimals else 2}.{decimals}f}{mark}"
            text.append(written, f"{ink} on rgb({shade},{shade},{shade})")
        text.append("\n")
    text.rstrip()
    return text
