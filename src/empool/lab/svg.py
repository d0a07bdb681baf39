"""Drawing as SVG that reads on light and on dark ground."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape

from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

# Every colour has a contrast of at least 3.4 on white and on near black; each method has a marker of its own as well.
INK = "#767676"
STYLES = {
    "max": (INK, "s"),
    "average": ("#b566a0", "v"),
    "ensemble": ("#2f7fc1", "o"),
    "max-dropout": ("#d55e00", "^"),
    "stochastic-max": ("#a88200", "P"),
    "stochastic": ("#0b9a74", "D"),
    "ordinal": ("#3a96b0", "X"),
}
OTHER = ("#7d6fd0", "*")

# Text stays text, so that it can be searched, and takes the page's colour. Verdana has the widths of DejaVu Sans, with
# which matplotlib lays out.
FAMILIES = "'DejaVu Sans', Verdana, sans-serif"
SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "empool",
    "font.family": ["DejaVu Sans"],
    "font.size": 8.5,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8.5,
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": INK,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.5,
    "lines.markersize": 4.5,
}


@dataclass(frozen=True)
class Plot:
    """A drawn plot.

    Attributes:
        name: stem of its file.
        title: what it shows, in a few words.
        caption: how to read it.
        description: its numbers in words, for a reader who does not see it.
        svg: the file's content.
    """

    name: str
    title: str
    caption: str
    description: str
    svg: str

    def inline(self) -> str:
        """Return the SVG for a page: its ids prefixed by the plot's name, its ink the page's text colour."""
        svg = re.sub(r'\bid="([^"]+)"', rf'id="{self.name}-\1"', self.svg)
        svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{self.name}-\1)", svg)
        svg = re.sub(r'href="#([^"]+)"', rf'href="#{self.name}-\1"', svg)
        svg = svg.replace(INK, "currentColor")
        return svg[svg.index("<svg") :]


def style(method: str) -> tuple[str, str]:
    """Return the colour and the marker of a method, the part of its spelling before the colon."""
    return STYLES.get(method, OTHER)


def render(figure: Figure, title: str) -> str:
    """Return a figure as an SVG document with a title, the same bytes each time."""
    buffer = io.StringIO()
    FigureCanvasSVG(figure)
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = buffer.getvalue().replace("'DejaVu Sans'", FAMILIES)
    svg = svg[svg.index("<svg") :]
    head = svg.index(">") + 1
    return f"{svg[:head]}\n <title>{escape(title)}</title>{svg[head:]}"
