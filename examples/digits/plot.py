"""The demo's table as a picture: python examples/digits/plot.py demo-output/results.json docs/images/demo.svg

One row a system: its word error rate on the new speakers against that on the speakers of the base.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from demo import BASE_SPEAKERS, SPECIALISTS

WIDTH, ROW, LEFT, TOP, RIGHT = 760, 26, 220, 58, 30
NEW, OLD, GREY = "#c2410c", "#1d4ed8", "#9ca3af"


def draw(rates: dict[str, dict[str, float]]) -> str:
    """The SVG, white background, readable in print."""
    rows = [
        (name, sum(r[s] for s in SPECIALISTS) / len(SPECIALISTS), sum(r[s] for s in BASE_SPEAKERS) / len(BASE_SPEAKERS))
        for name, r in rates.items()
    ]
    top = 10 * (int(max(max(new, old) for _, new, old in rows)) // 10 + 1)
    height = TOP + ROW * len(rows) + 40

    def x(value: float) -> float:
        return LEFT + value / top * (WIDTH - LEFT - RIGHT)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<circle cx="{LEFT}" cy="22" r="6" fill="{NEW}"/><text x="{LEFT + 12}" y="27">new speakers (mean of 3)</text>',
        f'<circle cx="{LEFT + 220}" cy="22" r="6" fill="{OLD}"/>'
        f'<text x="{LEFT + 232}" y="27">speakers of the base (mean of 2)</text>',
    ]
    for tick in range(0, top + 1, 10):
        parts.append(f'<line x1="{x(tick)}" x2="{x(tick)}" y1="{TOP - 14}" y2="{height - 36}" stroke="#e5e7eb"/>')
        parts.append(f'<text x="{x(tick)}" y="{height - 18}" text-anchor="middle" fill="#374151">{tick}</text>')
    parts.append(f'<text x="{LEFT - 10}" y="{height - 18}" text-anchor="end" fill="#374151">word error rate, %</text>')
    for i, (name, new, old) in enumerate(rows):
        y = TOP + ROW * i
        parts.append(f'<text x="{LEFT - 14}" y="{y + 4}" text-anchor="end">{name}</text>')
        parts.append(f'<line x1="{x(old)}" x2="{x(new)}" y1="{y}" y2="{y}" stroke="{GREY}" stroke-width="2"/>')
        parts.append(
            f'<circle cx="{x(old)}" cy="{y}" r="6" fill="{OLD}"/><circle cx="{x(new)}" cy="{y}" r="6" fill="{NEW}"/>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    results = json.loads(Path(sys.argv[1]).read_text())["word_error_rate_percent"]
    target = Path(sys.argv[2])
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(draw(results))
