"""The parts that a job's figures are made of: lines, plots one below the other, fewer points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

Figure = dict[str, Any]
"""{"data": [traces], "layout": {...}}"""
Row = tuple[str, list[dict[str, Any]], dict[str, Any]]
"""One plot: title of its y axis, traces, the axis' own settings."""

POINTS_OF_A_TRACE = 1_000
POINTS_OF_A_FIGURE = 8_000
_DIGITS = 5
_MOST_TICKS = 7
_TICKS_OF_A_LOG_AXIS = 3  # plotly labels every digit of a decade where more are asked for


def line(
    x: Sequence[float], y: Sequence[float | None], name: str, count: int, **options: Any
) -> dict[str, Any]:
    """One of `count` lines of a figure."""
    xs, ys = reduced(x, y, points_of_each(count))
    trace: dict[str, Any] = {"type": "scatter", "mode": "lines", "name": name}
    if len(xs) == 1:
        trace["mode"] = "markers"  # a line needs two points to be seen
    return trace | {"x": xs, "y": [rounded(value) for value in ys]} | options


def stacked(
    rows: Sequence[Row],
    showlegend: bool,
    x_title: str = "meta-iteration",
) -> Figure:
    """Plots one below the other: title of the y axis, traces, and the axis' own settings."""
    data: list[dict[str, Any]] = []
    layout: dict[str, Any] = {"showlegend": showlegend, "hovermode": "x unified"}
    height = 1.0 / len(rows)
    gap = 0.12 * height if len(rows) > 1 else 0.0
    for number, (title, traces, axis) in enumerate(rows, 1):
        suffix = "" if number == 1 else str(number)
        top = 1.0 - (number - 1) * height
        layout[f"yaxis{suffix}"] = {
            "title": {"text": title},
            "domain": [max(0.0, top - height + gap), top],
            **({"nticks": _TICKS_OF_A_LOG_AXIS} if axis.get("type") == "log" else {}),
            **axis,
        }
        data += [trace | {"xaxis": "x", "yaxis": f"y{suffix}"} for trace in traces]
    last = "" if len(rows) == 1 else str(len(rows))
    layout["xaxis"] = {
        "title": {"text": x_title},
        "anchor": f"y{last}",
        **whole_ticks([x for trace in data for x in trace["x"]]),
    }
    if len(rows) > 2:
        layout["height"] = 180 * len(rows) + 120
    return {"data": data, "layout": layout}


def whole_ticks(x: Sequence[float]) -> dict[str, Any]:
    """Of an axis that counts: plotly would put a tick at 0.5 where there are few."""
    return {"dtick": 1} if x and max(x) - min(x) < _MOST_TICKS else {}


def empty(why: str) -> Figure:
    note = {"text": why, "showarrow": False, "xref": "paper", "yref": "paper", "x": 0.5, "y": 0.5}
    axis = {"visible": False}
    return {"data": [], "layout": {"annotations": [note], "xaxis": axis, "yaxis": axis}}


def reduced(
    x: Sequence[float], y: Sequence[float | None], limit: int = POINTS_OF_A_TRACE
) -> tuple[list[float], list[float | None]]:
    """At most `limit` points (at least 4) of a line, in order: its ends, and of each stretch
    between them the lowest and the highest point, so that no peak is lost."""
    if len(x) <= limit:
        return list(x), list(y)
    values = np.array([math.nan if value is None else value for value in y], dtype=float)
    kept = {0, len(x) - 1}
    for stretch in np.array_split(np.arange(1, len(x) - 1), (limit - 2) // 2):
        part = values[stretch]
        if not np.isnan(part).all():
            kept |= {int(stretch[np.nanargmin(part)]), int(stretch[np.nanargmax(part)])}
    order = sorted(kept)
    return [x[i] for i in order], [y[i] for i in order]


def points_of_each(count: int) -> int:
    return max(20, min(POINTS_OF_A_TRACE, POINTS_OF_A_FIGURE // max(1, count)))


def evenly(length: int, limit: int) -> list[int]:
    """At most `limit` places of a sequence, its ends among them."""
    if length <= limit:
        return list(range(length))
    return sorted({round(place * (length - 1) / (limit - 1)) for place in range(limit)})


def mean(values: Sequence[float]) -> float | None:
    return rounded(math.fsum(values) / len(values))


def rounded(value: float | None) -> float | None:
    """Few digits, for a figure shows no more; None where JSON has no number."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{_DIGITS}g}")
