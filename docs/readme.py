"""Makes the table and the figure of the README and of docs/results.md from records: `python docs/readme.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from empool.lab.analyse.statistics import Verdict, mean, summarise
from empool.lab.files import put_marked, read_json, write_text

ROOT = Path(__file__).parents[1]
STUDIES = {  # of results/: what is trained, on what; and the pooling
    "airbench/stage2/50000-published": ("airbench, 50,000 images, augmented", "ensemble:0.1"),
    "airbench/stage2/50000-none": ("airbench, 50,000 images", "ensemble:0.1"),
    "airbench/stage2/5000-published": ("airbench, 5,000 images, augmented", "ensemble:0.1"),
    "airbench/stage2/5000-none": ("airbench, 5,000 images", "ensemble:0.5"),
    "table1-cuda": ("plain CNN, 10,000 images", "ensemble:0.5"),
    "table2-cuda": ("residual network, 5,000 images", "ensemble:0.5"),
}
LABELS = {  # in the figure: the words and where they are, from the mark
    "airbench/stage2/50000-published": ("airbench 50,000, augmented", -82, 26, "start"),
    "airbench/stage2/50000-none": ("airbench 50,000 images", -10, -14, "middle"),
    "airbench/stage2/5000-published": ("airbench 5,000, augmented", 10, 22, "start"),
    "airbench/stage2/5000-none": ("airbench 5,000", -10, 16, "end"),
    "table1-cuda": ("plain CNN 10,000", -10, -14, "end"),
    "table2-cuda": ("residual network 5,000", -8, -8, "end"),
}


class Result(NamedTuple):
    """One pooling against max-pooling in one study; all but the names in percent or points."""

    study: str
    pooling: str
    baseline: float
    error: float
    gap: float  # test less training error of max-pooling
    gain: float
    low: float
    high: float
    decided: bool


def result(study: str, pooling: str) -> Result:
    """Compute a result from a study's records."""
    records: list[dict[str, Any]] = read_json(ROOT / "results" / study / "results.json")
    rows = {row.pooling: row for row in summarise(records).rows}
    error, baseline = rows[pooling].error, mean(rows["max"].errors)
    gap = mean([each["test_error"] - each["train_error"] for each in records if each["pooling"] == "max"])
    assert error.interval is not None
    low, high = -error.interval.high, -error.interval.low
    return Result(study, pooling, baseline, mean(rows[pooling].errors), gap, -error.difference, low, high,
                  error.verdict is not Verdict.UNDECIDED)  # fmt: skip


def table(results: list[Result]) -> str:
    """Write a row for each result, as Markdown."""
    lines = [
        "| CIFAR-10, test error | max-pooling | sampling | gain, points [95\u00a0% interval] |",
        "|---|---:|---:|---:|",
    ]
    for each in results:
        gain = f"{each.gain:+.2f} [{each.low:+.2f}, {each.high:+.2f}]"
        gain = f"**{gain}**" if each.decided else gain
        what = STUDIES[each.study][0]
        lines.append(f"| {what} | {each.baseline:.2f}\u00a0% | `{each.pooling}` {each.error:.2f}\u00a0% | {gain} |")
    return "\n".join(lines) + "\n"


def figure(results: list[Result]) -> str:
    """Draw gain against gap, as SVG of 400 by 310 pixels."""

    def x(gap: float) -> float:
        return round(40 + 348 * gap / 38, 1)

    def y(gain: float) -> float:
        return round(213 - 46 * gain, 1)

    def words(text: str, right: float, down: float, anchor: str, kind: str = "") -> str:
        return f'<text{kind} x="{right:.1f}" y="{down:.1f}" text-anchor="{anchor}">{text}</text>'

    parts, quiet = [], ' class="quiet"'
    for tick, name in ((-1, "-1"), (0, "0"), (1, "+1"), (2, "+2"), (3, "+3")):
        parts.append(f'<path class="{"grid" if tick else "zero"}" d="M40 {y(tick)}H388"/>')
        parts.append(words(name, 30, y(tick) + 5, "end", quiet))
    parts += [words(f"{tick}", x(tick), 278, "middle", quiet) for tick in (0, 10, 20, 30)]
    for each in results:
        label, right, down, anchor = LABELS[each.study]
        kind = "yes" if each.decided else "no"
        parts.append(f'<path class="{kind}" d="M{x(each.gap)} {y(each.low)}V{y(each.high)}"/>')
        parts.append(f'<circle class="{kind}" cx="{x(each.gap)}" cy="{y(each.gain)}" r="5"/>')
        parts.append(words(label, x(each.gap) + right, y(each.gain) + down, anchor))
    said = "; ".join(f"{STUDIES[each.study][0]}: {each.gain:+.2f} at {each.gap:.1f}" for each in results)
    return FRAME.format(said=said, parts="\n".join(parts))


FRAME = """\
<svg xmlns="http://www.w3.org/2000/svg" width="400" height="310" viewBox="0 0 400 310" role="img" \
aria-labelledby="title" aria-describedby="desc" font-family="-apple-system,'Segoe UI',Helvetica,Arial,sans-serif" \
font-size="14">
<title id="title">When does it help? Gain over max-pooling, against how much max-pooling overfits</title>
<desc id="desc">{said}</desc>
<style>
text{{fill:#1f2328}}.quiet{{fill:#59636e}}.head{{font-weight:600;font-size:17px}}
path{{stroke-width:1}}.grid{{stroke:#8c959f;stroke-opacity:.3}}.zero{{stroke:#59636e}}
.yes{{stroke:#0969da;stroke-width:2;fill:#0969da}}.no{{stroke:#59636e;stroke-width:2;fill:none}}
@media(prefers-color-scheme:dark){{text{{fill:#e6edf3}}.quiet{{fill:#9198a1}}.zero,.no{{stroke:#9198a1}}\
.yes{{stroke:#58a6ff;fill:#58a6ff}}}}
</style>
<text class="head" x="8" y="24">When does it help?</text>
<text class="quiet" x="8" y="44">gain in points, 95 % intervals; filled: significant</text>
{parts}
<text class="quiet" x="388" y="302" text-anchor="end">how much max-pooling overfits: test minus training error</text>
</svg>
"""

if __name__ == "__main__":
    results = [result(study, pooling) for study, (_, pooling) in STUDIES.items()]
    for page in ("README.md", "docs/results.md"):
        put_marked(ROOT / page, "readme:studies", table(results))
    write_text(ROOT / "docs" / "images" / "helps.svg", figure(results))
