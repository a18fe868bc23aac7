"""One hyperparameter as two jobs learned it: each entry is a point."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from drmad_client.plots import palette, panels
from drmad_client.plots.learned_values import Values, entry_label
from drmad_client.plots.panels import Figure
from drmad_client.plots.ranks import rank_correlation
from drmad_client.records.hyperparameters import HyperparameterInfo
from drmad_client.spec.outer.transforms import to_user_units

MAX_POINTS = 4_000


def pairs(
    info: HyperparameterInfo, one: Values, other: Values, titles: Sequence[str] = ("one", "other")
) -> Figure:
    """The values of one job over those of another, in the user's units, and the line of equals.

    Of more than 4,000 entries an even sample is drawn; the rank correlation is that of all.

    Args:
        info: the hyperparameter, which has the same entries in both jobs.
        titles: what the two jobs are called.
    """
    first, second = (
        to_user_units(values.ravel().astype(np.float64), info.transform) for values in (one, other)
    )
    found = rank_correlation(first, second)
    kept = panels.evenly(first.size, MAX_POINTS)
    low = float(min(first.min(), second.min()))
    high = float(max(first.max(), second.max()))
    points = {
        "type": "scatter",
        "mode": "markers",
        "name": "entry",
        "x": [panels.rounded(float(first[index])) for index in kept],
        "y": [panels.rounded(float(second[index])) for index in kept],
        "text": [_escaped(entry_label(info, index)) for index in kept],
        "hovertemplate": "%{text}<br>%{x}<br>%{y}<extra></extra>",
        "marker": {"size": 5, "opacity": 0.55, "color": palette.LIGHT[0]},
    }
    equal = {
        "type": "scatter",
        "mode": "lines",
        "name": "equal values",
        "hoverinfo": "skip",
        "x": [low, high],
        "y": [low, high],
        **palette.stroke(1, width=1.0),
    }
    said = "not known" if found is None else f"{found:.3g}"
    axis = {"type": "log", "nticks": 4} if info.transform == "exp" and low > 0.0 else {}
    scale = ", log scale" if axis else ""
    layout = {
        "showlegend": True,
        "hovermode": "closest",
        "title": {"text": f"{_escaped(info.name)}: rank correlation {said}"},
        "xaxis": {"title": {"text": _escaped(titles[0]) + scale}, **axis},
        "yaxis": {"title": {"text": _escaped(titles[1]) + scale}, **axis},
    }
    return {"data": [points, equal], "layout": layout}


def _escaped(text: str) -> str:
    return panels.plain(text)
