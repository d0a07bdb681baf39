"""Drawing as SVG that reads on light and on dark ground."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape

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
}
OTHER = ("#7d6fd0", "*")

WIDTH = 4.4  # inches of a plot: legible when a phone shrinks it, and not too large where a page has room

# Text stays text, so that it can be searched, and takes the page's colour. Verdana has the widths of DejaVu Sans, with
# which matplotlib lays out.
FAMILIES = "'DejaVu Sans',Verdana,sans-serif"
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
class Drawing:
    """A figure as SVG.

    Attributes:
        name: stem of its file, or of its ids in a page.
        svg: the document.
    """

    name: str
    svg: str

    def inline(self) -> str:
        """Return the SVG for a page: its ids prefixed by the drawing's name, its colours the page's."""
        svg = re.sub(r'\b(id|aria-labelledby|aria-describedby)="([^"]+)"', rf'\1="{self.name}-\2"', self.svg)
        svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{self.name}-\1)", svg)
        svg = re.sub(r'href="#([^"]+)"', rf'href="#{self.name}-\1"', svg)
        for name, (colour, _) in [*STYLES.items(), ("other", OTHER)]:
            if colour != INK:
                svg = svg.replace(colour, variable(name))
        return svg.replace(INK, "currentColor")


@dataclass(frozen=True)
class Panel:
    """The part of a plot that is about one pooling, drawn by itself.

    Attributes:
        pooling: its spelling.
        note: its main numbers, in a few words.
        drawing: what is drawn.
    """

    pooling: str
    note: str
    drawing: Drawing


@dataclass(frozen=True)
class Plot(Drawing):
    """A drawn plot.

    Attributes:
        title: what it shows, in a few words.
        caption: how to read it.
        sheets: its numbers.
        panels: the same plot cut up, for a page that lets a reader choose; empty for a plot that is one whole.
    """

    title: str
    caption: str
    sheets: tuple[Sheet, ...]
    panels: tuple[Panel, ...] = ()


def style(pooling: str) -> tuple[str, str]:
    """Return the colour and the marker of a pooling's method."""
    return STYLES.get(method(pooling), OTHER)


def variable(pooling: str) -> str:
    """Return the colour of a pooling's method as the page's style sheet names it."""
    return f"var(--{method(pooling) if method(pooling) in STYLES else 'other'})"


def render(figure: Figure, title: str, description: str = "") -> str:
    """Return a figure as a small SVG document that says what it is, the same bytes each time."""
    buffer = io.StringIO()
    FigureCanvasSVG(figure)
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = _small(buffer.getvalue())
    says = f'<title id="title">{escape(title)}</title>'
    named = ' role="img" aria-labelledby="title"'
    if description:
        says += f'<desc id="desc">{escape(description)}</desc>'
        named += ' aria-describedby="desc"'
    inherited = f'style="font-family:{FAMILIES};stroke-linejoin:round;stroke-linecap:butt"'
    head = svg.index(">")
    return f"{svg[:head]}{named} {inherited}>{says}{svg[head + 1 :]}\n"


def _small(svg: str) -> str:
    """Drop what changes no pixel: styles that can be inherited, names that nothing refers to, digits beyond 0.01."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<!--.*?-->|<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: [^;]*; ", "", svg)
    svg = re.sub(r' transform="rotate\(-0 [^)]*\)"', "", svg)
    svg = re.sub(r'="[^"]*"', lambda value: re.sub(r"\d+\.\d{3,}", _rounded, value[0]), svg)
    referred = set(re.findall(r'(?:url\(|href=")#([^")]+)', svg))
    svg = re.sub(r' id="([^"]+)"', lambda name: name[0] if name[1] in referred else "", svg)
    svg = re.sub(r'\s*<path d="[^"]*" style="fill: none"/>', "", svg)
    svg = re.sub(r'style="[^"]*"', lambda style: re.sub(r"(?<=[:;]) |stroke-dashoffset: 0; ", "", style[0]), svg)
    svg = _ungrouped(svg)
    svg = re.sub(r">\s+<", ">\n<", svg)
    return re.sub(r" ?\n(?=[^<])", " ", svg).strip()


def _rounded(number: re.Match[str]) -> str:
    return f"{float(number[0]):.2f}".rstrip("0").rstrip(".")


def _ungrouped(svg: str) -> str:
    """Drop the groups that say nothing of what is in them."""
    kept, silent = [], []
    for part in re.split(r"(<g\b[^>]*>|</g>)", re.sub(r"<g\b[^>]*/>", "", svg)):
        if part.startswith("<g"):
            silent.append(part == "<g>")
        if not (part == "<g>" or (part == "</g>" and silent.pop())):
            kept.append(part)
    return "".join(kept)
