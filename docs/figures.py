"""Draws P(rank) of six poolings for docs/ranks.md, as SVG of 400 by 290 pixels: `python docs/figures.py`."""

from __future__ import annotations

from pathlib import Path

import empool

ACTIVATIONS = 9  # of a 3x3 window
POOLINGS = ("max", "ensemble:0.3", "max-dropout:0.5", "stochastic-max:0.5", "ordinal:0.6,0.3,0.1", "average")
FRAME = """\
<svg xmlns="http://www.w3.org/2000/svg" width="400" height="290" viewBox="0 0 400 290" role="img" \
aria-labelledby="title" font-family="-apple-system,'Segoe UI',Helvetica,Arial,sans-serif" font-size="11">
<title id="title">P(rank) of six poolings, for a window of {activations} activations</title>
<style>
text{{fill:#59636e}}.head{{fill:#1f2328;font-size:12px}}path{{stroke:#8c959f;stroke-opacity:.4}}rect{{fill:#0969da}}
@media(prefers-color-scheme:dark){{text{{fill:#9198a1}}.head{{fill:#e6edf3}}rect{{fill:#58a6ff}}}}
</style>
{parts}
<text x="212" y="285" text-anchor="middle">rank of the activation in its window</text>
</svg>
"""


def ranks() -> str:
    """Draw a panel for each pooling, three in a row."""
    parts = []
    for number, spelling in enumerate(POOLINGS):
        distribution = empool.pooling(spelling)
        assert isinstance(distribution, empool.RankDistribution)
        left, floor = 30 + 126 * (number % 3), 112 + 136 * (number // 3)
        parts.append(f'<text class="head" x="{left}" y="{floor - 94}">{spelling}</text>')
        for share in (0, 0.5, 1):
            parts.append(f'<path d="M{left} {floor - 86 * share:g}h112"/>')
            if number % 3 == 0:
                parts.append(f'<text x="{left - 5}" y="{floor - 86 * share + 4:g}" text-anchor="end">{share:g}</text>')
        for rank, probability in enumerate(distribution.probabilities(ACTIVATIONS)):
            x, height = left + 3 + 12.2 * rank, round(86 * probability, 1)
            parts.append(f'<rect x="{x:.1f}" y="{floor - height:.1f}" width="9" height="{height}"/>')
        for rank in range(1, ACTIVATIONS + 1, 2):
            parts.append(
                f'<text x="{left + 7.5 + 12.2 * (rank - 1):.1f}" y="{floor + 13}" text-anchor="middle">{rank}</text>'
            )
    return FRAME.format(activations=ACTIVATIONS, parts="\n".join(parts))


if __name__ == "__main__":
    (Path(__file__).parent / "images" / "ranks.svg").write_text(ranks(), encoding="utf-8")
