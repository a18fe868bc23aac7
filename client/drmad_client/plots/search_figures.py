"""Figures of a search: every trial as a line, and how much each searched scalar matters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drmad_client.plots import palette, panels
from drmad_client.plots.panels import Figure
from drmad_client.plots.ranks import rank_correlation, ranks
from drmad_client.records.search import Trial

MAX_TRIALS = 400
_CLASSES = 4
"""Groups of trials by their loss, each with a colour."""
_FEWEST = 5
"""Trials below which no importance is told."""


def parallel_coordinates(search: Sequence[Trial | Mapping[str, Any]]) -> Figure:
    """A line for each trial over one axis for each searched scalar, the last axis is the loss.

    Colours are quarters of the trials by their loss. Each axis runs from the smallest to the
    largest value that was tried; it is logarithmic where these differ by more than a hundredfold.
    Of more than 400 trials the best are drawn.
    """
    done = sorted(_done(search), key=lambda trial: trial.validation_loss or 0.0)[:MAX_TRIALS]
    if len(done) < 2:
        return panels.empty("lines need two trials with a validation loss")
    axes = {path: [trial.values.get(path) for trial in done] for path in _paths(done)}
    axes["validation loss"] = [trial.validation_loss for trial in done]
    scaled = {path: _scaled(values) for path, values in axes.items()}
    data: list[dict[str, Any]] = []
    for number, part in enumerate(np.array_split(np.arange(len(done)), min(_CLASSES, len(done)))):
        x: list[int | None] = []
        y: list[float | None] = []
        text: list[str] = []
        for index in map(int, part):
            x += [*range(len(axes)), None]
            y += [*(scaled[path][0][index] for path in axes), None]
            shown = [f"{path} = {_text(values[index])}" for path, values in axes.items()]
            text += [f"trial {done[index].number + 1}<br>{'<br>'.join(shown)}"] * (len(axes) + 1)
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": ("lowest losses", "second quarter", "third quarter", "highest losses")[
                    number if len(done) >= _CLASSES else min(3, 3 * number)
                ],
                "x": x,
                "y": y,
                "text": text,
                "hovertemplate": "%{text}<extra></extra>",
                "opacity": 0.9 if number == 0 else 0.45,
                **palette.stroke(number, width=2.0 if number == 0 else 1.0),
            }
        )
    data.reverse()  # the best lie above the others
    notes = [
        {
            "x": place,
            "y": end,
            "text": text,
            "showarrow": False,
            "yshift": -12 if end == 0 else 12,
            "font": {"size": 11},
        }
        for place, path in enumerate(axes)
        for end, text in enumerate(scaled[path][1])
    ]
    layout = {
        "showlegend": True,
        "hovermode": "closest",
        "annotations": notes,
        "xaxis": {
            "title": {"text": "searched scalar, and the loss"},
            "tickvals": list(range(len(axes))),
            "ticktext": [path.rpartition(".")[2] for path in axes],
            "range": [-0.3, len(axes) - 0.7],
        },
        "yaxis": {
            "title": {"text": "lowest to highest value"},
            "showticklabels": False,
            "range": [-0.12, 1.12],
        },
    }
    return {"data": data, "layout": layout}


def importance(search: Sequence[Trial | Mapping[str, Any]]) -> Figure:
    """How much of the order of the losses each searched scalar explains by itself.

    The share of the variance of the ranks of the losses that a parabola in the ranks of the scalar
    explains, less what chance would explain (the adjusted R²); below zero it is none. A parabola
    also finds a best value between the ends. Interactions of several scalars are not told apart.
    """
    done = _done(search)
    if len(done) < _FEWEST:
        return panels.empty(f"the importance needs {_FEWEST} trials with a validation loss")
    losses = ranks(np.array([trial.validation_loss for trial in done], dtype=np.float64))
    found = {
        path: _explained([trial.values.get(path) for trial in done], losses)
        for path in _paths(done)
    }
    order = sorted(found, key=lambda path: found[path][0], reverse=True)
    bars = {
        "type": "bar",
        "orientation": "h",
        "x": [panels.rounded(found[path][0]) for path in order],
        "y": [f"{path}  " for path in order],
        "text": [found[path][1] for path in order],
        "marker": {"color": palette.LIGHT[0]},
        "hoverinfo": "text+x",
    }
    layout = {
        "showlegend": False,
        "xaxis": {
            "title": {"text": "share of the variance of the losses' ranks"},
            "range": [0, 1.05],
        },
        "yaxis": {"automargin": True, "autorange": "reversed"},
    }
    return {"data": [bars], "layout": layout}


def _done(search: Sequence[Trial | Mapping[str, Any]]) -> list[Trial]:
    found = [t if isinstance(t, Trial) else Trial.model_validate(t) for t in search]
    return [trial for trial in found if trial.validation_loss is not None]


def _paths(done: Sequence[Trial]) -> list[str]:
    return list(dict.fromkeys(path for trial in done for path in trial.values))


def _scaled(values: Sequence[Any]) -> tuple[list[float | None], tuple[str, str]]:
    """The values between 0 and 1 on their axis, and the labels of its ends."""
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        names = sorted({_text(value) for value in values})
        steps = max(1, len(names) - 1)
        return [names.index(_text(value)) / steps for value in values], (names[0], names[-1])
    low, high = min(values), max(values)
    is_log = low > 0 and high > 100 * low
    there = [math.log(value) if is_log else float(value) for value in values]
    first, width = min(there), max(there) - min(there)
    return [panels.rounded((each - first) / width if width else 0.5) for each in there], (
        panels.short(low),
        panels.short(high),
    )


def _explained(values: Sequence[Any], losses: NDArray[np.float64]) -> tuple[float, str]:
    """The adjusted share, and in words in which direction the loss falls."""
    is_number = all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in values
    )
    if is_number:
        there = ranks(np.array(values, dtype=np.float64))
        centred = there - there.mean()
        columns = [centred, centred**2]
    else:
        names = sorted({_text(value) for value in values})
        shown = [_text(value) for value in values]
        columns = [np.array([each == name for each in shown], dtype=float) for name in names[1:]]
    design = np.stack([np.ones_like(losses), *columns], axis=1)
    rank = int(np.linalg.matrix_rank(design))
    total = float(((losses - losses.mean()) ** 2).sum())
    left = len(losses) - rank
    if total == 0.0 or left < 1 or rank < 2:
        return 0.0, "no difference"
    fitted = design @ np.linalg.lstsq(design, losses, rcond=None)[0]
    unexplained = float(((losses - fitted) ** 2).sum()) / total
    share = max(0.0, 1.0 - unexplained * (len(losses) - 1) / left)
    if not is_number:
        return share, "choices differ"
    direction = rank_correlation(np.array(values, dtype=np.float64), losses)
    if direction is None or abs(direction) < 0.3:
        return share, "a value between the ends is best" if share > 0.1 else "no clear direction"
    return share, "lower is better" if direction > 0 else "higher is better"


def _text(value: Any) -> str:
    shown = f"{value:.4g}" if isinstance(value, float) else str(value)
    return panels.plain(shown)
