"""One figure of the values of a hyperparameter: bars, a heat map or a histogram, by its size."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from drmad_client.plots import palette, panels
from drmad_client.plots.learned_values import Values, entry_label, schedules
from drmad_client.plots.panels import Figure
from drmad_client.records.hyperparameters import HyperparameterInfo
from drmad_client.spec.capabilities import PENALTIES, SCHEDULES
from drmad_client.spec.outer.transforms import to_user_units

MOST_BARS = 60
MOST_WEIGHTS = 12
MOST_CELLS = 20_000
_BINS = 60
_BAR, _BAR_CHART = 20, 240
"""Heights in pixels of a bar with its gap, and of the smallest chart of bars."""


def overview(info: HyperparameterInfo, after: Values, before: Values | None = None) -> Figure:
    """The tuned values in the user's units, with the untuned ones behind.

    Schedules are curves over the inner steps, one for each layer where these have their own.
    Segments with labels, such as layers or sources, are bars in the order of their values; a
    matrix is a heat map; few entries are bars; many are a histogram.

    Args:
        info: name, transform and segments of the hyperparameter.
        after: raw values.
        before: raw values before tuning; None if they are not kept.
    """
    raw = np.asarray(after, dtype=np.float64)
    if has_steps(info):
        return _schedule(info, raw, before)
    if info.groups:
        labels = [group.label for group in info.groups]
        parts = [raw.ravel()[group.start : group.stop] for group in info.groups]
        start = None if before is None else np.asarray(before, dtype=np.float64).ravel()
        untuned = [
            math.nan if start is None else float(start[group.start : group.stop].mean())
            for group in info.groups
        ]
        means = np.array([part.mean() for part in parts])
        of_each = _statistic(info) if any(part.size > 1 for part in parts) else ""
        return _bars(info, labels, means, np.array(untuned), of_each)
    # Of examples the lists beside the figure have the names, and only the distribution is of use.
    if raw.size <= (MOST_WEIGHTS if info.kind == "sample_weight" else MOST_BARS):
        labels = [entry_label(info, index) for index in range(raw.size)]
        start = np.full(raw.size, math.nan) if before is None else np.ravel(before)
        return _bars(info, labels, raw.ravel(), start)
    if raw.ndim == 2 and raw.size <= MOST_CELLS and min(raw.shape) > 1:
        return _matrix(info, raw)
    return _histogram(info, raw.ravel(), None if before is None else np.ravel(before))


def has_steps(info: HyperparameterInfo) -> bool:
    """Whether the hyperparameter has a value for each inner step."""
    return info.kind in SCHEDULES and any(group.stop - group.start > 1 for group in info.groups)


def _schedule(info: HyperparameterInfo, raw: Values, before: Values | None) -> Figure:
    untuned = {} if before is None else {info.name: to_user_units(before, info.transform)}
    by_layer = {info.name: [each.label for each in info.groups]} if len(info.shape) > 1 else {}
    return schedules({info.name: to_user_units(raw, info.transform)}, untuned, by_layer)


def _axis_title(info: HyperparameterInfo) -> str:
    """What the axis of the values shows; most kinds have no unit."""
    name = panels.plain(info.name.replace("_", " "))
    if info.kind == "sample_weight":
        return f"{name}: factor of the loss of its examples"
    if info.kind in PENALTIES:
        return f"{name}: strength of the penalty"
    return name


def _scale(info: HyperparameterInfo) -> str:
    return ", log scale" if info.transform == "exp" else ""


def _statistic(info: HyperparameterInfo) -> str:
    """What the mean of raw values is in the user's units."""
    names = {"exp": "geometric mean", "identity": "mean"}
    return f"<br>{names.get(info.transform, 'value at the mean of the raw values')} of each group"


def _bars(
    info: HyperparameterInfo, labels: list[str], raw: Values, untuned: Values, of_each: str = ""
) -> Figure:
    """One bar for each label; `of_each` names the statistic of the values that it stands for."""
    order = np.argsort(-raw, kind="stable")
    values = to_user_units(raw, info.transform)[order].tolist()
    starts = to_user_units(untuned, info.transform)[order].tolist()
    names = [panels.plain(labels[index]) for index in order.tolist()]
    is_log = info.transform == "exp"
    ends = np.concatenate([raw, untuned])
    middle = float(np.nanmin(ends) + np.nanmax(ends)) / 2
    data: list[dict[str, Any]] = [
        {
            "type": "scatter" if is_log else "bar",
            "name": "tuned",
            "y": names,
            "x": [panels.rounded(value) for value in values],
            "text": [panels.short(value) for value in values],
            "marker": {"color": palette.LIGHT[0], **({"size": 11} if is_log else {})},
            "hovertemplate": "%{y}: %{text}<extra></extra>",
            **({} if is_log else {"orientation": "h"}),
        }
    ]
    if is_log:
        sides = ["left" if value > middle else "right" for value in raw[order]]
        data[0] |= {
            "mode": "markers+text",
            "cliponaxis": False,
            "textposition": [f"middle {side}" for side in sides],  # no text leaves the chart
        }
    if not all(math.isnan(start) for start in starts):
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": "untuned",
                "y": names,
                "x": [panels.rounded(start) for start in starts],
                "marker": {"symbol": "line-ns-open", "size": 14, "color": palette.LIGHT[1]},
                "hovertemplate": "%{y}, untuned: %{x}<extra></extra>",
            }
        )
    axis = panels.log_axis([*values, *starts]) if is_log else {}
    layout = {
        "xaxis": {"title": {"text": _axis_title(info) + of_each + _scale(info)}, **axis},
        "yaxis": {
            "range": [len(labels) - 0.4, -0.6],
            "automargin": True,
            "type": "category",
            "dtick": 1,
        },
        "showlegend": len(data) > 1,
        "height": max(_BAR_CHART, _BAR * len(labels) + 120),
    }
    return {"data": data, "layout": layout}


def _matrix(info: HyperparameterInfo, raw: Values) -> Figure:
    values = to_user_units(raw, info.transform).tolist()
    scale, ticks = panels.colours(values, info.transform == "exp")
    name = panels.plain(info.name)
    trace = {
        "type": "heatmap",
        "z": scale,
        "text": [[panels.short(value) for value in row] for row in values],
        "colorscale": "Viridis",
        "colorbar": {"title": {"text": name}, **ticks},
        "hovertemplate": f"{name}[%{{y}}, %{{x}}]: %{{text}}<extra></extra>",
    }
    layout = {
        "xaxis": {"title": {"text": "column"}},
        "yaxis": {"title": {"text": "row"}, "autorange": "reversed"},
    }
    return {"data": [trace], "layout": layout}


def _histogram(info: HyperparameterInfo, raw: Values, untuned: Values | None) -> Figure:
    is_log = info.transform == "exp"

    def shown(values: Values) -> Values:
        return values / math.log(10.0) if is_log else to_user_units(values, info.transform)

    values = shown(raw)
    values = values[np.isfinite(values)]
    if not values.size:
        return panels.empty("no value is finite")
    start = None if untuned is None else shown(np.asarray(untuned, dtype=np.float64))
    ends = [values.min(), values.max()]
    if start is not None:
        ends += [start.min(), start.max()]
    edges = np.linspace(
        min(ends), max(ends) if max(ends) > min(ends) else min(ends) + 1.0, _BINS + 1
    )
    middle = (edges[:-1] + edges[1:]) / 2
    x = (10.0**middle if is_log else middle).tolist()
    data: list[dict[str, Any]] = [
        {
            "type": "bar",
            "name": "tuned",
            "x": [panels.rounded(place) for place in x],
            "y": np.histogram(values, edges)[0].tolist(),
            "marker": {"color": palette.LIGHT[0]},
        }
    ]
    if start is not None:
        counts = np.histogram(start, edges)[0].tolist()
        if np.ptp(start) == 0:  # one bar would be as high as the number of entries
            place = panels.rounded(float(10.0 ** start[0] if is_log else start[0]))
            most = max(data[0]["y"])
            data.append(
                panels.line([place or 0.0] * 2, [0, most], "untuned", 2, **palette.stroke(1))
            )
        else:
            data.append(panels.line(x, counts, "untuned", 2, **palette.stroke(1, shape="hvh")))
    axis = panels.log_axis(x) if is_log else {}
    layout = {
        "xaxis": {"title": {"text": _axis_title(info) + _scale(info)}, **axis},
        "yaxis": {"title": {"text": "number of entries"}, "rangemode": "tozero"},
        "bargap": 0.05,
        "showlegend": len(data) > 1,
    }
    return {"data": data, "layout": layout}
