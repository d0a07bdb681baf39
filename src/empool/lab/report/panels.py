"""Small multiples: the same plot for each pooling, as one figure and as panels that a page can choose from."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from empool.lab.analyse.findings import label
from empool.lab.report.svg import Drawing, Panel, Plot, render, style
from empool.lab.report.table import Sheet

ACROSS = 4  # panels in a row of the whole figure
PANEL = 2.0, 1.6  # inches
ROOM = 0.17, 0.15, 0.79, 0.81  # left, bottom, width and height of a panel's axes in the panel
FONT = 9  # points: a panel is shown at about its natural size


@dataclass(frozen=True)
class Multiples:
    """What all panels have in common.

    Attributes:
        name: stem of the file.
        title: what is shown, in a few words.
        caption: how to read it.
        x: what the abscissa is.
        y: what the ordinate is.
        draw: draws a pooling's panel, its axes' limits included.
        handles: of the legend.
    """

    name: str
    title: str
    caption: str
    x: str
    y: str
    draw: Callable[[Axes, str], None]
    handles: Sequence[Line2D]


def small_multiples(
    common: Multiples, notes: Mapping[str, str], descriptions: Mapping[str, str], sheets: tuple[Sheet, ...]
) -> Plot:
    """Draw a panel for each pooling.

    Args:
        common: what they have in common.
        notes: by pooling, in the order of the panels: its main numbers, in a few words.
        descriptions: likewise its numbers, in words.
        sheets: all numbers.
    """
    panels = tuple(
        Panel(pooling, note, Drawing(f"{common.name}-{number}", _panel(common, pooling, descriptions[pooling])))
        for number, (pooling, note) in enumerate(notes.items(), start=1)
    )
    whole = _whole(common, list(notes), "; ".join(f"{pooling}: {note}" for pooling, note in notes.items()))
    return Plot(common.name, whole, common.title, common.caption, sheets, panels)


def _panel(common: Multiples, pooling: str, description: str) -> str:
    figure = Figure(figsize=PANEL)
    axes = figure.add_axes(ROOM)
    common.draw(axes, pooling)
    axes.tick_params(labelsize=FONT)
    return render(figure, f"{common.title}: {pooling}", description)


def _whole(common: Multiples, poolings: Sequence[str], description: str) -> str:
    across = min(ACROSS, len(poolings))
    down = math.ceil(len(poolings) / across)
    figure = Figure(figsize=(max(2, across) * PANEL[0], 0.6 + down * (PANEL[1] + 0.1)), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False)
    for position, axes in enumerate(grid.flat):
        if position >= len(poolings):
            axes.set_visible(False)
            continue
        pooling = poolings[position]
        common.draw(axes, pooling)
        axes.set_title(label(pooling), loc="left", color=style(pooling)[0], fontweight="bold")
    figure.supxlabel(common.x, fontsize=8.5)
    figure.supylabel(common.y, fontsize=8.5)
    figure.legend(handles=common.handles, loc="outside upper left", ncols=2 if across < 3 else len(common.handles))
    return render(figure, common.title, description)
