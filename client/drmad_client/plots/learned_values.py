"""Figures of the tuned values: images, schedules, and the values that changed most."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drmad_client.plots import panels
from drmad_client.plots.panels import Figure, Panel
from drmad_client.records.hyperparameters import HyperparameterGroup, HyperparameterInfo
from drmad_client.spec.job import JobSpec

Values = NDArray[np.floating[Any]]

_MAX_LAYERS = 20


def penalty_image(raw: Values, shape: tuple[int, int]) -> Figure:
    """The log penalties of the first layer as an image, averaged over the outputs.

    Args:
        raw: Log penalties of the first layer, shape (pixels,), or (outputs, pixels) flattened.
        shape: Rows and columns of the image.
    Raises:
        ValueError: The size of `raw` is not a multiple of the number of pixels.
    """
    pixels = shape[0] * shape[1]
    if raw.size == 0 or raw.size % pixels:
        raise ValueError(f"raw must hold whole images of {pixels} pixels, got {raw.size} values")
    image = raw.reshape(-1, *shape).mean(axis=0)
    trace = {
        "type": "heatmap",
        "z": [[panels.rounded(value) for value in row] for row in image.tolist()],
        "colorscale": "Viridis",
        "colorbar": {"title": {"text": "log penalty"}},
        "hovertemplate": "row %{y}, column %{x}<br>%{z}<extra></extra>",
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
        values: The tuned values by name, shape (steps,) or (layers, steps); the first layers are
            drawn.
        initial: The values before tuning, which are drawn as a dotted line.
        layers: The names of the layers of each schedule.
    """
    if not values:
        return panels.empty("this job tunes no schedule")
    rows: list[Panel] = []
    for name, value in values.items():
        table = np.atleast_2d(value)[:_MAX_LAYERS]
        x = list(range(table.shape[1]))
        count = len(values) * (len(table) + 1)
        labels = (layers or {}).get(name, [])
        lines = [
            panels.line(x, line, labels[number] if number < len(labels) else name, count)
            for number, line in enumerate(table.tolist())
        ]
        before = (initial or {}).get(name)
        if before is not None and before.shape == value.shape:
            start = np.atleast_2d(before).mean(axis=0).tolist()
            lines.append(panels.line(x, start, "before", count, line={"dash": "dot"}, opacity=0.6))
        rows.append((name, lines, {}))
    return panels.stacked(rows, showlegend=True, x_title="inner step")


def movers(
    before: Mapping[str, Values],
    after: Mapping[str, Values],
    infos: Sequence[HyperparameterInfo] = (),
    count: int = 15,
) -> Figure:
    """The hyperparameters that changed most, in raw units."""
    moves: list[tuple[float, str]] = []
    groups = {info.name: info.groups for info in infos}
    for name, start in before.items():
        change = (after[name] - start).ravel() if name in after else np.zeros(0)
        size = np.nan_to_num(np.abs(change))
        most = np.argsort(-size, kind="stable")[:count]
        for index in most[size[most] > 0.0].tolist():
            label = next(
                (_entry(group, index) for group in groups.get(name, ()) if index < group.stop),
                f"{name}[{index}]",
            )
            moves.append((float(change[index]), label))
    moves = sorted(moves, key=lambda move: -abs(move[0]))[:count]
    if not moves:
        return panels.empty("no hyperparameter has changed yet")
    trace = {
        "type": "bar",
        "orientation": "h",
        "x": [panels.rounded(change) for change, _ in moves],
        "y": [label for _, label in moves],
        "hovertemplate": "%{y}: %{x}<extra></extra>",
    }
    layout = {
        "xaxis": {"title": {"text": "change of the raw value"}},
        "yaxis": {"autorange": "reversed", "automargin": True, "type": "category", "dtick": 1},
        "showlegend": False,
    }
    return {"data": [trace], "layout": layout}


def _entry(group: HyperparameterGroup, index: int) -> str:
    """The label of an entry: that of its group, with its number there if the group has several."""
    only = group.stop - group.start == 1
    return group.label if only else f"{group.label}[{index - group.start}]"


def image_shape(spec: JobSpec) -> tuple[int, int] | None:
    """Rows and columns of an input of the job's data set, if it is a square image."""
    inputs = getattr(getattr(spec.problem, "data", None), "input_shape", None) or ()
    side = math.isqrt(math.prod(inputs))
    return (side, side) if side > 1 and inputs == (side * side,) else None
