"""The parts of a job's figures: lines with a bounded number of points, and stacked panels."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

Figure = dict[str, Any]
"""{"data": [traces], "layout": {...}}"""
Panel = tuple[str, list[dict[str, Any]], dict[str, Any]]
"""One plot of a figure: the title of its y axis, its traces, the settings of its y axis."""

META_ITERATION = "meta-iteration"

MAX_POINTS_PER_TRACE = 1_000
MAX_POINTS_PER_FIGURE = 8_000
_DIGITS = 5
_MAX_WHOLE_TICKS = 7
_SMALL = 1e-3
"""Below it a logarithmic axis has ticks such as 2e-5; all its ticks have one notation."""
_COLOUR_TICKS = 5
_NOTE_LENGTH = 150


def line(
    x: Sequence[float], y: Sequence[float | None], name: str, count: int, **options: Any
) -> dict[str, Any]:
    """One of `count` lines of a figure, which share its budget of points."""
    xs, ys = reduced(x, y, points_per_line(count))
    trace: dict[str, Any] = {"type": "scatter", "mode": "lines", "name": plain(name)}
    if len(xs) == 1:
        trace["mode"] = "markers"  # a line of one point is invisible
    return trace | {"x": xs, "y": [rounded(value) for value in ys]} | options


def stacked(
    panels: Sequence[Panel],
    showlegend: bool,
    x_title: str = META_ITERATION,
) -> Figure:
    """A figure whose panels lie below each other and share the x axis."""
    data: list[dict[str, Any]] = []
    layout: dict[str, Any] = {"showlegend": showlegend, "hovermode": "x unified"}
    height = 1.0 / len(panels)
    gap = 0.12 * height if len(panels) > 1 else 0.0
    for number, (title, traces, axis) in enumerate(panels, 1):
        suffix = "" if number == 1 else str(number)
        top = 1.0 - (number - 1) * height
        layout[f"yaxis{suffix}"] = {
            "title": {"text": f"{title}, log scale" if axis.get("type") == "log" else title},
            "domain": [max(0.0, top - height + gap), top],
            **axis,
        }
        data += [trace | {"xaxis": "x", "yaxis": f"y{suffix}"} for trace in traces]
    last = "" if len(panels) == 1 else str(len(panels))
    layout["xaxis"] = {
        "title": {"text": x_title},
        "anchor": f"y{last}",
        **whole_ticks([x for trace in data for x in trace["x"]]),
    }
    if len(panels) > 1:
        layout["height"] = 180 * len(panels) + (60 if len(panels) == 2 else 120)
    return {"data": data, "layout": layout}


def heat_maps(
    maps: Mapping[str, tuple[Sequence[str], Sequence[Sequence[float | None]]]],
    x: Sequence[float],
    logarithmic: Collection[str] = (),
) -> Figure:
    """Heat maps below each other, each with the labels of its rows and a colour scale of its own.

    Args:
        maps: by title the labels of the rows, and the rows of values.
        x: numbers of the meta-iterations, one for each column.
        logarithmic: the titles of the maps whose colours show the logarithm of positive values.
    """
    data: list[dict[str, Any]] = []
    layout: dict[str, Any] = {}
    count = sum(len(labels) + 2 for labels, _ in maps.values())
    top = 1.0
    for number, (title, (labels, rows)) in enumerate(maps.items(), 1):
        suffix = "" if number == 1 else str(number)
        bottom = max(0.0, top - (len(labels) + 2) / count)
        domain = [bottom + (0.08 if number < len(maps) else 0.0) * (top - bottom), top]
        share = max(0.1, domain[1] - domain[0])
        most = _COLOUR_TICKS if share > 0.3 else 3 if share > 0.2 else 2
        scale, ticks = colours(rows, title in logarithmic, most)
        data.append(
            {
                "type": "heatmap",
                "x": list(x),
                "y": [plain(label) for label in labels],
                "z": scale,
                "text": [[short(value) for value in row] for row in rows],
                "colorscale": "Viridis",
                # The title of the rows names the values: one beside the colours would cover ticks.
                "colorbar": {"y": sum(domain) / 2, "len": share, "nticks": most, **ticks},
                "hovertemplate": META_ITERATION + " %{x}<br>%{y}<br>%{text}<extra></extra>",
                "xaxis": "x",
                "yaxis": f"y{suffix}",
            }
        )
        layout[f"yaxis{suffix}"] = {
            "title": {"text": plain(title)},
            "domain": domain,
            "autorange": "reversed",
            "automargin": True,
            "type": "category",
        }
        top = bottom
    last = "" if len(maps) == 1 else str(len(maps))
    layout["xaxis"] = {
        "title": {"text": META_ITERATION},
        "anchor": f"y{last}",
        **whole_ticks(x),
    }
    if len(maps) > 1:
        layout["height"] = 200 * len(maps) + 120
    return {"data": data, "layout": layout}


def log_axis(values: Iterable[float | None]) -> dict[str, Any]:
    """The settings of a logarithmic axis for these values.

    The format keeps plotly from labelling 2e-3 as 2; with more ticks it would label every digit of
    a decade.
    """
    lowest = min((value for value in values if value is not None and value > 0.0), default=1.0)
    return {"type": "log", "tickformat": "~e" if lowest < _SMALL else "~g", "nticks": 3}


def colours(
    rows: Sequence[Sequence[float | None]], is_logarithmic: bool, most: int = _COLOUR_TICKS
) -> tuple[list[list[float | None]], dict[str, Any]]:
    """What a heat map colours, and the ticks of its colour bar in the units of the values."""

    def level(value: float | None) -> float | None:
        if value is None or not is_logarithmic:
            return rounded(value)
        return rounded(math.log10(value)) if value > 0.0 else None

    scale = [[level(value) for value in row] for row in rows]
    finite = [value for row in scale for value in row if value is not None]
    if not finite or not is_logarithmic:
        return scale, {}
    low, high = min(finite), max(finite)
    if high - low >= most - 2 and most > 2:
        step = math.ceil((high - low) / most)
        ticks = [float(tick) for tick in range(math.ceil(low), math.floor(high) + 1, step)]
    else:
        count = most if high > low else 1
        ticks = [low + (high - low) * part / max(1, count - 1) for part in range(count)]
    return scale, {"tickvals": ticks, "ticktext": [short(10.0**tick) for tick in ticks]}


def short(value: float | None) -> str:
    """A value to three digits, for a label."""
    return "" if value is None else f"{value:.3g}".replace("e-0", "e-").replace("e+0", "e")


def plain(text: str) -> str:
    """A text of a user as plotly shows it literally; else it interprets some HTML tags."""
    return text.replace("&", "&amp;").replace("<", "&lt;")


def add_note(figure: Figure, text: str) -> None:
    """Add a line below the last axis of a figure."""
    figure["layout"]["annotations"] = [
        {
            "text": plain(text if len(text) <= _NOTE_LENGTH else f"{text[: _NOTE_LENGTH - 1]}…"),
            "showarrow": False,
            "xref": "paper",
            "yref": "paper",
            "x": 0,
            "y": 0,
            "xanchor": "left",
            "yanchor": "top",
            "yshift": -44,
        }
    ]
    figure["layout"]["margin"] = {"b": 72}


def counting(figure: Figure, unit: str) -> Figure:
    """The figure with `unit` in the place of meta-iterations, in its titles and hover texts."""
    if unit == META_ITERATION:
        return figure
    layout = dict(figure["layout"])
    for name, axis in layout.items():
        if name.startswith("xaxis") and axis.get("title") == {"text": META_ITERATION}:
            layout[name] = axis | {"title": {"text": unit}}
    data = [
        trace | {"hovertemplate": trace["hovertemplate"].replace(META_ITERATION, unit)}
        if "hovertemplate" in trace
        else trace
        for trace in figure["data"]
    ]
    return {"data": data, "layout": layout}


def whole_ticks(x: Sequence[float]) -> dict[str, Any]:
    """Settings that keep the ticks of a short counting axis at whole numbers."""
    return {"dtick": 1} if x and max(x) - min(x) < _MAX_WHOLE_TICKS else {}


def empty(message: str) -> Figure:
    """A figure that shows a message in place of data."""
    note = {
        "text": message,
        "showarrow": False,
        "xref": "paper",
        "yref": "paper",
        "x": 0.5,
        "y": 0.5,
    }
    axis = {"visible": False}
    return {"data": [], "layout": {"annotations": [note], "xaxis": axis, "yaxis": axis}}


def reduced(
    x: Sequence[float], y: Sequence[float | None], limit: int = MAX_POINTS_PER_TRACE
) -> tuple[list[float], list[float | None]]:
    """At most `limit` points of a line, in order, for a limit of at least 4.

    The ends are kept, and from each segment between them the lowest and the highest point, so that
    no peak is lost.
    """
    if len(x) <= limit:
        return list(x), list(y)
    values = np.array([math.nan if value is None else value for value in y], dtype=float)
    kept = {0, len(x) - 1}
    for segment in np.array_split(np.arange(1, len(x) - 1), (limit - 2) // 2):
        part = values[segment]
        if not np.isnan(part).all():
            kept |= {int(segment[np.nanargmin(part)]), int(segment[np.nanargmax(part)])}
    order = sorted(kept)
    return [x[i] for i in order], [y[i] for i in order]


def points_per_line(count: int) -> int:
    return max(20, min(MAX_POINTS_PER_TRACE, MAX_POINTS_PER_FIGURE // max(1, count)))


def evenly(length: int, limit: int) -> list[int]:
    """At most `limit` evenly spaced indices of a sequence, including both ends."""
    if length <= limit:
        return list(range(length))
    return sorted({round(index * (length - 1) / (limit - 1)) for index in range(limit)})


def mean(values: Sequence[float]) -> float | None:
    return rounded(math.fsum(values) / len(values))


def rounded(value: float | None) -> float | None:
    """The value with as many digits as a figure shows; None where JSON has no such number."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{_DIGITS}g}")
