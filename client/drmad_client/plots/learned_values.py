"""Figures of the tuned values: images, schedules, and the values that changed most."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drmad_client.plots import palette, panels
from drmad_client.plots.panels import Figure, Panel
from drmad_client.records.hyperparameters import HyperparameterGroup, HyperparameterInfo
from drmad_client.spec.capabilities import SCHEDULES
from drmad_client.spec.job import JobSpec
from drmad_client.spec.outer.transforms import to_user_units

Values = NDArray[np.floating[Any]]

_STEPS = re.compile(r"steps \d+ to \d+$")
_MAX_LAYERS = len(palette.LIGHT)


def penalty_image(raw: Values, shape: tuple[int, int]) -> Figure:
    """The penalties of the first layer as an image, each the geometric mean over the outputs.

    Args:
        raw: Log penalties of the first layer, shape (pixels,), or (outputs, pixels) flattened.
        shape: Rows and columns of the image.
    Raises:
        ValueError: The size of `raw` is not a multiple of the number of pixels.
    """
    pixels = shape[0] * shape[1]
    if raw.size == 0 or raw.size % pixels:
        raise ValueError(f"raw must hold whole images of {pixels} pixels, got {raw.size} values")
    image = np.exp(raw.reshape(-1, *shape).mean(axis=0)).tolist()
    scale, ticks = panels.colours(image, is_logarithmic=True)
    trace = {
        "type": "heatmap",
        "z": scale,
        "text": [[panels.short(value) for value in row] for row in image],
        "colorscale": "Viridis",
        "colorbar": {"title": {"text": "penalty"}, **ticks},
        "hovertemplate": "row %{y}, column %{x}<br>penalty %{text}<extra></extra>",
    }
    layout = {
        "xaxis": {"visible": False, "constrain": "domain"},
        "yaxis": {"visible": False, "autorange": "reversed", "scaleanchor": "x"},
    }
    return {"data": [trace], "layout": layout}


def schedules(
    values: Mapping[str, Values],
    initial: Mapping[str, Values] | None = None,
    layers: Mapping[str, Sequence[str]] | None = None,
) -> Figure:
    """Tuned schedules over the inner steps, in the user's units.

    Args:
        values: The tuned values by name, shape (steps,) or (layers, steps); of more layers than
            there are colours, evenly spaced ones are drawn.
        initial: The values before tuning, which are drawn as pale lines behind.
        layers: The names of the layers of each schedule.
    """
    if not values:
        return panels.empty("this job tunes no schedule")
    rows: list[Panel] = []
    for name, value in values.items():
        table = np.atleast_2d(value)
        kept = panels.evenly(len(table), _MAX_LAYERS)
        labels = list((layers or {}).get(name, [])) or [name] * len(table)
        if len(values) > 1:
            labels = [label if label == name else f"{name}, {label}" for label in labels]
        x = list(range(table.shape[1]))
        count = 2 * len(values) * len(kept)
        untuned = (initial or {}).get(name)
        lines = []
        if untuned is not None and untuned.shape == value.shape:
            starts = np.unique(np.atleast_2d(untuned)[kept], axis=0).tolist()
            pale = {
                "opacity": 0.5,
                "line": {"width": 5, "color": "#8a8880"},
                "legendgroup": "untuned",
            }
            lines += [
                panels.line(x, start, "untuned", count, showlegend=number == 0 and not rows, **pale)
                for number, start in enumerate(starts)
            ]
        lines += [
            panels.line(x, table[row].tolist(), labels[row], count, **palette.stroke(series))
            for series, row in enumerate(kept)
        ]
        rows.append((panels.plain(name), lines, {}))
    return panels.stacked(rows, showlegend=True, x_title="inner step")


def movers(
    before: Mapping[str, Values],
    after: Mapping[str, Values],
    infos: Sequence[HyperparameterInfo] = (),
    count: int = 15,
) -> Figure:
    """The hyperparameters that changed most, in raw units, with their values in the user's."""
    moves: list[tuple[float, str, str]] = []
    described = {info.name: info for info in infos}
    for name, start in before.items():
        if name not in after:
            continue
        change = (after[name] - start).ravel()
        size = np.nan_to_num(np.abs(change))
        most = np.argsort(-size, kind="stable")[:count]
        most = most[size[most] > 0.0]
        info = described.get(name)
        transform = info.transform if info else "identity"
        values = [
            to_user_units(side.ravel()[most].astype(float), transform).tolist()
            for side in (start, after[name])
        ]
        for index, was, becomes in zip(most.tolist(), *values, strict=True):
            label = f"{name}[{index}]" if info is None else entry_label(info, index)
            text = f"{panels.short(was)} → {panels.short(becomes)}"
            moves.append((float(change[index]), label, text))
    moves = sorted(moves, key=lambda move: -abs(move[0]))[:count]
    if not moves:
        return panels.empty("no hyperparameter has changed yet")
    trace = {
        "type": "bar",
        "orientation": "h",
        "x": [panels.rounded(change) for change, _, _ in moves],
        "y": [panels.plain(label) for _, label, _ in moves],
        "text": [text for _, _, text in moves],
        "textposition": "inside",
        "insidetextanchor": "middle",
        "marker": {"color": palette.LIGHT[0]},
        "hovertemplate": "%{y}: %{text}, raw change %{x}<extra></extra>",
    }
    layout = {
        "xaxis": {
            "title": {"text": "change of the raw value; the bars tell it in the user's units"}
        },
        "yaxis": {
            "title": {"text": "hyperparameter"},
            "automargin": True,
            "type": "category",
            "dtick": 1,
            # A single bar would fill the chart.
            "range": [max(len(moves), 4) - 0.5, -0.5],
        },
        "showlegend": False,
        "height": 22 * len(moves) + 80,
    }
    return {"data": [trace], "layout": layout}


def entry_label(
    info: HyperparameterInfo, index: int, group: HyperparameterGroup | None = None
) -> str:
    """The full name of an entry: hyperparameter, group, and its step or number in the group.

    `group` is the one of the entry, where the caller knows it.
    """
    if group is None:
        group = next((each for each in info.groups if each.start <= index < each.stop), None)
    if group is None and math.prod(info.shape) == 1:
        return info.name
    if group is None:
        place = np.unravel_index(index, info.shape or (1,))
        return f"{info.name}[{', '.join(str(number) for number in place)}]"
    if info.kind in SCHEDULES and len(info.shape) == 1 and _STEPS.match(group.label):
        return f"{info.name}, step {index}"
    if group.stop - group.start == 1:
        return f"{info.name}, {group.label}"
    if info.kind in SCHEDULES:
        return f"{info.name}, {group.label}, step {index - group.start}"
    return f"{info.name}, {group.label}[{index - group.start}]"


def image_shape(spec: JobSpec) -> tuple[int, int] | None:
    """Rows and columns of an input of the job's data set, if it is a square image."""
    inputs = getattr(getattr(spec.problem, "data", None), "input_shape", None) or ()
    side = math.isqrt(math.prod(inputs))
    return (side, side) if side > 1 and inputs == (side * side,) else None
