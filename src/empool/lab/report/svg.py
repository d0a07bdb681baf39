"""Drawing as SVG that reads on light and on dark ground."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import quoteattr

from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from empool.lab.analyse.statistics import method
from empool.lab.report.table import Sheet

# Every colour has a contrast of at least 3.4 on white and on near black, for a file that is looked at by itself; a page
# puts its own in their place (`variable`). Each method has a marker of its own as well.
INK = "#767676"
STYLES = {
    "max": (INK, "s"),
    "average": ("#b566a0", "v"),
    "ensemble": ("#2f7fc1", "o"),
    "max-dropout": ("#d55e00", "^"),
    "stochastic-max": ("#a88200", "P"),
    "stochastic": ("#0b9a74", "D"),
    "ordinal": ("#3a96b0", "X"),
    "other": ("#7d6fd0", "*"),
}

WIDTH = 4.4  # inches of a plot: legible when a phone shrinks it, and not too large where a page has room

# Text stays text, so that it can be searched, and takes the page's colour. Verdana has the widths of DejaVu Sans, with
# which matplotlib lays out.
SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "empool",
    "font.family": ["DejaVu Sans"],
    "font.size": 8.5,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8.5,
    "figure.labelsize": 8.5,
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": INK,
    "grid.alpha": 0.22,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.5,
    "lines.markersize": 4.5,
}


@dataclass(frozen=True)
class Plot:
    """A drawn plot."""

    name: str  # stem of its file, and of its ids in a page
    svg: str
    title: str  # what it shows, in a few words
    caption: str  # how to read it
    sheets: tuple[Sheet, ...] = ()  # its numbers, where no table of the page has them
    wide: bool = False  # whether it needs the page's whole width

    def inline(self) -> str:
        """Return the SVG for a page: its ids prefixed by the plot's name, its colours the page's."""
        svg = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{self.name}-", self.svg)
        for name, (colour, _) in STYLES.items():
            svg = svg.replace(colour, "currentColor" if colour == INK else variable(name))
        return svg


def style(pooling: str) -> tuple[str, str]:
    """Return the colour and the marker of a pooling's method."""
    return STYLES.get(method(pooling), STYLES["other"])


def variable(pooling: str) -> str:
    """Return the colour of a pooling's method as the page's style sheet names it."""
    return f"var(--{method(pooling) if method(pooling) in STYLES else 'other'})"


def render(figure: Figure, title: str, description: str = "") -> str:
    """Return a figure as a small SVG document that says what it is, the same bytes each time."""
    buffer = io.StringIO()
    FigureCanvasSVG(figure)
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    # What changes no pixel: comments, a style sheet for clips, fonts named at each text, ids that nothing refers to,
    # indentation and lines, digits beyond 0.01.
    svg = re.sub(r"<!--.*?-->|<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: [^;]*; ", "", svg)
    svg = re.sub(r' id="[a-zA-Z]+\d*(_\d+)+"|(?<=\n) +| transform="rotate\(-0 [^)]*\)"', "", svg)
    svg = re.sub(r" ?\n(?=[^<])", " ", svg)
    svg = re.sub(r'="[^"]*"', lambda value: re.sub(r"\d+\.\d{3,}", _rounded, value[0]), svg)
    said = quoteattr(f"{title}. {description}" if description else title)
    fonts = "style=\"font-family: 'DejaVu Sans', Verdana, sans-serif; stroke-linejoin: round; stroke-linecap: butt\""
    return svg.replace("<svg", f'<svg role="img" aria-label={said} {fonts}', 1)


def _rounded(number: re.Match[str]) -> str:
    return f"{float(number[0]):.2f}".rstrip("0").rstrip(".")
