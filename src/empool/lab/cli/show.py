"""Ensemble max-pooling, drawn in the terminal: training and inference on a window of numbers and on an image."""

from __future__ import annotations

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import empool

WINDOW = ((2.0, 9.0), (7.0, 1.0))
DIGIT = 12  # of scikit-learn's digits: a two, whose strokes fill many windows
HIGHEST = 16.0  # of its pixels


def compute(p: float, seed: int) -> tuple[list[float], Tensor, list[Tensor]]:
    """Apply the layers.

    The window's output when its largest is kept, when it is dropped, and at inference; an image (8, 8); and that pooled
    by the maximum, sampled twice, at inference, each (4, 4).
    """
    from sklearn.datasets import load_digits

    image = torch.tensor(load_digits().images[DIGIT], dtype=torch.float32)[None]  # (1, 8, 8)
    kept, dropped, sampled = (empool.EnsembleMaxPool2d(2, p=chance) for chance in (0.0, 1.0, p))
    expected = empool.EnsembleMaxPool2d(2, p=p).eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        outputs = [float(layer(torch.tensor([WINDOW]))) for layer in (kept, dropped, expected)]
        return outputs, image[0], [layer(image)[0] for layer in (kept, sampled, sampled, expected)]


def show(p: float = 0.4, seed: int = 0, console: Console | None = None) -> None:
    """Draw training and inference of ensemble max-pooling, 72 columns wide and readable without colour."""
    (largest, second, expectation), image, pooled = compute(p, seed)
    keep, drop = f"{1 - p:g}", f"{p:g}"
    one, other = f"[bold blue]{largest:g}[/]", f"[bold dark_orange]{second:g}[/]"
    above, beneath = f"{WINDOW[0][0]:g} {one}", f"{other} {WINDOW[1][1]:g}"
    grids = Table.grid(padding=(0, 3))
    grids.add_row("max", "sampled", "sampled again", "inference")
    maximum, *samples, mean = pooled
    grids.add_row(*(_shaded(values, maximum) for values in (maximum, *samples)), _shaded(mean, mean, decimals=1))
    shown = console or Console()
    shown.print(
        f"[bold]Ensemble max-pooling, p = {drop}[/]\n",
        f"training    {above}   with probability 1-p = {keep}: the largest, {one}",
        f"            {beneath}   with probability   p = {drop}: the second largest, {other}\n",
        f"inference   {above}   (1-p) a1 + p a2 = {keep} * {one} + {drop} * {other} = {expectation:g}",
        f"            {beneath}\n",
        "An 8x8 image and its 2x2 windows; *: the second largest was sampled\n",
        sep="\n",
        highlight=False,
    )
    shown.print(_shaded(image, image), "", grids, sep="\n", highlight=False)


def _shaded(values: Tensor, maximum: Tensor, decimals: int = 0) -> str:
    """Write an image as shaded numbers; a star where it differs from the maximum."""

    def cell(value: float, highest: float) -> str:
        shade = round(value / HIGHEST * 255)
        mark, ink = ("*", "bold dark_orange") if value != highest else (" ", "black" if shade > 127 else "white")
        return f"[{ink} on rgb({shade},{shade},{shade})]{value:{4 if decimals else 2}.{decimals}f}{mark}[/]"

    rows = zip(values.tolist(), maximum.tolist(), strict=True)
    return "\n".join("".join(map(cell, *row)) for row in rows)
