"""The plot of the results page."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any


def pareto(results: Sequence[Mapping[str, Any]]) -> str:
    """Median cosine against measured cost, mild and harsh cells, as an SVG.

    Of the methods that every cell has: medians over others would be about other problems.
    """
    everywhere = set.intersection(*(set(result["methods"]) for result in results))
    names = [name for name in results[0]["methods"] if name in everywhere]
    width, height, left, top = 860, 460, 60, 40

    def x(cost: float) -> float:
        return left + (cost - 0.5) / 3.0 * (width - left - 110)

    def y(cosine: float) -> float:
        return top + (1.0 - max(0.0, cosine)) * (height - 2 * top)

    marks = [
        f'<line x1="{left}" x2="{width - 20}" y1="{y(v):.0f}" y2="{y(v):.0f}" stroke="#ddd"/>'
        f'<text x="{left - 8}" y="{y(v) + 4:.0f}" text-anchor="end">{v:.1f}</text>'
        for v in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    ]
    marks += [
        f'<text x="{x(v):.0f}" y="{height - 18}" text-anchor="middle">{v:g}×</text>'
        for v in (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5)
    ]
    taken: list[tuple[float, float]] = []
    for harsh, colour in ((False, "#1a7f5a"), (True, "#b3402a")):
        for name in names:
            rows = [r["methods"][name] for r in results
                    if name in r["methods"] and r["harsh"] == harsh]  # fmt: skip
            if not rows:
                continue
            costs = [m["measured"] for m in rows if m["measured"] is not None]
            at = (x(median(costs)), y(median(m["cosine"] or 0 for m in rows)))
            label = at[1] + 4
            while any(abs(at[0] - px) < 90 and abs(label - py) < 12 for px, py in taken):
                label += 12
            taken.append((at[0], label))
            marks.append(
                f'<circle cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="4" fill="{colour}"/>'
                f'<text x="{at[0] + 8:.1f}" y="{label:.1f}" fill="{colour}">{name}</text>'
            )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="11" role="img" '
        'aria-label="Fidelity against cost">'
        f'<rect width="{width}" height="{height}" fill="white"/>'
        f'<text x="{left}" y="20" font-size="14">Median cosine to the exact hypergradient, by '
        "measured cost of a meta-iteration (plain training = 1): "
        '<tspan fill="#1a7f5a">mild</tspan>, <tspan fill="#b3402a">harsh</tspan></text>'
        + "".join(marks)
        + "</svg>\n"
    )
