"""Drawing as SVG that reads on light and on dark ground."""

from __future__ import annotations

import io
import re
from functools import partial
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import quoteattr

from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from empool.lab.analyse.findings import method
from empool.lab.report.table import Sheet

# Colour and marker of each method. Every colour has a contrast of at least 3.4 on white and on near black, for a file
# that is looked at by itself; a page puts its own in their place (`variable`).
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

STYLE = Path(__file__).with_name("plots.mplstyle")


class Plot(NamedTuple):
    """A drawn plot."""

    name: str  # stem of its file, and of its ids in a page
    svg: str
    title: str  # what it shows, in a few words
    caption: str  # how to read it
    sheets: tuple[Sheet, ...]  # its numbers, where no table of the page has them
    wide: bool  # whether it needs the page's whole width

    def _repr_svg_(self) -> str:
        return self.svg

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


def drawn(
    name: str, title: str, caption: str, figure: Figure, sheets: tuple[Sheet, ...] = (), wide: bool = False
) -> Plot:
    """Make a plot of a figure: a small SVG document that says what it is, the same bytes each time."""
    buffer = io.StringIO()
    FigureCanvasSVG(figure)
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = buffer.getvalue().partition("<svg")[2]
    # What changes no pixel: comments, a style sheet for clips, fonts named at each text, ids that nothing refers to,
    # indentation and lines, digits beyond 0.01.
    svg = re.sub(r"<!--.*?-->|<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: [^;]*; ", "", svg)
    svg = re.sub(r' id="[a-zA-Z]+\d*(_\d+)+"|(?<=\n) +| transform="rotate\(-0 [^)]*\)"', "", svg)
    svg = re.sub(r" ?\n(?=[^<])", " ", svg)
    short = partial(re.sub, r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}".rstrip("0").rstrip("."))
    svg = re.sub(r'="[^"]*"', lambda value: short(value[0]), svg)
    fonts = "style=\"font-family: 'DejaVu Sans', Verdana, sans-serif; stroke-linejoin: round; stroke-linecap: butt\""
    return Plot(name, f'<svg role="img" aria-label={quoteattr(title)} {fonts}{svg}', title, caption, sheets, wide)
